"""What ``mgl bench processes`` compares."""

import pytest
import torch

from experiments.benchmarks.processes import LAYOUTS, STEPS, Trained, process_rows, rows_of


def trained(losses, samples=((0, 1), (2, 3)), weight=1.0):
    return Trained([list(step) for step in samples], list(losses), {"a": torch.tensor([weight, 0.0])})


def test_what_differs_between_one_process_and_two_is_counted():
    one = trained([2.0, 1.5])
    same = rows_of("two", one, trained([2.0, 1.5], [(1, 0), (2, 3)]))
    assert [row.ours for row in same] == [2, 0, 0]
    other = rows_of("two", one, trained([2.0, 1.25], [(0, 1), (2, 4)], 0.5))
    assert [row.ours for row in other] == [1, 250_000, 500_000]
    with pytest.raises(ValueError, match="zip"):
        rows_of("two", one, trained([2.0], [(0, 1)]))


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    rows = process_rows(tmp_path, quick=True)
    assert len(rows) == 3 * (len(LAYOUTS) - 1)
    for steps, losses, weights in (rows[:3], rows[3:]):
        assert 0 < steps.ours < STEPS
        assert str(int(steps.ours)) == steps.wanted
        assert losses.ours < 10  # 1e-5
        assert 0 <= weights.ours < 10
    assert any(path.is_dir() for path in (tmp_path / "run2" / "checkpoints").iterdir())  # shards
