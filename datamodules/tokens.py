"""The token store: codes of whole tracks in memory-mapped shards, and random windows of them.

A store is a folder with ``index.json`` and raw shards ``tokens-00000.bin``: for each track uint16 codes [K, T], little
endian, one track after the other. The index names the codec (by checksum), frame rate, K, entries, and for each track
its shard, offset, frames, caption and split.

Shape letters: B items, K codebooks, T frames.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batches import TokenBatch
from datamodules.errors import InputError
from datamodules.loading import NumberedDataModule
from datamodules.sample_order import SampleOrder

INDEX = "index.json"


@dataclass(frozen=True)
class TokenTrack:
    """Where the codes of one track lie. ``offset`` counts uint16 values from the start of its shard."""

    id: str
    caption: str
    split: str
    shard: str
    offset: int
    frames: int


class TokenStore:
    """A store opened for reading; shards are mapped, never read whole.

    Attributes:
        codec: checksum of the codec that wrote the codes.
        frame_rate: frames a second.
        codebooks: K.
        entries: entries of each codebook.
        tracks: every track.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / INDEX
        if not path.is_file():
            raise InputError(f"{folder}: holds no token store ({INDEX} is missing); write one with `mgl tokens`")
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            self.codec: str = index["codec"]
            self.frame_rate: float = index["frame_rate"]
            self.codebooks: int = index["codebooks"]
            self.entries: int = index["entries"]
            self.tracks = [TokenTrack(**track) for track in index["tracks"]]
        except (KeyError, TypeError, ValueError) as error:  # ValueError: no JSON, or no UTF-8
            raise InputError(
                f"{path}: not a token store's index ({error!r}); write it anew with `mgl tokens`"
            ) from error
        self._check_shards()
        self._maps: dict[str, np.ndarray[Any, Any]] = {}

    def _check_shards(self) -> None:
        needed: dict[str, int] = {}
        for track in self.tracks:
            if Path(track.shard).name != track.shard:
                raise InputError(f"{self.folder}: shard {track.shard!r} lies outside the store")
            places = (track.offset, track.frames)
            if not all(isinstance(place, int) and place >= 0 for place in places):
                raise InputError(f"{self.folder}: track {track.id!r} lies at no place; write the store anew")
            needed[track.shard] = max(needed.get(track.shard, 0), track.offset + track.frames * self.codebooks)
        for shard, values in needed.items():
            path = self.folder / shard
            if not path.is_file() or path.stat().st_size < 2 * values:
                raise InputError(f"{path}: missing or cut short; write the store anew with `mgl tokens`")

    def split(self, name: str) -> list[TokenTrack]:
        """The tracks of a split; at least one."""
        tracks = [track for track in self.tracks if track.split == name]
        if not tracks:
            raise InputError(f"{self.folder}: the token store has no tracks in split {name!r}")
        return tracks

    def window(self, track: TokenTrack, start: int = 0, frames: int | None = None) -> np.ndarray[Any, Any]:
        """Codes [K, n] uint16 from frame ``start`` on; n is ``frames`` or what is left of the track."""
        shard = self._maps.get(track.shard)
        if shard is None:
            shard = self._maps[track.shard] = np.memmap(self.folder / track.shard, dtype="<u2", mode="r")
        codes = shard[track.offset : track.offset + self.codebooks * track.frames]
        stop = track.frames if frames is None else start + frames
        return codes.reshape(self.codebooks, track.frames)[:, start:stop]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # maps are opened anew in a loader's process


@dataclass
class TokenWindow:
    """One window: codes [K, n] with n at most the window's length, and where it came from."""

    codes: Tensor
    track: TokenTrack
    number: int


class TokenDataset(Dataset[TokenWindow]):
    """Sample n: a random window of a random track, drawn with probability proportional to the tracks' lengths."""

    def __init__(self, store: TokenStore, split: str, frames: int, seed: int) -> None:
        self.store, self.frames = store, frames
        self.tracks = store.split(split)
        self.order = SampleOrder([track.frames for track in self.tracks], seed)

    def __getitem__(self, number: int) -> TokenWindow:
        draw = self.order.draw(number)
        track = self.tracks[draw.track]
        starts = max(1, track.frames - self.frames + 1)
        codes = self.store.window(track, int(draw.position * starts), self.frames)
        return TokenWindow(torch.from_numpy(codes.astype(np.int64)), track, number)


class TokenDataModule(NumberedDataModule):
    """Streams random windows of a token store.

    Args:
        store: folder written by ``mgl tokens``, with the splits "train" and "valid".
        seconds: length of a window.
        batch_size: items a micro-batch and device.
        workers: loader processes a device.
        seed: the run's seed.
        valid_items: fixed validation windows.
    """

    def __init__(
        self,
        store: str,
        seconds: float = 30.0,
        batch_size: int = 6,
        workers: int = 2,
        seed: int = 0,
        valid_items: int = 256,
    ) -> None:
        super().__init__(batch_size, workers, seed, valid_items)
        self.store = TokenStore(store)
        self.frames = round(seconds * self.store.frame_rate)
        if self.frames < 1:
            raise InputError(f"data.seconds={seconds} is shorter than one frame at {self.store.frame_rate:g} Hz")

    def samples(self, split: str, seed: int) -> TokenDataset:
        """The numbered windows of a split."""
        return TokenDataset(self.store, split, self.frames, seed)

    @property
    def collate(self) -> Callable[[list[TokenWindow]], TokenBatch]:
        """Pads to the window's length, so that every batch has one shape."""
        return Collate(self.frames)


@dataclass(frozen=True)
class Collate:
    """Windows -> TokenBatch with T = ``frames``."""

    frames: int

    def __call__(self, windows: list[TokenWindow]) -> TokenBatch:
        """Joins windows of at most ``frames`` frames, zeros to their right."""
        codebooks = windows[0].codes.shape[0]
        codes = torch.zeros(len(windows), codebooks, self.frames, dtype=torch.int64)
        for row, window in zip(codes, windows, strict=True):
            row[:, : window.codes.shape[1]] = window.codes
        return TokenBatch(
            codes=codes,
            lengths=torch.tensor([window.codes.shape[1] for window in windows]),
            captions=[window.track.caption for window in windows],
            numbers=torch.tensor([window.number for window in windows]),
            tracks=[window.track.id for window in windows],
        )
