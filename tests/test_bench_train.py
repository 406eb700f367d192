"""What ``mgl bench train`` measures is so: both sides learn the same, the floor has every product, nothing is lost."""

import json

import pytest
import torch

from datamodules.errors import InputError
from experiments.benchmarks import train, train_gpu, train_step
from experiments.benchmarks.decode import peer_of
from experiments.benchmarks.measuring import Row
from experiments.benchmarks.precision import differences, precision
from experiments.benchmarks.train_runs import rate
from experiments.benchmarks.train_step import Measured, Step, ways
from experiments.commands.bench import bench
from experiments.flops import sequence_steps, training_flops
from lightning_modules.lm.model import LanguageModelConfig

SHAPE = LanguageModelConfig(dim=32, layers=2, heads=2, entries=64)
CPU = torch.device("cpu")


def _quiet(_):
    pass


def test_both_sides_learn_the_same():
    lm, material = train.built(SHAPE), train.material_of(SHAPE, 40)
    peer = peer_of(lm).train()
    loss, heads, block = train.parity_rows(lm, peer, material)
    assert loss.ours == pytest.approx(loss.peer, abs=2e-4)
    assert heads.ours < 0.02
    assert block.ours < 0.02
    lm.zero_grad()
    peer.zero_grad()
    with torch.no_grad():
        lm.transformer.blocks[1].ff_out.weight.mul_(1.5)
    _, heads, block = train.parity_rows(lm, peer, material)
    assert min(heads.ours, block.ours) > 0.02


def test_the_floor_has_every_product_of_a_step():
    config, frames = LanguageModelConfig(), 1500
    listed = sum(rows * width * out * count for rows, width, out, count in train.products(config, 1500))
    assert sequence_steps(config, frames) == 1500
    counted = training_flops(config, {"text": 768}, {"text": 64}, crops=1, frames=frames)
    assert 6 * listed == counted.weights


@pytest.mark.parametrize(("norm", "clipped"), [(0.5, 0.5), (3.0, 1.0)])
def test_micro_batches_add_up_to_a_step_and_are_clipped(norm, clipped):
    work = next(work for work in ways("nano", CPU, quick=True) if work.deal.batch == 2)  # 2 x 2 crops
    step = Step(train_step.replace(work, compiled=False), CPU)
    first, asked, seen = step.parameters[0], [], []

    def loss():
        asked.append(1)
        return norm * first.numel() ** -0.5 * first.sum()

    step.loss = loss
    step.optimizer.register_step_pre_hook(lambda *_: seen.append(first.grad.norm().item()))
    step()
    assert len(asked) == 2
    assert seen == [pytest.approx(clipped, rel=1e-3)]
    assert first.grad is None


def test_a_micro_batch_that_does_not_fit_is_followed_by_a_smaller_one(monkeypatch):
    tried = []

    def measured(work, *_):
        tried.append(work.deal.batch)
        if work.deal.batch > 1:
            raise torch.OutOfMemoryError
        return Measured(2.0, 0.5, 3 * 10**9)

    monkeypatch.setattr(train_gpu, "measure", measured)
    progress = train_gpu.Progress(_quiet, _quiet, 60)
    work, _ = train_gpu.size_rows(ways("nano", CPU, quick=True), CPU, progress, 1)
    assert tried == [2, 1]
    assert work.deal.crops == 4
    rate_row, step_row, _, memory = progress.rows
    assert rate_row.ours == 4 * 4 * 100 / 0.5
    assert step_row.ours == 0.5
    assert memory.peer == 3
    assert memory.ours == pytest.approx(work.memory / 1e9)


def test_rows_are_kept_at_once_and_a_failure_ends_its_part_alone(capsys):
    kept, said = [], []
    progress = train_gpu.Progress(lambda rows: kept.append(list(rows)), said.append, 100)
    with progress.part("one"):
        progress.add(Row("a", "s", 1.0))
        raise RuntimeError("broken")
    with progress.part("two"):
        progress.add(Row("b", "s", 2.0))
    assert [[row.name for row in rows] for rows in kept] == [["a"], ["a", "b"]]
    assert any("one: FAILED" in text for text in said)
    assert "RuntimeError: broken" in capsys.readouterr().err
    assert progress.enough("three", 50)
    assert not progress.enough("three", 200)
    assert "three: left out" in said[-1]


def test_a_run_is_timed_without_its_warm_up_and_its_checkpoint():
    work = next(work for work in ways("nano", CPU, quick=True) if work.deal.batch == 2)  # 2 x 2 crops
    taken = [9.0] + [0.5] * 14
    taken[2 * 6 - 1] += 7.0  # after micro-batch 12, the last of step 6
    moments = [sum(taken[:n]) for n in range(16)]
    found = rate(moments, work, saved=6)
    assert found.crops == pytest.approx(2 / 0.5)
    assert found.checkpoint == pytest.approx(7)


def test_all_of_it_runs_where_there_is_no_gpu(monkeypatch):
    """Without compiling, which takes its time; ``mgl fit`` and all."""
    monkeypatch.setattr(train_step, "compile_block", lambda block: None)
    monkeypatch.setattr(train_gpu, "WarmingUp", lambda works, device: train_step.WarmingUp([], device))
    monkeypatch.setattr("experiments.benchmarks.train_gpu.ways", _not_compiled)
    kept = []
    rows = train_gpu.gpu_train_rows(True, lambda rows: kept.append(len(rows)), _quiet, "cpu", 100)
    names = [row.name for row in rows]
    assert [name.partition(": ")[2] for name in names[:3]] == ["rate", "a step", "the first step"]
    (real,) = [row for row in rows if row.name.endswith("made-up batches (peer)")]
    assert real.ours > 0
    assert real.peer == pytest.approx(4 / rows[1].ours)
    assert sum("not compiled: rate" in name for name in names) == 2
    assert kept == sorted(kept)
    assert kept[-1] == len(rows)


def _not_compiled(size, device, quick):
    return [train_step.replace(work, compiled=False) for work in ways(size, device, quick)]


def test_rows_of_a_gpu_are_in_the_file_before_the_end(tmp_path, monkeypatch):
    file = tmp_path / "figures.json"

    def cut_short(quick, keep, say):
        keep([Row("a", "s", 1.0)])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(train_gpu, "gpu_train_rows", cut_short)
    with pytest.raises(KeyboardInterrupt):
        bench(["train"], device="cuda", json=str(file))
    record = json.loads(file.read_text())
    assert [row["name"] for row in record["rows"]] == ["a"]
    assert record["machine"]["gpu"] == "NVIDIA H100"


def test_devices_that_there_are_not():
    with pytest.raises(InputError, match="cpu or cuda"):
        bench(["train"], device="tpu")
    with pytest.raises(InputError, match="alone"):
        bench(["data"], device="cuda")


def _log(folder, name, rows):
    folder.mkdir()
    (folder / "config.yaml").write_text(f"trainer: {{precision: {name}}}\n")
    lines = ["step,train/ce,grad/all,optim/loss_scale", *rows]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return str(folder)


def test_curves_of_precisions_stand_side_by_side(tmp_path, capsys):
    # What was logged at one step may stand in several lines.
    one = _log(tmp_path / "a", "32-true", ["9,8.0,,", "9,,1.5,", "19,7.0,,", "19,,2.5,"])
    other = _log(tmp_path / "b", "16-mixed", ["9,8.0,1.5,65536", "19,nan,inf,1"])
    precision([one, other], str(tmp_path / "curves"))
    record = json.loads((tmp_path / "curves.json").read_text())
    assert record["curves"]["32-true"] == {"train/ce": [[10, 8.0], [20, 7.0]], "grad/all": [[10, 1.5], [20, 2.5]]}
    assert record["curves"]["16-mixed"]["train/ce"] == [[10, 8.0], [20, None]]
    assert record["differences"]["16-mixed"]["ce over 32-true"] is None
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="second run in 32-true"):
        precision([one, one], str(tmp_path / "again"))
    bare = _log(tmp_path / "c", "bf16-mixed", [])
    with pytest.raises(InputError, match="no losses"):
        precision([bare], str(tmp_path / "again"))


def test_the_end_of_a_curve_is_its_last_tenth():
    curves = {
        "32-true": {"train/ce": [(n, 5.0 if n < 18 else 3.0) for n in range(20)], "grad/all": [(0, 1.0)]},
        "bf16-mixed": {"train/ce": [(n, 3.5) for n in range(20)], "grad/all": [(0, 4.0), (1, 2.0)]},
    }
    found = differences(curves)
    assert found["bf16-mixed"] == {"ce": 3.5, "ce over 32-true": 0.5, "largest gradient": 4.0}
