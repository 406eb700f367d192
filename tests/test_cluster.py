"""Jobs of SLURM and torchrun, with fakes of both: what is submitted, and how a run goes on by itself."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from lightning.pytorch import Callback

from datamodules.errors import InputError
from experiments.__main__ import main
from experiments.benchmarks.sample_log import logged_steps
from experiments.callbacks.guards import QUEUE_AGAIN
from experiments.cluster import launch
from experiments.cluster.site import Site, read_site
from experiments.cluster.slurm import job
from experiments.cluster.torchrun import torchrun
from lightning_modules.codec.folder import save_codec

IN_A_JOB = {
    "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "mgl-run", "MASTER_ADDR": "127.0.0.1",
}  # fmt: skip
SMALL = {
    "model": {"init_args": {"lm": {"dim": 16, "layers": 1, "heads": 2}}},
    "data": {"init_args": {"seconds": 0.5, "valid_items": 2, "workers": 0, "batch_size": 1}},
    "trainer": {
        "accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": "32-true", "max_steps": 5,
        "num_sanity_val_steps": 0, "accumulate_grad_batches": 2,
    },
    "checkpoint": {"every_n_train_steps": 2},
}  # fmt: skip


class SignalAt(Callback):
    """Sends a signal to its own process in the middle of a step, once."""

    def __init__(self, step: int, number: int, sent: str) -> None:
        self.step, self.number, self.sent = step, number, sent

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == self.step and not Path(self.sent).exists():
            Path(self.sent).touch()
            os.kill(os.getpid(), self.number)


class KillOne(Callback):
    """Kills the second process before the fourth step, the first time that it comes there."""

    def on_before_backward(self, trainer, pl_module, loss):
        sent = Path("killed.sent")
        if (trainer.global_step, trainer.global_rank) == (3, 1) and not sent.exists():
            sent.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with tokens, their codec, settings of a small run, and a site."""
    monkeypatch.chdir(tmp_path)
    for name in IN_A_JOB:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    folder = tiny.write_store(tmp_path / "tokens", frame_rate=100.0)
    save_codec(tmp_path / "codec", made := tiny.codec(codebooks=2, entries=8))
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "codec": made.checksum}))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    (tmp_path / "site.yaml").write_text(
        "{gpus_per_node: 4, gpu: h100, account: music, partition: gpu, modules: [cuda, apptainer], "
        "container: apptainer exec --nv image.sif, options: [--qos=long], lines: [export HF_HUB_OFFLINE=1]}"
    )
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield tmp_path
    for one, handler in handlers.items():
        signal.signal(one, handler)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A PATH of which programs can be faked by a line of shell each."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def fake(name, line):
        (folder / name).write_text(f"#!/bin/bash\n{line}\n")
        (folder / name).chmod(stat.S_IRWXU)

    return fake


def train(*words, **options):
    given = {"size": "nano", "data": "tokens", "codec": "codec", "text": "bytes", "run": "run", **options}
    flags = [f"--{name}={value}" for name, value in given.items()]
    return ["train", *flags, *words]


def end(arguments):
    """The code that the process would end with."""
    try:
        main(arguments)
    except SystemExit as stop:
        return stop.code or 0
    return 0


# ---- submission -----------------------------------------------------------------------------------------------------
def test_a_job_is_submitted(place, path, capsys):
    path("sbatch", 'echo "$@" > called; echo 4711')
    assert end(train(cluster="slurm", nodes=2)) == 0
    said = {line[:14].strip(): line[14:] for line in capsys.readouterr().out.splitlines()}
    assert said["job"] == "4711"
    assert said["log"] == f"{place}/run/slurm-4711.log"
    assert said["run"] == f"{place}/run"
    assert said["devices"].startswith("4 x H100 on 2 nodes")
    assert (place / "called").read_text() == f"--parsable {place}/run/job.sbatch\n"
    script = (place / "run" / "job.sbatch").read_text()
    options = {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert options >= {
        "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=8", "--time=24:00:00", "--requeue",
        "--signal=USR1@180", "--open-mode=append", f"--output={place}/run/slurm-%j.log", f"--chdir={place}",
        "--account=music", "--partition=gpu", "--qos=long",
    }  # fmt: skip
    assert "module load cuda apptainer\nexport HF_HUB_OFFLINE=1\n" in script
    assert "apptainer exec --nv image.sif python -m experiments train --size=nano" in script
    assert "--cluster=slurm" in script
    assert "--run=run --nodes=2" in script


def test_dry_prints_the_file_and_makes_nothing(place, path, capsys):
    path("sbatch", "touch called")
    assert end(train("--args=--trainer.devices 2 --trainer.max_steps 7", cluster="slurm", dry="true")) == 0
    out = capsys.readouterr().out
    assert "#SBATCH --ntasks-per-node=2\n" in out
    assert "'--args=--trainer.devices 2 --trainer.max_steps 7'" in out
    assert not (place / "run").exists()
    assert not (place / "called").exists()


@pytest.mark.parametrize(
    ("site", "wrong"),
    [
        ("", "has no gpus_per_node"),
        ("gpus_per_node: many", "gpus_per_node is 'many'; give a whole number"),
        ("{gpus_per_node: 4, time: 30}", "time is 30; give a text in quotes"),
        ("{gpus_per_node: 4, modules: cuda}", "modules is 'cuda'; give a list of texts"),
        ("{gpus_per_node: 4, queue: x}", "there is no setting 'queue'; the settings are gpus_per_node"),
        ("{gpus_per_node: 0}", "must be at least 1"),
        ("{gpus_per_node: 4, gpu: abacus}", "there is no GPU 'abacus'"),
        ("{gpus_per_node", "not a YAML file"),
    ],
)
def test_a_site_that_makes_no_sense(tmp_path, site, wrong):
    (tmp_path / "site.yaml").write_text(site)
    with pytest.raises(InputError, match=wrong):
        read_site((tmp_path,))


def test_what_cannot_be_launched_is_one_line(place, path, capsys):
    path("sbatch", "echo 'invalid account' >&2; exit 1")
    cases = {
        ("slurm", 2, "sbatch refused"): (),
        ("slurm", 0, "nodes is 0"): (),
        ("gpus", 2, "2 nodes want a launcher"): (),
        ("torchrun", 2, "give MASTER_ADDR"): ("--args=-c small.yaml",),
        ("slurm", 1, "asks for 8 GPUs, and this machine has 4"): ("--args=--trainer.devices 8",),
    }
    for (cluster, nodes, wrong), more in cases.items():
        assert end(train(*more, cluster=cluster, nodes=nodes)) == 2, wrong
        said = capsys.readouterr().err
        assert wrong in said
        assert said.count("\n") == 1, said
    (place / "bin" / "sbatch").unlink()
    assert end(train(cluster="slurm")) == 2
    assert "there is no sbatch on this machine" in capsys.readouterr().err
    (place / "site.yaml").unlink()
    assert end(train(cluster="slurm")) == 2
    assert "write site.yaml here" in capsys.readouterr().err


def test_a_kind_of_gpu_is_found_by_its_key():
    for kind in ("h100", "a100-40", "rtx4090", "b200"):
        assert Site(8, kind).here.memory
    assert Site(8).here.memory is None


# ---- the script -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("srun", "scontrol", "code", "requeued"),
    [
        ("touch run/queue-again", "echo $@ > requeued", 0, "requeue 77\n"),  # time was up
        ("exit 0", "echo $@ > requeued", 0, None),  # it came to its end
        ("exit 143", "echo $@ > requeued", 143, None),  # told to end
        ("touch run/queue-again", None, 1, None),  # no scontrol, not even here
    ],
)
def test_the_script_queues_the_job_again(place, path, srun, scontrol, code, requeued):
    path("srun", srun)
    if scontrol:
        path("scontrol", scontrol)
    (place / "run").mkdir()
    (place / "job").write_text(job(Site(1), "run", 1, ["train"]))
    done = subprocess.run(
        ["bash", "job"], capture_output=True, text=True, env={**os.environ, "SLURM_JOB_ID": "77"}, check=False
    )
    assert done.returncode == code
    assert not (place / "run" / QUEUE_AGAIN).exists()
    assert ((place / "requeued").read_text() if (place / "requeued").exists() else None) == requeued
    assert (f"go on with: sbatch {place}/run/job.sbatch" in done.stderr) == (scontrol is None)


# ---- in a job -------------------------------------------------------------------------------------------------------
def in_a_job(run, number=None, step=2):
    words = ["-c", "small.yaml"]
    if number is not None:
        given = {"step": step, "number": int(number), "sent": f"{run}.sent"}
        words += ["--trainer.callbacks+=test_cluster.SignalAt"]
        words += [f"--trainer.callbacks.{name}={value}" for name, value in given.items()]
    return end(train(f"--args={' '.join(words)}", cluster="slurm", run=run))


def test_a_job_goes_on_by_itself_bit_for_bit(place, path, monkeypatch, capsys):
    # As in a container: neither sbatch nor scontrol.
    for name, value in IN_A_JOB.items():
        monkeypatch.setenv(name, value)
    assert in_a_job("whole") == 0
    weights = (place / "whole" / "model" / "model.safetensors").read_bytes()
    capsys.readouterr()
    for number, code in ((signal.SIGUSR1, 0), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        run = number.name.lower()
        assert in_a_job(run, number) == code
        said = capsys.readouterr()
        assert "interrupted: step 3 is saved" in said.out
        assert (place / run / QUEUE_AGAIN).exists() == (number == signal.SIGUSR1)
        assert not (place / run / "model").exists()
        assert in_a_job(run, number) == 0
        assert f"goes on from {run}/checkpoints/last.ckpt" in capsys.readouterr().out
        assert not (place / run / QUEUE_AGAIN).exists()
        assert (place / run / "model" / "model.safetensors").read_bytes() == weights
        # All but the newest are gone.
        assert len(list((place / run / "checkpoints").iterdir())) <= 2
    assert in_a_job("whole") == 2
    assert "this run came to its end" in capsys.readouterr().err


def test_a_folder_of_another_run_is_refused(place, capsys, monkeypatch):
    for name, value in IN_A_JOB.items():
        monkeypatch.setenv(name, value)
    assert in_a_job("run", signal.SIGTERM) == 143
    capsys.readouterr()
    assert end(train("--args=-c small.yaml --model.init_args.lm.dim 32", cluster="slurm")) == 2
    said = capsys.readouterr().err
    assert "run: is the folder of another run: model.init_args.lm.dim is 16 there and 32 here" in said
    assert end(train("--args=-c small.yaml", cluster="slurm", seed=1)) == 2
    assert "init_args.seed is 0 there and 1 here" in capsys.readouterr().err
    # Another optimiser is the user's to choose, and wins over what a checkpoint says of itself.
    checkpoint = place / "run" / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    torch.save({**saved, "hyper_parameters": {"init_args": {"optim": {"lr": 9.0}}}}, checkpoint)
    assert end(train("--args=-c small.yaml --model.init_args.optim.lr 0.5", cluster="slurm")) == 0
    assert yaml.safe_load((place / "run" / "config.yaml").read_text())["model"]["init_args"]["optim"]["lr"] == 0.5
    other = train("--args=-c small.yaml --model.init_args.lm.dim 32 --ckpt_path " + str(checkpoint), run="other")
    assert end(other) == 2
    said = capsys.readouterr().err
    assert "a checkpoint of another architecture: model.init_args.lm.dim is 16 there and 32 here" in said
    checkpoint.rename(place / "alone.ckpt")
    assert end([*other[:-1], other[-1].replace(str(checkpoint), "alone.ckpt")]) == 2
    assert "there and 32" in capsys.readouterr().err


# ---- torchrun -------------------------------------------------------------------------------------------------------
def test_torchrun_is_started_with_a_process_a_device(place, capsys, monkeypatch):
    started = []
    monkeypatch.setattr(launch.os, "execve", lambda *given: started.append(given))
    given = train("--args=-c small.yaml --trainer.devices 2 --trainer.strategy ddp", cluster="torchrun")
    assert end([*given, "--dry=true"]) == 0
    assert "torch.distributed.run --nproc-per-node=2 --max-restarts=3 --standalone" in capsys.readouterr().out
    assert not started
    assert end(given) == 0
    ((program, words, environment),) = started
    assert environment == {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    assert (program, words[:3]) == (sys.executable, [sys.executable, "-m", "torch.distributed.run"])
    assert words[words.index("experiments") + 1] == "train"
    assert "--run=run" in words


def test_nodes_meet():
    words = torchrun(["train"], 8, 2, {"MASTER_ADDR": "node1"})
    assert "--rdzv-endpoint=node1:29400" in words
    assert "--nnodes=2" in words


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_the_run_is_the_same(place):
    """Two processes under torchrun, of which one is killed in the middle of a step: node loss, kill -9."""
    shared = {**SMALL["trainer"], "devices": 2, "strategy": "ddp", "accumulate_grad_batches": 1}
    (place / "small.yaml").write_text(yaml.safe_dump({**SMALL, "trainer": shared}))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parent}",
    }
    said = {}
    for run, more in (("whole", ""), ("killed", " --trainer.callbacks+=test_cluster.KillOne")):
        given = train(f"--args=-c small.yaml{more}", cluster="torchrun", run=run)
        done = subprocess.run(
            [sys.executable, "-m", "experiments", *given], env=environment, capture_output=True, text=True, timeout=500,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        said[run] = done.stdout
    assert "goes on from killed/checkpoints/last.ckpt" in said["killed"]
    assert "goes on from" not in said["whole"]
    whole, killed = ((place / run / "model" / "model.safetensors").read_bytes() for run in ("whole", "killed"))
    assert whole == killed


@pytest.mark.slow
def test_one_process_resumes_what_two_began(place, capsys):
    shared = {**SMALL["trainer"], "devices": 2, "strategy": "ddp"}
    (place / "small.yaml").write_text(yaml.safe_dump({**SMALL, "trainer": shared}))
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parent}"}
    words = ["-c small.yaml", "--trainer.callbacks+=test_cluster.SignalAt", "--trainer.callbacks.step=2"]
    words += [f"--trainer.callbacks.number={int(signal.SIGUSR1)}", "--trainer.callbacks.sent=sent"]
    words += ["--trainer.callbacks+=experiments.benchmarks.sample_log.SampleLog"]
    words += ["--trainer.callbacks.path=samples.log"]
    given = train(f"--args={' '.join(words)}", cluster="torchrun")
    command = [sys.executable, "-m", "experiments", *given]
    begun = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    assert end(["resume", "--run=run", "--args=--trainer.devices 1 --trainer.strategy auto"]) == 0
    assert "batch: 4 = 1 device x 1 x 4 micro-batches, before 4 = 2 devices x 1 x 2" in capsys.readouterr().out
    found = {}
    for name in ("samples.log", "samples.1.log"):
        for step, made in logged_steps((place / name).read_text()):
            found.setdefault(step, []).extend(map(int, made.partition(" |")[0].split()))
    assert {step: sorted(numbers) for step, numbers in found.items()} == {
        step: list(range(4 * step - 4, 4 * step)) for step in range(1, 6)
    }
