"""The kill table, and the check of the log that it rests on."""

from types import SimpleNamespace

import pytest
import torch

from datamodules.errors import InputError
from experiments.benchmarks.sample_log import SampleLog, log_faults
from lightning_modules.whole_checkpoints import WholeCheckpoints

WHOLE = "1 0 1 | 0x1p+1\n2 2 3 | 0x1p+0\n3 4 5 | 0x1p-1\n4 6 7 | 0x1p-2\n"
ONE, TWO, THREE, FOUR = WHOLE.splitlines(keepends=True)


def test_a_log_in_which_steps_are_made_again_alike_is_exact():
    assert log_faults(WHOLE, WHOLE) == []
    assert log_faults(ONE + TWO + THREE + TWO + THREE + FOUR, WHOLE) == []


@pytest.mark.parametrize(
    ("log", "fault"),
    [
        (ONE + TWO + FOUR, "step 3 is missing"),
        (ONE + TWO + FOUR + THREE + FOUR, "step 3 to 3 left out before step 4"),
        (ONE + TWO + THREE + "2 4 5 | 0x1p+0\n" + THREE + FOUR, "step 2 is 4 5 | 0x1p+0, not 2 3 | 0x1p+0"),
        (
            ONE + "2 2 3 | 0x1.0000000000001p+0\n" + THREE + FOUR,
            "step 2 is 2 3 | 0x1.0000000000001p+0, not 2 3 | 0x1p+0",
        ),
        (WHOLE + "5 8 9 | 0x1p-3\n", "step 5 is none of the undisturbed run"),
        (ONE + TWO + THREE + "4 6", "step 4 is missing"),  # cut short: it does not count
        (WHOLE[:-1], "step 4 is missing"),
    ],
)
def test_a_fault_in_a_log_is_found(log, fault):
    assert fault in log_faults(log, WHOLE)


@pytest.mark.parametrize(("rank", "name"), [(0, "samples.log"), (1, "samples.1.log")])
def test_the_log_goes_on_behind_its_last_whole_line(tmp_path, rank, name):
    path = tmp_path / name
    path.write_text(ONE + TWO + "3 4")
    log = SampleLog(str(tmp_path / "samples.log"))
    told = []
    strategy = SimpleNamespace(barrier=lambda: told.append(path.read_text()))
    trainer = SimpleNamespace(global_step=3, accumulate_grad_batches=2, global_rank=rank, strategy=strategy)
    log.on_train_start(trainer, None)
    for micro, number in enumerate([4, 5, 6]):  # the third begins a step that is never finished
        batch = SimpleNamespace(numbers=torch.tensor([number]))
        log.on_train_batch_end(trainer, None, {"loss": torch.tensor(0.5)}, batch, 4 + micro)
    wanted = ONE + TWO + "3 4 5 | 0x1.0000000000000p-1 0x1.0000000000000p-1\n"
    assert path.read_text() == wanted
    assert told == [wanted]  # processes wait for each other once the step is put down
    assert [one.name for one in tmp_path.iterdir()] == [name]


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
    assert [row["what"] for row in rows] == [
        "ingest", "tokens", "training", "training", "torchrun", "torchrun", "generation",
    ]  # fmt: skip
    assert all((row["lost"], row["half_written"], row["identical"]) == (0, 0, True) for row in rows)
    assert all(row["done_before"] > 0 for row in rows)
    assert capsys.readouterr().out.endswith("7 kills, 7 exact\n")
