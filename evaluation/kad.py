"""Kernel audio distance: how far apart two clouds of embeddings are, whatever their shape.

KAD = 100 MMD^2, unbiased, with k(x, y) = exp(-|x - y|^2 / (2 b^2))   (Chung et al., 2025, arXiv 2502.15602)

The bandwidth b is the ruler, so it belongs to the reference: the median distance between two of its embeddings. kadtk
1.1.0 says so and takes the evaluated set's, by which every system is measured with a ruler of its own.

Shape letters: N and M embeddings, D their dimensions, G groups.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.errors import InputError
from evaluation.fad import Matrix, as_embeddings
from evaluation.uncertainty import Interval, jackknife

_SCALE = 100
_BLOCK = 1024  # rows and columns of distances in memory at once, 8 MB
_BINS = 4096
_MOST_GATHERED = 2_000_000


def kernel_audio_distance(
    reference: Tensor | Matrix, generated: Tensor | Matrix, *, bandwidth: float | None = None
) -> float:
    """KAD of two sets. Unlike FAD its mean does not depend on their numbers, and it may be a little below zero.

    Time grows with (N + M)^2 D, memory does not.

    Args:
        reference: [N, D].
        generated: [M, D].
        bandwidth: of the kernel; by default ``median_distance`` of the reference. Give it where it is known.

    Returns:
        100 times the unbiased squared maximum mean discrepancy.

    Raises:
        InputError: fewer than two embeddings on a side, unequal D, values that are not finite, or no bandwidth.
    """
    return _KernelSums(reference, generated, None, None, bandwidth).distance(None)


def kernel_audio_distance_interval(
    reference: Tensor | Matrix,
    generated: Tensor | Matrix,
    reference_groups: NDArray[np.int64] | None,
    generated_groups: NDArray[np.int64],
    *,
    bandwidth: float | None = None,
) -> tuple[Interval, list[float]]:
    """KAD with a delete-group jackknife interval; the bandwidth stays that of the whole reference.

    Args:
        reference: [N, D].
        generated: [M, D].
        reference_groups: [N] numbers from ``jackknife_groups``; None where the reference is what it is.
        generated_groups: [M], 0 to G - 1. A group is left out on both sides.
        bandwidth: as for ``kernel_audio_distance``.

    Returns:
        The interval, and the value without each group, as ``jackknife`` has them.

    Raises:
        InputError: as ``kernel_audio_distance``, or fewer than two groups.
    """
    sums = _KernelSums(reference, generated, reference_groups, generated_groups, bandwidth)
    return jackknife(sums.distance, int(generated_groups.max()) + 1)


def median_distance(embeddings: Tensor | Matrix) -> float:
    """The median of the Euclidean distances between any two embeddings, of two in the middle the lower.

    It is exact, by counting distances in ever smaller bins: N^2 distances are computed about three times, and never
    kept. kadtk keeps them all.

    Args:
        embeddings: [N, D].

    Raises:
        InputError: fewer than two embeddings, or values that are not finite.
    """
    values = _at_least_two(embeddings)
    values = values - values.mean(0)
    pairs = len(values) * (len(values) - 1) // 2
    wanted = (pairs - 1) // 2  # how many distances are below the one looked for, within [low, high]
    # Rounding may carry a distance a little beyond twice the largest norm.
    low, high, inside = 0.0, (4 + 1e-9) * float((values**2).sum(1).max()), pairs
    while inside > _MOST_GATHERED and high - low > 1e-12 * high:
        edges = np.linspace(low, high, _BINS + 1)
        counts = np.zeros(_BINS, dtype=np.int64)
        for some in _squared_distances(values):
            counts += np.histogram(some, _BINS, (low, high))[0]
        below = np.cumsum(counts)
        place = int(np.searchsorted(below, wanted, side="right"))
        inside = int(counts[place])
        wanted -= int(below[place]) - inside
        low, high = float(edges[place]), float(edges[place + 1])
    if inside > _MOST_GATHERED:  # all of them alike
        return math.sqrt(high)
    kept = np.concatenate([some[(some >= low) & (some <= high)] for some in _squared_distances(values)])
    return math.sqrt(float(np.partition(kept, wanted)[wanted]))


class _KernelSums:
    """Sums of the kernel between groups, from which follows KAD of all and without any one of them."""

    def __init__(
        self,
        reference: Tensor | Matrix,
        generated: Tensor | Matrix,
        reference_groups: NDArray[np.int64] | None,
        generated_groups: NDArray[np.int64] | None,
        bandwidth: float | None,
    ) -> None:
        x, y = _at_least_two(reference), _at_least_two(generated)
        if x.shape[1] != y.shape[1]:
            raise InputError(f"both sides need one number of dimensions, not {x.shape[1]} and {y.shape[1]}")
        width = median_distance(x) if bandwidth is None else bandwidth
        if not (width > 0 and math.isfinite(width)):
            raise InputError(f"KAD needs a bandwidth above 0, not {width}: are the reference's embeddings all alike?")
        middle = x.mean(0)  # near the origin squares lose fewer digits
        x, y = x - middle, y - middle
        members = _memberships(len(x), reference_groups), _memberships(len(y), generated_groups)
        self.counts = [member.sum(0) for member in members]
        self.within = [_within(side, member, width) for side, member in zip((x, y), members, strict=True)]
        self.between = _between(x, y, *members, width)

    def distance(self, group: int | None) -> float:
        """KAD without this group, or of all."""
        means = []
        for counts, sums in zip(self.counts, self.within, strict=True):
            count = float(_without(counts, group).sum())
            if count < 2:
                raise InputError("KAD needs at least 2 embeddings on both sides, whichever group is left out")
            means.append(_without(sums, group).sum() / (count * (count - 1)))
        pairs = math.prod(float(_without(counts, group).sum()) for counts in self.counts)
        return float(_SCALE * (means[0] + means[1] - 2 * _without(self.between, group).sum() / pairs))


def _without(sums: Matrix, group: int | None) -> Matrix:
    """[G] or [G, G] without the rows and columns of a group; a side that has no groups keeps all it has."""
    if group is None:
        return sums
    return sums[np.ix_(*(np.arange(size) != group if size > 1 else np.ones(1, bool) for size in sums.shape))]


def _memberships(count: int, groups: NDArray[np.int64] | None) -> Matrix:
    """[N, G] of ones and zeros."""
    if groups is None:
        return np.ones((count, 1))
    if len(groups) != count:
        raise InputError(f"{count} embeddings need as many group numbers, not {len(groups)}")
    return np.eye(int(groups.max()) + 1)[groups]


def _within(values: Matrix, member: Matrix, width: float) -> Matrix:
    """[G, G] sums of the kernel over pairs of different embeddings of one set."""
    return _between(values, values, member, member, width) - np.diag(member.sum(0))  # each with itself: 1


def _between(x: Matrix, y: Matrix, x_member: Matrix, y_member: Matrix, width: float) -> Matrix:
    """[G, G] sums of the kernel over pairs of one of x and one of y."""
    sums = np.zeros((x_member.shape[1], y_member.shape[1]))
    for rows in _blocks(len(x)):
        for columns in _blocks(len(y)):
            sums += x_member[rows].T @ _kernel(x[rows], y[columns], width) @ y_member[columns]
    return sums


def _kernel(x: Matrix, y: Matrix, width: float) -> Matrix:
    return np.asarray(np.exp(_squares(x, y) / (-2 * width**2)))


def _squares(x: Matrix, y: Matrix) -> Matrix:
    """[N, M] squared distances."""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * (x @ y.T)
    return squares.clip(0, out=squares)


def _squared_distances(values: Matrix) -> Iterator[Matrix]:
    """Those of all pairs, each once, block by block."""
    blocks = list(_blocks(len(values)))
    for number, rows in enumerate(blocks):
        squares = _squares(values[rows], values[rows])
        yield squares[np.triu_indices(len(squares), 1)]
        for columns in blocks[number + 1 :]:
            yield _squares(values[rows], values[columns]).ravel()


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))


def _at_least_two(embeddings: Tensor | Matrix) -> Matrix:
    values = as_embeddings(embeddings)
    if len(values) < 2:
        raise InputError(f"KAD needs at least 2 embeddings on both sides, not {len(values)}")
    return values
