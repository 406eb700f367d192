"""How sure a number is: intervals over clips, or over tracks where several clips are cut from one.

A mean over clips is resampled (percentile bootstrap). FAD is not: resampling draws clips twice, which shrinks the
clouds and moves every replicate upward, so its interval comes from leaving groups of clips out (jackknife). Such an
interval says how FAD at this number of clips may vary; the bias that this number brings lies outside it.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from datamodules.errors import InputError

LEVEL = 0.95
RESAMPLES = 2000
GROUPS = 20
# Below this many tracks an interval would be a guess.
FEWEST_FOR_INTERVAL = 4
_MOST_NUMBERS_AT_ONCE = 4_000_000


class Interval(NamedTuple):
    """A value between its bounds: low <= value <= high."""

    value: float
    low: float
    high: float


def bootstrap_mean(
    values: ArrayLike,
    tracks: Sequence[Hashable] | None = None,
    *,
    weights: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Mean over clips with a percentile bootstrap interval (Efron and Tibshirani, 1993, chapter 13).

    Args:
        values: one number a clip, at least two.
        tracks: the track of each clip. Whole tracks are drawn, because their clips resemble each other and would
            make the interval too narrow. None where every clip is a track of its own.
        weights: a clip's votes, positive, such as its number of segments; one each by default.
        seed: equal seeds give equal intervals.
        resamples: bootstrap samples.
        level: coverage aimed at. With few clips the interval is a little too narrow: about 0.92 for 20.

    Raises:
        InputError: fewer than two values, or values that are not finite.
    """
    data = np.asarray(values, dtype=np.float64)
    votes = np.ones_like(data) if weights is None else np.asarray(weights, dtype=np.float64)
    if data.ndim != 1 or len(data) < 2:
        raise InputError(f"an interval needs at least 2 clips, not {data.size}")
    if not np.isfinite(data).all():
        raise InputError("an interval needs finite values; leave failed clips out")
    member = numbered(tracks, len(data))
    sums, counts = np.bincount(member, data * votes), np.bincount(member, votes)
    if len(sums) < 2:
        raise InputError("an interval needs clips of at least 2 tracks, not 1")
    generator = np.random.default_rng(seed)
    step = max(1, _MOST_NUMBERS_AT_ONCE // len(sums))
    parts = []
    for start in range(0, resamples, step):
        drawn = generator.integers(len(sums), size=(min(step, resamples - start), len(sums)))
        parts.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    means = np.concatenate(parts)
    mean = float(np.average(data, weights=votes))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, min(mean, float(low)), max(mean, float(high)))


def bootstrap_ratio(
    sums: ArrayLike, weights: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Weighted mean, sum of sums over sum of weights, with a percentile bootstrap interval over clips.

    Args:
        sums: a clip's weighted sum, for instance of the cross-entropy of its codes; at least two clips.
        weights: a clip's weight, for instance its number of codes; positive.
        seed: equal seeds give equal intervals.
        resamples: bootstrap samples.
        level: coverage aimed at.

    Raises:
        InputError: fewer than two clips, or values that are not finite.
    """
    over, under = np.asarray(sums, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if over.ndim != 1 or over.shape != under.shape or len(over) < 2:
        raise InputError(f"an interval needs at least 2 clips, not {over.size}")
    if not (np.isfinite(over).all() and np.isfinite(under).all()):
        raise InputError("an interval needs finite values; leave failed clips out")
    picks = np.random.default_rng(seed).integers(len(over), size=(resamples, len(over)))
    value = float(over.sum() / under.sum())
    ratios = over[picks].sum(1) / under[picks].sum(1)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def numbered(tracks: Sequence[Hashable] | None, count: int) -> NDArray[np.int64]:
    """[count]: the number of each clip's track, in the order of their first clips; each its own without tracks.

    Raises:
        InputError: not one track for each clip.
    """
    if tracks is None:
        return np.arange(count)
    if len(tracks) != count:
        raise InputError(f"{count} clips need as many tracks, not {len(tracks)}")
    numbers = {track: number for number, track in enumerate(dict.fromkeys(tracks))}
    return np.array([numbers[track] for track in tracks], dtype=np.int64)


def few_samples_warning(count: int, dim: int) -> str | None:
    """Why a Frechet distance over so few embeddings says little; None where there are enough.

    Args:
        count: embeddings on the smaller side.
        dim: their dimensions; twice as many embeddings are enough for FAD-infinity.
    """
    if count >= 2 * dim:
        return None
    how = "far too high, for their covariance lacks full rank" if count <= dim else "too high"
    return (
        f"{count} embeddings of {dim} dimensions make FAD {how}; compare it at equal numbers alone, or give "
        f"{2 * dim} and more"
    )


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    tracks: Sequence[Hashable] | None = None,
    *,
    weights: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Mean of ``first - second`` over the same clips; the systems differ where the interval leaves zero out.

    Raises:
        InputError: lists of different lengths, or as ``bootstrap_mean``.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape:
        raise InputError(f"paired values must be of the same clips, not {one.size} and {other.size}")
    return bootstrap_mean(one - other, tracks, weights=weights, seed=seed, resamples=resamples, level=level)


def jackknife_groups(
    count: int, tracks: Sequence[Hashable] | None = None, *, seed: int = 0, groups: int = GROUPS
) -> NDArray[np.int64]:
    """[count] group numbers: tracks dealt out as evenly as can be in a seeded order, all clips of one together."""
    member = numbered(tracks, count)
    total = int(member.max()) + 1
    numbers = np.empty(total, dtype=np.int64)
    numbers[np.random.default_rng(seed).permutation(total)] = np.arange(total) % min(groups, total)
    return numbers[member]


def jackknife(
    statistic: Callable[[int | None], float], groups: int, *, least: float = -math.inf, level: float = LEVEL
) -> tuple[Interval, list[float]]:
    """Delete-group jackknife interval of any statistic of clips (Shao and Tu, 1995, section 5.2).

    Args:
        statistic: value without the group of this number; of all clips for None.
        groups: number of groups of clips, at least two.
        least: the statistic's own lower bound; the interval is cut there.
        level: coverage aimed at, with Student's t of ``groups - 1`` degrees of freedom.

    Returns:
        The interval around the value of all clips, and the value without each group.

    Raises:
        InputError: fewer than two groups.
    """
    if groups < 2:
        raise InputError(f"a jackknife needs at least 2 groups of clips, not {groups}")
    value = statistic(None)
    without = [statistic(group) for group in range(groups)]
    half = student.ppf((1 + level) / 2, groups - 1) * jackknife_error(without)
    return Interval(value, min(value, max(least, value - half)), value + half), without


def jackknife_error(without: Sequence[float]) -> float:
    """Standard error from the values without each group: sqrt((G - 1) / G * sum (v_g - mean)^2)."""
    values = np.asarray(without, dtype=np.float64)
    return float(np.sqrt((len(values) - 1) * values.var()))


def jackknife_difference(
    first: Interval, first_without: Sequence[float], second: Interval, second_without: Sequence[float]
) -> Interval:
    """Difference of one statistic of two systems, from replicates that leave out the same groups of the same clips.

    Raises:
        InputError: different numbers of groups.
    """
    if len(first_without) != len(second_without):
        raise InputError("paired jackknife values must leave out the same groups; evaluate both on the same clips")
    difference = np.subtract(first_without, second_without)
    half = float(student.ppf((1 + LEVEL) / 2, len(difference) - 1)) * jackknife_error(difference.tolist())
    value = first.value - second.value
    return Interval(value, value - half, value + half)
