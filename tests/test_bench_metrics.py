"""`mgl bench metrics`: both sides of a figure compute the same, and memory does not grow with the embeddings."""

import sys
from types import ModuleType

import numpy as np
import pytest

from experiments.benchmarks import metrics
from experiments.benchmarks.memory import in_fresh_process


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setitem(sys.modules, "laion_clap", ModuleType("laion_clap"))
    monkeypatch.setattr(metrics, "in_fresh_process", lambda function, *arguments: function(*arguments))


def test_distances_are_the_peers():
    pytest.importorskip("frechet_audio_distance.fad")
    figure, difference = metrics.distance_rows(128, 1)
    assert figure.ours > 0 < figure.floor
    assert figure.ratio == figure.peer / figure.ours
    assert difference.ours < 10


def test_without_the_peer_ours_is_measured_alone(monkeypatch):
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    (row,) = metrics.distance_rows(128, 1)
    assert row.ours > 0
    assert row.peer is row.ratio is None


def test_made_up_embeddings_have_full_rank_and_lie_apart():
    first, second = metrics.clouds(32, 200)
    assert first.shape == second.shape == (200, 32)
    spread = np.linalg.eigvalsh(np.cov(first, rowvar=False))
    assert 1e-6 < spread[0] / spread[-1] < 1e-3
    assert not np.allclose(first.mean(0), second.mean(0), atol=1e-3)


def test_infinity_and_memory_are_measured():
    assert metrics.infinity_row(16, 100, 1).ours > 0
    row = metrics.memory_row(2000, 16)
    assert row.ours >= 0 <= row.peer
    # In a process that has not yet taken memory which it could use again.
    assert in_fresh_process(metrics.fad_memory, 100_000, 64, False) < 15 < 2 * 100_000 * 64 * 4 / 1e6


def test_every_part_is_in_the_whole(monkeypatch):
    monkeypatch.setattr(metrics, "distance_rows", lambda dim, repeats: [(dim, repeats)])
    monkeypatch.setattr(metrics, "infinity_row", lambda *arguments: "infinity")
    monkeypatch.setattr(metrics, "memory_row", lambda count, dim: count)
    said = []
    assert metrics.metric_rows(7, False, said.append) == [(128, 7), (512, 7), (2048, 3), "infinity", 20_000, 100_000]
    assert metrics.metric_rows(1, True) == [(128, 1), (512, 1), "infinity", 2000, 10_000]
    assert len(said) == 6
