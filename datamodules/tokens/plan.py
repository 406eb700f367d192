"""How a manifest is encoded: in shards of consecutive tracks, each track in windows, windows in batches.

Everything here follows from the manifest and the codec alone, not from how many processes share the work, so that the
same store comes out whoever writes which shard, and however often they are interrupted.

A window is encoded with context on both sides, which is thrown away. Windows begin at multiples of the codec's hop and
of the chroma's, so that the frames of both fall on the same samples as if the whole track were encoded at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, lcm
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from datamodules.errors import InputError

CHROMA_WINDOW, CHROMA_HOP = 2**14, 2**12  # samples
_SHARDS = 64
_SHORTEST, _LONGEST = 0.25 * 3600, 10 * 3600  # seconds of a shard: what an interruption may cost
_LEFT, _CORE, _RIGHT = 2.56, 30.72, 0.64  # seconds of a window


class TokenCodec(Protocol):
    """What tokens need of a codec; any object with these attributes will do."""

    checksum: str

    @property
    def sample_rate(self) -> int:
        """Hz."""

    @property
    def channels(self) -> int:
        """Audio channels."""

    @property
    def hop(self) -> int:
        """Samples a frame."""

    @property
    def codebooks(self) -> int:
        """Codebooks, K."""

    @property
    def entries(self) -> int:
        """Entries of each codebook."""

    def encode(self, wav: Tensor) -> Tensor:
        """Waveform [B, C, N] -> codes [B, K, T]."""


@dataclass(frozen=True)
class Encoding:
    """What a store depends on, besides the audio: the codec, how tracks are cut for it, and what melodies are heard in.

    Attributes:
        codec: its checksum.
        sample_rate: Hz.
        channels: audio channels.
        hop: samples a frame of codes.
        codebooks: K.
        entries: entries of each codebook.
        length: samples of a window.
        left: of these, the context before what is kept.
        right: and the context behind it.
        stems: the separator whose stems the chroma is of; empty for the full mix.
    """

    codec: str
    sample_rate: int
    channels: int
    hop: int
    codebooks: int
    entries: int
    length: int
    left: int
    right: int
    stems: str = ""

    @property
    def step(self) -> int:
        """Samples from one window to the next."""
        return self.length - self.left - self.right

    def samples(self, seconds: float) -> int:
        """Samples of a track, at least one."""
        return max(1, round(seconds * self.sample_rate))

    def windows(self, samples: int) -> int:
        """Windows of a track: window i begins at i steps, and the last one ends where the track does."""
        return 1 + max(0, ceil((samples - self.length) / self.step))

    def kept(self, first: bool, last: bool, frames: int, hop: int) -> slice:
        """Which of the ``frames`` frames of ``hop`` samples that a window gave are kept."""
        return slice(0 if first else self.left // hop, frames if last else (self.length - self.right) // hop)


def encoding(codec: TokenCodec, stems: str = "") -> Encoding:
    """The encoding of a codec: 30.72 s are kept of a window at 32 kHz, after 2.56 s and before 0.64 s of context.

    At other rates and hops these lengths are rounded to what both hops divide, and context is never shorter than what
    the chroma of the kept part hears.

    Raises:
        InputError: the codec has no checksum (its weights were never saved), or more entries than uint16 holds.
    """
    if not codec.checksum:
        raise InputError("tokens need a codec with saved weights, by whose checksum they can be told; save it first")
    if codec.entries > 2**16:
        raise InputError(f"the token store keeps 16 bits a code; {codec.entries} entries do not fit")
    unit = lcm(codec.hop, CHROMA_HOP)
    left, right = (
        unit * ceil(max(seconds * codec.sample_rate, CHROMA_WINDOW / 2) / unit) for seconds in (_LEFT, _RIGHT)
    )
    core = unit * max(1, round(_CORE * codec.sample_rate / unit))
    return Encoding(
        codec.checksum,
        codec.sample_rate,
        codec.channels,
        codec.hop,
        codec.codebooks,
        codec.entries,
        left + core + right,
        left,
        right,
        stems,
    )


def plan_shards(durations: "Sequence[float] | np.ndarray[Any, Any]") -> list[range]:
    """Consecutive tracks for each shard: 64 shards of about the same duration, or as many as make 0.25 to 10 h each.

    Args:
        durations: of the tracks, in seconds.

    Returns:
        For each shard the places of its tracks; at least one a shard.
    """
    ends = np.cumsum(durations, dtype=np.float64)
    seconds = min(max(float(ends[-1]) / _SHARDS, _SHORTEST), _LONGEST)
    begins = np.concatenate([[0.0], ends[:-1]])
    _, firsts = np.unique(begins // seconds, return_index=True)
    return [range(int(first), int(end)) for first, end in zip(firsts, [*firsts[1:], len(begins)], strict=True)]


def plan_batches(windows: Sequence[int], batch_size: int) -> list[list[tuple[int, int]]]:
    """Puts a shard's windows into batches: full ones together, the last window of each track alone.

    So nothing is ever padded. The last window of a track may come before its full ones.

    Args:
        windows: of each track, how many.
        batch_size: windows of a batch, at most.

    Returns:
        Batches of (track, window).
    """
    batches: list[list[tuple[int, int]]] = []
    full: list[tuple[int, int]] = []
    for track, count in enumerate(windows):
        for window in range(count - 1):
            full.append((track, window))
            if len(full) == batch_size:
                batches.append(full)
                full = []
        batches.append([(track, count - 1)])
    return [*batches, full] if full else batches
