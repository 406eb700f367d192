"""Kernel audio distance against loops, and its ruler."""

import itertools
import math

import numpy as np
import pytest
import torch

from datamodules.errors import InputError
from evaluation import kad
from evaluation.kad import kernel_audio_distance, kernel_audio_distance_interval, median_distance
from evaluation.uncertainty import jackknife_groups


def cloud(n, d, seed, shift=0.0):
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


def slow_kad(reference, generated):
    distances = sorted(math.dist(a, b) for a, b in itertools.combinations(reference.tolist(), 2))
    bandwidth = distances[(len(distances) - 1) // 2]

    def kernel(a, b):
        return math.exp(-(math.dist(a, b) ** 2) / (2 * bandwidth**2))

    x, y = reference.tolist(), generated.tolist()
    within = [sum(kernel(a, b) for a, b in itertools.permutations(s, 2)) / (len(s) * (len(s) - 1)) for s in (x, y)]
    between = sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    return 100 * (within[0] + within[1] - 2 * between)


@pytest.mark.parametrize("block", [1024, 7])
def test_kad_against_a_loop(monkeypatch, block):
    monkeypatch.setattr(kad, "_BLOCK", block)
    for shift in (0.0, 0.5, 100.0):
        real, made = cloud(23, 5, 0, shift), cloud(31, 5, 1, 1.3 * shift)
        assert kernel_audio_distance(real, made) == pytest.approx(slow_kad(real, made), rel=1e-9, abs=1e-10)
        assert kernel_audio_distance(torch.from_numpy(real), made) == kernel_audio_distance(real, made)


def test_the_ruler_is_the_references():
    real, near, far = cloud(60, 4, 0), cloud(60, 4, 1) * 0.5, cloud(60, 4, 1) * 5
    for made in (near, far):
        assert kernel_audio_distance(real, made) == kernel_audio_distance(real, made, bandwidth=median_distance(real))
        assert kernel_audio_distance(real, made) != kernel_audio_distance(made, real)


def test_its_mean_does_not_depend_on_the_number():
    for n in (20, 80):
        values = [kernel_audio_distance(cloud(n, 64, 2 * s), cloud(n, 64, 2 * s + 1), bandwidth=11) for s in range(60)]
        assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(60)
        assert min(values) < 0


@pytest.mark.parametrize(("block", "gathered", "bins"), [(1024, 10**6, 4096), (9, 20, 8), (9, 1, 3)])
def test_the_median_is_exact_and_gathers_little(monkeypatch, block, gathered, bins):
    for name, value in (("_BLOCK", block), ("_MOST_GATHERED", gathered), ("_BINS", bins)):
        monkeypatch.setattr(kad, name, value)
    for n in (2, 3, 6, 41):
        values = cloud(n, 3, n, shift=2)
        assert median_distance(values) == pytest.approx(float(torch.pdist(torch.from_numpy(values)).median()), rel=1e-9)
    ties = np.repeat(cloud(4, 3, 0), 5, axis=0)
    assert median_distance(ties) == pytest.approx(float(torch.pdist(torch.from_numpy(ties)).median()), rel=1e-9)
    assert median_distance(np.ones((9, 3))) == 0


def test_intervals_are_those_of_sets_without_a_group():
    real, made = cloud(36, 6, 0), cloud(40, 6, 1, 0.3)
    ruler = median_distance(real)
    ours, theirs = jackknife_groups(36, seed=0, groups=5), jackknife_groups(40, seed=1, groups=5)
    paired, without = kernel_audio_distance_interval(real, made, ours, theirs)
    expected = [kernel_audio_distance(real[ours != g], made[theirs != g], bandwidth=ruler) for g in range(5)]
    assert without == pytest.approx(expected, rel=1e-9)
    assert paired.value == pytest.approx(kernel_audio_distance(real, made), rel=1e-9)
    assert paired.low <= paired.value <= paired.high
    _, without = kernel_audio_distance_interval(real, made, None, theirs)
    assert without == pytest.approx(
        [kernel_audio_distance(real, made[theirs != g], bandwidth=ruler) for g in range(5)], rel=1e-9
    )


def test_intervals_cover_what_an_endless_sample_gives():
    generator = np.random.default_rng(0)
    real = generator.normal(size=(200, 4))
    ruler, hits = median_distance(real), 0
    truth = kernel_audio_distance(real, generator.normal(size=(6000, 4)) + 0.4, bandwidth=ruler)
    for trial in range(150):
        groups = jackknife_groups(60, seed=trial)
        made = generator.normal(size=(60, 4)) + 0.4
        found, _ = kernel_audio_distance_interval(real, made, None, groups, bandwidth=ruler)
        hits += found.low <= truth <= found.high
    assert hits / 150 >= 0.90


def test_kad_refuses():
    with pytest.raises(InputError, match="at least 2"):
        kernel_audio_distance(cloud(1, 4, 0), cloud(5, 4, 0))
    with pytest.raises(InputError, match="4 and 5"):
        kernel_audio_distance(cloud(5, 4, 0), cloud(5, 5, 0))
    with pytest.raises(InputError, match="all alike"):
        kernel_audio_distance(np.ones((5, 4)), cloud(5, 4, 0))
    with pytest.raises(InputError, match="not finite"):
        kernel_audio_distance(np.full((5, 4), np.inf), cloud(5, 4, 0))
    with pytest.raises(InputError, match="as many group numbers"):
        kernel_audio_distance_interval(cloud(5, 4, 0), cloud(5, 4, 1), None, np.array([0, 1]))
    with pytest.raises(InputError, match="whichever group"):
        kernel_audio_distance_interval(cloud(5, 4, 0), cloud(3, 4, 1), None, np.array([0, 0, 1]))
