"""FAD-infinity: what FAD would be with any number of embeddings, from how it falls with their number.

FAD of n embeddings is too high by about a multiple of 1/n (Chong and Forsyth, 2020, for images; Gui et al., 2024,
arXiv 2311.01616, for music), so a line through the values of smaller sets against 1/n meets n = infinity.

Shape letters: N embeddings, D their dimensions, R the rank of the reference, S sizes, K draws.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.errors import InputError
from evaluation.fad import Matrix, ReferenceGaussian, as_embeddings
from evaluation.uncertainty import GROUPS, Interval, jackknife, jackknife_groups, numbered

DRAWS = 8
_SIZES = 8
_FEWEST_SIZES = 3


@dataclass(frozen=True)
class Extrapolation:
    """A line through FAD against 1/n.

    Attributes:
        value: FAD at n = infinity. Below zero where the truth is near zero: cutting it off would bias it upward.
        slope: what FAD gains for each 1/n.
        r2: share of the variance of the distances that the line explains; far below 1, more draws or embeddings help.
        sizes: numbers of embeddings, means over the draws where whole tracks were drawn.
        distances: FAD at each size, mean over the draws.
    """

    value: float
    slope: float
    r2: float
    sizes: list[float]
    distances: list[float]


def fad_infinity(
    reference: ReferenceGaussian,
    embeddings: Tensor | Matrix,
    tracks: Sequence[Hashable] | None = None,
    *,
    sizes: Sequence[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Extrapolation:
    """Extrapolates the FAD of a set to n = infinity; the reference stays as it is, with the bias of its own size.

    Subsets are drawn without replacement. fadtk draws with replacement, which extrapolates to the set at hand instead
    of what it was drawn from, and so removes little of the bias.

    Args:
        reference: what the set is measured against.
        embeddings: [N, D], the evaluated set.
        tracks: the track of each embedding; whole tracks are drawn, because windows of one resemble each other and
            hide the bias. None where every embedding is a track of its own.
        sizes: numbers of embeddings to draw, at least 3 different ones, above D and at most N. By default 8,
            evenly between 1/N and 1/n for the larger n of N/2 and D + 1: further down FAD bends away from a line.
        draws: subsets of each size.
        seed: equal seeds draw equal subsets.

    Raises:
        InputError: fewer than 2 D embeddings by default, sizes out of bounds, or embeddings that do not fit.
    """
    sample = _Sample(reference, embeddings, tracks, draws, seed)
    return _line(*sample.distances(_sizes(sizes, *sample.values.shape)))


def fad_infinity_interval(
    reference: ReferenceGaussian,
    embeddings: Tensor | Matrix,
    tracks: Sequence[Hashable] | None = None,
    *,
    sizes: Sequence[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    groups: int = GROUPS,
) -> Interval:
    """The value of ``fad_infinity`` with a delete-group jackknife interval over tracks.

    Replicates draw in the same order, without those left out, and their sizes shrink with the set: what differs
    between them is the tracks, not the draws.

    Args:
        reference: as for ``fad_infinity``, and so are embeddings, tracks, sizes, draws and seed.
        embeddings: [N, D].
        tracks: the track of each embedding.
        sizes: numbers of embeddings to draw.
        draws: subsets of each size.
        seed: of draws and groups.
        groups: groups of tracks that are left out in turn.

    Raises:
        InputError: as ``fad_infinity``, or fewer than two tracks.
    """
    sample = _Sample(reference, embeddings, tracks, draws, seed)
    chosen = _sizes(sizes, *sample.values.shape)
    member = jackknife_groups(len(sample.values), tracks, seed=seed, groups=groups)

    def statistic(group: int | None) -> float:
        kept = member != (-1 if group is None else group)
        return _line(*sample.distances([round(size * kept.mean()) for size in chosen], kept)).value

    return jackknife(statistic, int(member.max()) + 1)[0]


def _sizes(sizes: Sequence[int] | None, count: int, dim: int) -> list[int]:
    if sizes is None:
        if count < 2 * dim:
            raise InputError(
                f"FAD-infinity of {dim} dimensions needs at least {2 * dim} embeddings, not {count}: with fewer FAD is "
                "no line against 1/n; give more or longer clips, or a judge with fewer dimensions"
            )
        inverse = np.linspace(1 / max(count // 2, dim + 1), 1 / count, _SIZES)
        return sorted(set(np.rint(1 / inverse).astype(int).tolist()))
    chosen = sorted(set(sizes))
    if len(chosen) < _FEWEST_SIZES or chosen[0] <= dim or chosen[-1] > count:
        raise InputError(
            f"FAD-infinity needs at least {_FEWEST_SIZES} different sizes, each above the {dim} dimensions and at most "
            f"the {count} embeddings, not {chosen}"
        )
    return chosen


class _Sample:
    """A set in the reference's own axes, and the orders in which its tracks are drawn."""

    def __init__(
        self,
        reference: ReferenceGaussian,
        embeddings: Tensor | Matrix,
        tracks: Sequence[Hashable] | None,
        draws: int,
        seed: int,
    ) -> None:
        if draws < 1:
            raise InputError(f"draws={draws}: nothing would be drawn; give 1 or more")
        values = as_embeddings(embeddings)
        if values.shape[1] != reference.mean.size:
            raise InputError(
                f"embeddings have {values.shape[1]} dimensions, those of the reference {reference.mean.size}"
            )
        self.trace = reference.trace
        self.values = values - reference.mean  # [N, D]
        self.projected = self.values @ reference.factor  # [N, R]
        member = numbered(tracks, len(values))
        generator = np.random.default_rng(seed)
        self.orders = []
        for _ in range(draws):
            place = generator.permutation(int(member.max(initial=0)) + 1)
            # Tracks in the order drawn, each with all its embeddings behind one another.
            order = np.argsort(place[member], kind="stable")
            self.orders.append((order, place[member][order]))

    def distances(self, sizes: Sequence[int], kept: NDArray[np.bool_] | None = None) -> tuple[Matrix, Matrix]:
        """How many embeddings were drawn, and their FAD: both [K, S].

        Args:
            sizes: S, rising; as many whole tracks are drawn as fit.
            kept: [N], false for embeddings that are left out of all draws.
        """
        counts, found = [], []
        for order, place in self.orders:
            if kept is not None:
                order, place = order[kept[order]], place[kept[order]]
            whole = np.append(np.flatnonzero(np.diff(place)) + 1, len(place))
            ends = [int(whole[whole <= size].max(initial=0)) for size in sizes]
            if ends[0] < 2:
                raise InputError(f"no whole track fits into {sizes[0]} embeddings; give larger sizes")
            counts.append(ends)
            found.append(list(self._along(order, ends)))
        return np.array(counts, dtype=np.float64), np.array(found)

    def _along(self, order: NDArray[np.int64], ends: Sequence[int]) -> Iterator[float]:
        """FAD of the first n of an order for every n of the ends: sums grow, so each embedding is added once."""
        rank, dim = self.projected.shape[1], self.values.shape[1]
        outer, total, squares, start = np.zeros((rank, rank)), np.zeros(dim), 0.0, 0
        mean_projected = np.zeros(rank)
        for end in ends:
            rows = order[start:end]
            values, projected = self.values[rows], self.projected[rows]
            outer += projected.T @ projected
            total += values.sum(0)
            squares += float(np.vdot(values, values))
            mean_projected = mean_projected * (start / end) + projected.sum(0) / end
            mean = total / end
            apart = mean @ mean + self.trace + (squares - end * (mean @ mean)) / (end - 1)
            inner = np.linalg.eigvalsh((outer - end * np.outer(mean_projected, mean_projected)) / (end - 1))
            yield float(apart - 2 * np.sqrt(inner.clip(0)).sum())
            start = end


def _line(counts: Matrix, distances: Matrix) -> Extrapolation:
    """The least-squares line through the means over the draws."""
    inverse, means = (1 / counts).mean(0), distances.mean(0)
    slope, value = np.polyfit(inverse, means, 1)
    spread = ((means - means.mean()) ** 2).sum()
    left = ((means - slope * inverse - value) ** 2).sum()
    r2 = 1 - left / spread if spread > 0 else 1.0
    return Extrapolation(float(value), float(slope), float(r2), counts.mean(0).tolist(), means.tolist())
