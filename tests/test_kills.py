"""The kill table, and the check of the log that it rests on."""

from types import SimpleNamespace

import pytest
import torch

from datamodules.errors import InputError
from experiments.benchmarks.sample_log import SampleLog, log_faults
from lightning_modules.whole_checkpoints import WholeCheckpoints

WHOLE = "1 0 1\n2 2 3\n3 4 5\n4 6 7\n"


def test_a_log_in_which_steps_are_made_again_alike_is_exact():
    assert log_faults(WHOLE, WHOLE) == []
    assert log_faults("1 0 1\n2 2 3\n3 4 5\n2 2 3\n3 4 5\n4 6 7\n", WHOLE) == []


@pytest.mark.parametrize(
    ("log", "fault"),
    [
        ("1 0 1\n2 2 3\n4 6 7\n", "step 3 is missing"),
        ("1 0 1\n2 2 3\n4 6 7\n3 4 5\n4 6 7\n", "step 3 to 3 left out before step 4"),
        ("1 0 1\n2 2 3\n3 4 5\n2 4 5\n3 4 5\n4 6 7\n", "step 2 saw [4, 5], not [2, 3]"),
        ("1 0 1\n2 2 3\n3 4 5\n4 6 7\n5 8 9\n", "step 5 is none of the undisturbed run"),
        ("1 0 1\n2 2 3\n3 4 5\n4 6", "step 4 is missing"),  # cut short: it does not count
        ("1 0 1\n2 2 3\n3 4 5\n4 6 7", "step 4 is missing"),
    ],
)
def test_a_fault_in_a_log_is_found(log, fault):
    assert fault in log_faults(log, WHOLE)


def test_the_log_goes_on_behind_its_last_whole_line(tmp_path):
    path = tmp_path / "samples.log"
    path.write_text("1 0 1\n2 2 3\n3 4")
    log = SampleLog(str(path))
    log.on_train_start(None, None)
    for micro, number in enumerate([4, 5, 6]):  # the third begins a step that is never finished
        trainer = SimpleNamespace(global_step=3, accumulate_grad_batches=2)
        log.on_train_batch_end(trainer, None, None, SimpleNamespace(numbers=torch.tensor([number])), 4 + micro)
    assert path.read_text() == "1 0 1\n2 2 3\n3 4 5\n"


def test_a_save_that_breaks_off_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    path, save = tmp_path / "run" / "last.ckpt", torch.save
    checkpoints = WholeCheckpoints()
    checkpoints.save_checkpoint({"step": 1}, path)

    def half(checkpoint, file):
        file.write(b"half of it")
        raise OSError("killed")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="killed"):
        checkpoints.save_checkpoint({"step": 2}, path)
    assert checkpoints.load_checkpoint(path) == {"step": 1}
    monkeypatch.setattr(torch, "save", save)
    checkpoints.save_checkpoint({"step": 3}, path)
    assert checkpoints.load_checkpoint(path) == {"step": 3}
    assert [one.name for one in path.parent.iterdir()] == ["last.ckpt"]


def test_a_folder_in_use_is_refused(tmp_path):
    from experiments.benchmarks.kills import kill_table

    (tmp_path / "x").touch()
    with pytest.raises(InputError, match="not empty"):
        kill_table(tmp_path, 1, 0)


@pytest.mark.slow
def test_nothing_is_lost_to_a_kill(tmp_path, capsys):
    from experiments.benchmarks.kills import kill_table

    rows = kill_table(tmp_path / "kills", 1, 0)
    assert [row["what"] for row in rows] == ["ingest", "tokens", "training", "generation"]
    assert all((row["lost"], row["half_written"], row["identical"]) == (0, 0, True) for row in rows)
    assert all(row["done_before"] > 0 for row in rows)
    assert capsys.readouterr().out.endswith("4 kills, 4 exact\n")
