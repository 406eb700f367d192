"""Reads the tracks of a manifest in pieces, ready to be encoded.

Shape letters: B pieces, C channels, N samples.
"""

import multiprocessing
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.audio_io import read_audio
from datamodules.errors import InputError
from datamodules.manifest import Manifest
from datamodules.storage import StorageError
from datamodules.tokens.plan import Encoding, plan_batches

_TOLERANCE = 1.0  # seconds by which a file may be longer or shorter than its manifest says


@dataclass
class PieceBatch:
    """Pieces of equal length.

    Attributes:
        shard: which shard they belong to.
        pieces: (track, window) of each, tracks counted from the shard's first.
        audio: [B, C, N] float32; None if not one could be read.
        failed: (track, reason) of those that could not be read.
        done: whether the shard ends with this batch.
        unreachable: why the store of the audio could not be reached, if so.
    """

    shard: int
    pieces: list[tuple[int, int]]
    audio: Tensor | None
    failed: list[tuple[int, str]]
    done: bool
    unreachable: str = ""


@dataclass
class PieceDataset(Dataset[PieceBatch]):
    """The batches of some shards, one after the other; item i is a whole batch.

    Attributes:
        manifest: the tracks.
        encoding: how they are cut.
        shards: (number, places of its tracks in the manifest) of each shard.
        batch_size: pieces of a batch, at most.
    """

    manifest: Manifest
    encoding: Encoding
    shards: Sequence[tuple[int, range]]
    batch_size: int
    ends: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.ends = list(accumulate(len(self._batches(tracks)) for _, tracks in self.shards))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> PieceBatch:
        which = bisect_right(self.ends, index)
        number, tracks = self.shards[which]
        pieces = _plan(self._windows(tracks), self.batch_size)[index - self.ends[which]]
        batch = PieceBatch(number, [], None, [], done=index + 1 == self.ends[which])
        audio = []
        for track, window in pieces:
            try:
                audio.append(self._read(tracks[track], window))
                batch.pieces.append((track, window))
            except StorageError as error:
                batch.unreachable = str(error)
            except InputError as error:
                batch.failed.append((track, str(error)))
        batch.audio = torch.stack(audio) if audio else None
        return batch

    @property
    def seconds(self) -> float:
        """Of all tracks together."""
        return float(sum(self.manifest.durations[tracks.start : tracks.stop].sum() for _, tracks in self.shards))

    def _batches(self, tracks: range) -> list[list[tuple[int, int]]]:
        return plan_batches(self._windows(tracks), self.batch_size)

    def _windows(self, tracks: range) -> tuple[int, ...]:
        durations = self.manifest.durations[tracks.start : tracks.stop].tolist()
        return tuple(self.encoding.windows(self.encoding.samples(seconds)) for seconds in durations)

    def _read(self, place: int, window: int) -> Tensor:
        """One window [C, N] of a track; the last one to the track's end."""
        encoding = self.encoding
        track = self.manifest[place]
        rate, samples = encoding.sample_rate, encoding.samples(track.duration)
        start = window * encoding.step
        last = window == encoding.windows(samples) - 1
        slack = round(_TOLERANCE * rate) if last else 0
        wanted = samples - start if last else encoding.length
        wav = read_audio(
            self.manifest.file(track),
            sample_rate=rate,
            channels=encoding.channels,
            start=start / rate,
            # A little more than there should be, to notice what is longer.
            duration=(wanted + 2 * slack) / rate,
        )
        if not max(1, wanted - slack) <= wav.shape[-1] <= wanted + slack:
            than = "shorter" if wav.shape[-1] < wanted else "longer"
            raise InputError(
                f"{track.path}: {than} than the {track.duration:.2f} s of its manifest; make the manifest anew"
            )
        if wav.shape[-1] < encoding.hop:
            raise InputError(
                f"{track.path}: {wav.shape[-1]} samples are less than a frame of the codec, {encoding.hop}"
            )
        return wav


@lru_cache(maxsize=2)
def _plan(windows: tuple[int, ...], batch_size: int) -> list[list[tuple[int, int]]]:
    return plan_batches(windows, batch_size)


def piece_loader(dataset: PieceDataset, workers: int) -> "DataLoader[PieceBatch]":
    """Loads the batches in their order, ``workers`` of them ahead."""
    context = multiprocessing.get_context("forkserver") if workers else None
    if context:
        context.set_forkserver_preload([__name__])
    return DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=context)
