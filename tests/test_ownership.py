"""A run's folder belongs to one process at a time."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.fabric.utilities.rank_zero import rank_zero_only

from datamodules.errors import InputError
from experiments import ownership
from experiments.__main__ import main
from experiments.ownership import LOCK, take

HOLD = """
import sys, time
from experiments.ownership import take
take(sys.argv[1])
print("has it", flush=True)
time.sleep(99)
"""


@pytest.fixture
def other(tmp_path):
    """Another process, which has the folder ``run``."""
    environment = {**os.environ, "SLURM_JOB_ID": "4711", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == "has it\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_in_which_another_trains_is_refused_until_that_is_dead(tmp_path, other, capsys):
    run = tmp_path / "run"
    told = rf"run: another process trains in it \(process {other.pid} on .+, job 4711\); end that one first"
    for _ in range(2):  # to be refused takes nothing away
        with pytest.raises(InputError, match=told):
            take(run)
    words = "fit -c lm -c size/nano -c conditioning/bytes -c cluster/cpu --data.init_args.store nowhere --run"
    with pytest.raises(SystemExit) as stop:
        main([*words.split(), str(run)])
    assert stop.value.code == 2
    assert "another process trains in it" in capsys.readouterr().err
    other.kill()  # no chance to tidy up
    other.wait()
    take(run)
    take(run)  # it is ours
    assert str(os.getpid()) in (run / LOCK).read_text()


def test_a_process_has_one_folder_and_only_the_first_of_a_run(tmp_path, monkeypatch):
    take(tmp_path / "one")
    first = ownership._held[0]
    take(tmp_path / "two")
    assert ownership._held[0] is not first
    with monkeypatch.context() as patch:
        patch.setattr(rank_zero_only, "rank", 1)
        take(tmp_path / "three")
    monkeypatch.setenv("NODE_RANK", "1")
    take(tmp_path / "three")
    assert not (tmp_path / "three").exists()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def none(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    take(tmp_path / "run")
    assert "has no locks (No locks available): start no second job" in capsys.readouterr().out
