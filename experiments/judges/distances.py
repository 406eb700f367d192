"""How far a judge holds one set of music from another, and two halves of one set from each other.

FAD of n tracks against n others is too high by about a multiple of 1/n, so sets of different sizes cannot be compared,
and halves of one set seem to differ. Of both sides fewer and fewer tracks are taken, and a line through FAD against 1/n
says what it would be without end of tracks (as ``evaluation.fad_infinity``, where but one side has a bias to lose).

Shape letters: W windows, D dimensions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.manifest import Track
from evaluation.fad import Moments, frechet_distance

# A covariance of so few windows says nothing of a collection.
_FEWEST_TRACKS = 20
_HALVES = 10  # times that a set is halved
_SIZES, _DRAWS = 6, 6

Tracks = NDArray[np.str_]


@dataclass(frozen=True)
class Distances:
    """FAD between halves of a set, the mean of several, and between every two of its collections, by their names.

    Attributes:
        halves: of all tracks.
        collections: of all tracks of both, for collections of 20 tracks or more.
        halves_at_infinity: without end of tracks; around 0, and so below it, too.
        collections_at_infinity: likewise.
    """

    halves: float
    collections: Mapping[str, float]
    halves_at_infinity: float
    collections_at_infinity: Mapping[str, float]


def distances(windows: Sequence[Tensor], tracks: Sequence[Track], owners: Sequence[str]) -> Distances:
    """Measures a judge's distances.

    Args:
        windows: embeddings [W, D] of each clip.
        tracks: its line, with the collection that it is of.
        owners: the track that it was cut from.
    """
    drawn: dict[str, list[Tensor]] = {}
    collection: dict[str, str] = {}
    for clip, track, owner in zip(windows, tracks, owners, strict=True):
        drawn.setdefault(owner, []).append(clip)
        collection[owner] = str(track.facts.get("collection", ""))
    names = np.array(sorted(drawn))
    orders = [np.random.default_rng(seed).permutation(names) for seed in range(_HALVES)]
    halves = [(order[: len(names) // 2], order[len(names) // 2 :]) for order in orders]
    members = {one: np.array(sorted(n for n in drawn if collection[n] == one)) for one in set(collection.values())}
    large = sorted(one for one, its in members.items() if len(its) >= _FEWEST_TRACKS)
    pairs = {f"{one} - {other}": (members[one], members[other]) for one, other in combinations(large, 2)}
    return Distances(
        fmean(_fad(drawn, *pair) for pair in halves),
        {name: _fad(drawn, *pair) for name, pair in pairs.items()},
        _at_infinity(drawn, halves),
        {name: _at_infinity(drawn, [pair]) for name, pair in pairs.items()},
    )


def _fad(windows: Mapping[str, Sequence[Tensor]], first: Iterable[str], second: Iterable[str]) -> float:
    one, other = (
        Moments.of(torch.cat([clip for name in side for clip in windows[name]])).gaussian() for side in (first, second)
    )
    return frechet_distance(*one, *other)


def _at_infinity(windows: Mapping[str, Sequence[Tensor]], pairs: Sequence[tuple[Tracks, Tracks]]) -> float:
    """Where the line through FAD against 1/n begins: n tracks of both sides, from half of the smaller to all of it."""
    generator = np.random.default_rng(0)
    most = min(len(side) for pair in pairs for side in pair)
    sizes = np.unique(np.rint(1 / np.linspace(1 / most, 2 / most, _SIZES)).astype(int))
    means = [
        fmean(
            _fad(windows, *(generator.permutation(side)[:size] for side in pairs[draw % len(pairs)]))
            for draw in range(max(_DRAWS, len(pairs)))
        )
        for size in sizes.tolist()
    ]
    return float(np.polyfit(1 / sizes, means, 1)[1])
