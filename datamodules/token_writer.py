"""Writes a token store: every track of a manifest through a codec.

Shape letters: B items, C channels, N samples, K codebooks, T frames.
"""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from datamodules.audio_io import read_audio
from datamodules.errors import InputError
from datamodules.manifest import Track
from datamodules.tokens import INDEX, TokenTrack

_SHARD_VALUES = 2**27  # 256 MiB of uint16


class TokenCodec(Protocol):
    """What the writer needs of a codec; any object with these attributes will do."""

    checksum: str

    @property
    def sample_rate(self) -> int:
        """Hz."""

    @property
    def channels(self) -> int:
        """Audio channels."""

    @property
    def frame_rate(self) -> float:
        """Frames a second."""

    @property
    def codebooks(self) -> int:
        """Codebooks, K."""

    @property
    def entries(self) -> int:
        """Entries of each codebook."""

    def encode(self, wav: Tensor) -> Tensor:
        """Waveform [B, C, N] -> codes [B, K, T]."""


def write_tokens(
    tracks: Iterable[Track], codec: TokenCodec, out: str | Path, progress: Callable[[Track], None] = lambda track: None
) -> None:
    """Encodes whole tracks and writes the store; the index comes last, so a store is whole or absent.

    Args:
        tracks: what to encode.
        codec: what to encode it with.
        out: folder of the store.
        progress: called after each track.

    Raises:
        InputError: the codec has no checksum (its weights were never saved), has more entries than uint16 holds, or a
            track cannot be read.
    """
    if not codec.checksum:
        raise InputError("tokens need a codec with saved weights, by whose checksum they can be told; save it first")
    if codec.entries > 2**16:
        raise InputError(f"the token store keeps 16 bits a code; {codec.entries} entries do not fit")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    index: list[TokenTrack] = []
    writer = _ShardWriter(folder)
    for track in tracks:
        wav = read_audio(track.path, sample_rate=codec.sample_rate, channels=codec.channels)
        codes = codec.encode(wav[None])[0].cpu().numpy().astype("<u2")
        shard, offset = writer.append(codes)
        index.append(TokenTrack(track.id, track.caption, track.split, shard, offset, codes.shape[1]))
        progress(track)
    writer.close()
    header = {
        "codec": codec.checksum,
        "frame_rate": codec.frame_rate,
        "codebooks": codec.codebooks,
        "entries": codec.entries,
        "tracks": [asdict(track) for track in index],
    }
    partial = folder / (INDEX + ".partial")
    partial.write_text(json.dumps(header), encoding="utf-8")
    partial.replace(folder / INDEX)


class _ShardWriter:
    """Appends arrays to shards of bounded size, each renamed into place when it is full."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number, self.values = folder, 0, 0
        self.file = self._partial().open("wb")

    def append(self, codes: np.ndarray[Any, Any]) -> tuple[str, int]:
        if self.values and self.values + codes.size > _SHARD_VALUES:
            self.close()
            self.number, self.values = self.number + 1, 0
            self.file = self._partial().open("wb")
        offset = self.values
        self.file.write(np.ascontiguousarray(codes).tobytes())
        self.values += codes.size
        return self._name(), offset

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self._partial().replace(self.folder / self._name())

    def _name(self) -> str:
        return f"tokens-{self.number:05d}.bin"

    def _partial(self) -> Path:
        return self.folder / (self._name() + ".partial")
