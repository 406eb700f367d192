"""The benchmark of decoding on a GPU, rehearsed on a CPU without graphs."""

import pytest
import torch

from datamodules.errors import InputError
from experiments.benchmarks import decode_gpu, decode_job, decode_plan
from experiments.benchmarks.measuring import Row


@pytest.fixture
def plan():
    return decode_plan.Plan(quick=True, device=torch.device("cpu"))


def test_a_part_that_fails_is_told_and_the_rest_goes_on(monkeypatch):
    def no_room(measured, plan):
        raise ValueError("no room\nat all")

    monkeypatch.setattr(decode_gpu, "measure_job", no_room)
    monkeypatch.setattr(decode_gpu, "_fused", lambda *given: None)
    monkeypatch.setattr(decode_gpu, "_agreement", lambda plan: Row("agreement", "%", 1.0))
    kept, said = [], []
    rows = decode_gpu.gpu_decode_rows(True, lambda rows: kept.append(len(rows)), said.append, "cpu")
    assert kept == list(range(1, len(rows) + 1))  # each as soon as it is measured
    assert any(line.endswith("a job: not measured: ValueError: no room") for line in said)
    named = {row.name: row for row in rows}
    speed = named["small, batch 1, 12 steps, plain kernels"]
    assert 0 < speed.ours < speed.floor
    beside = [row for row in rows if "transformers" in row.name]
    assert [row.wanted for row in beside] == ["ratio >= 8", "ratio >= 1.5"]
    assert all(row.ours == speed.ours for row in beside)
    assert "agreement" in named


def test_a_job_is_clips_in_files(plan):
    measured = decode_plan.Measured(lambda rows: None, lambda text: None)
    decode_job.measure_job(measured, plan)
    *batches, _, job, scaled = measured.rows
    assert [row.name.split(",")[1] for row in batches] == [" batch 2", " batch 3"]
    assert job.name.startswith("5 captions to WAV files of 0.2 s")
    assert scaled.ours == pytest.approx(1100 * job.ours)


def test_a_step_reads_the_weights_of_its_products(plan):
    lm = decode_plan.random_lm(plan, "medium")
    width, layers, outputs = 64, 2, 4 * 64
    block = (3 + 1 + 1 + 1 + 4 + 4) * width * width  # without the keys and values of the text
    assert decode_gpu._read_weights(lm) == 2 * (layers * block + outputs * width)  # two bytes each


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no GPU"):
        decode_gpu.gpu_decode_rows(True, lambda rows: None, lambda text: None)
