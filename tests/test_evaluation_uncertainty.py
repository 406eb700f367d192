"""Intervals cover what they should, and always hold their value."""

import math

import numpy as np
import pytest

from datamodules.errors import InputError
from evaluation.uncertainty import (
    Interval,
    bootstrap_mean,
    jackknife,
    jackknife_difference,
    jackknife_error,
    jackknife_groups,
    paired_difference,
)


def test_bootstrap_covers_the_mean_of_gaussians():
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(400):
        found = bootstrap_mean(generator.normal(3.0, 2.0, size=30), seed=trial, resamples=500)
        assert found.low <= found.value <= found.high
        hits += found.low <= 3.0 <= found.high
    assert 0.90 <= hits / 400 <= 0.98


def test_bootstrap_is_as_wide_as_theory_says():
    values = np.random.default_rng(0).normal(size=2000)
    found = bootstrap_mean(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_bootstrap_depends_on_its_seed_alone():
    values = np.random.default_rng(1).exponential(size=12)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


@pytest.mark.parametrize("values", [[0, 0, 0, 1000], [1, 1], [5.0] * 9])
def test_intervals_hold_their_value(values):
    found = bootstrap_mean(values, resamples=50)
    assert found.low <= found.value <= found.high


def test_paired_difference_sees_what_unpaired_intervals_hide():
    generator = np.random.default_rng(0)
    easy = generator.normal(0, 10, size=50)
    first, second = easy + 0.5 + generator.normal(0, 0.1, 50), easy
    found = paired_difference(first, second)
    assert 0 < found.low <= found.value <= found.high
    assert bootstrap_mean(first).low < bootstrap_mean(second).high


def test_jackknife_of_a_mean_is_the_standard_error():
    values = np.random.default_rng(0).normal(size=40)
    without = [float(np.delete(values, row).mean()) for row in range(40)]
    assert jackknife_error(without) == pytest.approx(values.std(ddof=1) / math.sqrt(40))


def test_jackknife_covers_a_mean():
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        values = generator.normal(1.0, 1.0, size=36)
        groups = jackknife_groups(36, seed=trial, groups=12)
        found, without = jackknife(lambda g, v=values, k=groups: float(v[k != (-1 if g is None else g)].mean()), 12)
        assert len(without) == 12
        assert found.low <= found.value <= found.high
        hits += found.low <= 1.0 <= found.high
    assert 0.91 <= hits / 300 <= 0.985


def test_jackknife_stops_at_the_statistics_own_bound():
    found, _ = jackknife(lambda g: 0.1 if g is None else [0.0, 3.0][g], 2, least=0.0)
    assert found.low == 0.0
    assert found.value == 0.1


def test_groups_are_even_and_cover_everybody():
    numbers = jackknife_groups(47, seed=0, groups=10)
    assert np.bincount(numbers).tolist() in ([5] * 7 + [4] * 3,)
    assert jackknife_groups(3, groups=20).max() == 2


def test_jackknife_difference_cancels_what_both_share():
    generator = np.random.default_rng(0)
    shared = generator.normal(size=10)
    one, other = Interval(2.0, 0, 4), Interval(1.0, 0, 4)
    found = jackknife_difference(one, (shared + 2).tolist(), other, (shared + 1).tolist())
    assert found.value == 1.0
    assert found.high - found.low < 1e-9


def test_refusals():
    with pytest.raises(InputError, match="at least 2"):
        bootstrap_mean([1.0])
    with pytest.raises(InputError, match="finite"):
        bootstrap_mean([1.0, math.nan])
    with pytest.raises(InputError, match="same clips"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="groups"):
        jackknife(lambda g: 0.0, 1)
    with pytest.raises(InputError, match="same groups"):
        jackknife_difference(Interval(0, 0, 0), [1.0, 2.0], Interval(0, 0, 0), [1.0])


def test_clips_of_one_track_widen_the_interval():
    generator = np.random.default_rng(0)
    hits, narrow = 0, 0
    for trial in range(200):
        values = np.repeat(generator.normal(size=25), 4) + 0.1 * generator.normal(size=100)
        tracks = np.repeat(np.arange(25), 4).tolist()
        found = bootstrap_mean(values, tracks, seed=trial, resamples=400)
        hits += found.low <= 0 <= found.high
        naive = bootstrap_mean(values, seed=trial, resamples=400)
        narrow += naive.low <= 0 <= naive.high
    assert 0.88 <= hits / 200 <= 0.98
    assert narrow / 200 < 0.8


def test_groups_keep_tracks_together():
    tracks = ["x", "y", "x", "z", "y", "x"]
    groups = jackknife_groups(6, tracks, groups=3)
    assert len({(track, group) for track, group in zip(tracks, groups.tolist(), strict=True)}) == 3
    assert sorted(set(groups.tolist())) == [0, 1, 2]
    with pytest.raises(InputError, match="as many tracks"):
        bootstrap_mean([1.0, 2.0], ["a"])
    with pytest.raises(InputError, match="2 tracks"):
        bootstrap_mean([1.0, 2.0], ["a", "a"])
