"""Everything random is a pure function of (seed, number, purpose).

Sample ``n`` of a run is the same sample on any number of workers, ranks and machines, before and after a resume,
because nothing random is ever stored: each draw is a hash of its own key.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from datamodules.errors import InputError


def uniform(seed: int, number: int, purpose: str) -> float:
    """A number in [0, 1) that depends on its three arguments alone (64 bits of BLAKE2b)."""
    digest = blake2b(f"{seed}/{number}/{purpose}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def derived_seed(*key: object) -> int:
    """A 63-bit seed for a generator, from the key's parts."""
    digest = blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class Draw:
    """Which track sample ``n`` comes from, and where in it (``position`` in [0, 1) of the possible starts)."""

    track: int
    position: float


class SampleOrder:
    """Draws tracks with probability proportional to their weights; O(log tracks) a draw.

    Args:
        weights: one non-negative weight a track, for instance its duration.
        seed: the run's seed.
    """

    def __init__(self, weights: "Sequence[float] | np.ndarray[Any, Any]", seed: int) -> None:
        self.cumulative = np.cumsum(weights, dtype=np.float64)
        if not len(weights) or np.min(weights) < 0 or not 0 < self.cumulative[-1] < np.inf:
            raise ValueError("weights must be finite, non-negative and not all zero")
        self.seed = seed

    def draw(self, number: int, attempt: int = 0) -> Draw:
        """Sample ``number``: a pure function of the seed, the number, and which attempt at it this is.

        Attempts after the first stand in for a track that could not be read.
        """
        again = f" {attempt}" if attempt else ""
        point = uniform(self.seed, number, f"track{again}") * self.cumulative[-1]
        track = min(int(self.cumulative.searchsorted(point, side="right")), len(self.cumulative) - 1)
        return Draw(track, uniform(self.seed, number, f"position{again}"))


def weigh_sources(
    amounts: "np.ndarray[Any, Any]", sources: "np.ndarray[Any, Any]", names: Sequence[str], factors: Mapping[str, float]
) -> "np.ndarray[Any, Any]":
    """Draw weights: how much there is of each track, times the factor of its source.

    Args:
        amounts: [n], seconds or frames.
        sources: [n], index of each track's source in ``names``.
        names: the sources there are.
        factors: by source name; a source that is not named has the factor 1.

    Raises:
        InputError: a factor of a source that does not exist, or a negative one.
    """
    unknown = sorted(set(factors) - set(names))
    if unknown:
        there = ", ".join(repr(name) for name in names)
        raise InputError(f"source_weights: there is no source {', '.join(map(repr, unknown))}; there are {there}")
    if any(not 0 <= factor < float("inf") for factor in factors.values()):
        raise InputError("source_weights: weights must be finite and not negative")
    weights = amounts * np.array([factors.get(name, 1.0) for name in names])[sources]
    if not weights.sum() > 0:
        raise InputError("source_weights: every source has the weight 0; nothing is left to draw from")
    return weights


class NumberSampler(Sampler[int]):
    """Yields the sample numbers of one rank, without end: start + rank, then every ``world``-th.

    It has no length on purpose: a run ends at its number of steps, and an epoch does not exist.
    """

    def __init__(self, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.start, self.rank, self.world = start, rank, world

    def __iter__(self) -> Iterator[int]:
        number = self.start + self.rank
        while True:
            yield number
            number += self.world
