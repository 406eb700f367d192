"""Everything random is a pure function of (seed, number, purpose).

Sample ``n`` of a run is the same sample on any number of workers, ranks and machines, before and after a resume,
because nothing random is ever stored: each draw is a hash of its own key.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate

from torch.utils.data import Sampler


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

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError("weights must be non-negative and not all zero")
        self.cumulative = list(accumulate(weights))
        self.seed = seed

    def draw(self, number: int) -> Draw:
        """Sample ``number``: a pure function of the seed and the number."""
        point = uniform(self.seed, number, "track") * self.cumulative[-1]
        track = min(bisect_right(self.cumulative, point), len(self.cumulative) - 1)
        return Draw(track, uniform(self.seed, number, "position"))


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
