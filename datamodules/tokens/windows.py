"""Random windows of a token store, with their captions, as batches.

Shape letters: B items, K codebooks, T frames.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batches import TokenBatch
from datamodules.captions import CaptionConfig, training_caption
from datamodules.errors import InputError
from datamodules.loading import NumberedDataModule
from datamodules.sample_order import SampleOrder, weigh_sources
from datamodules.tokens.format import SILENT
from datamodules.tokens.store import TokenStore, TokenTrack

_PLAIN = CaptionConfig()
# Of a remote store the shards of the sample that comes so much later are fetched in the background.
_AHEAD = 512


@dataclass
class TokenWindow:
    """One window as the store has it, and where it came from.

    Attributes:
        stored: [K, n] uint16, n at most the window's length.
        track: whose.
        number: of the sample in the run.
        caption: the sample's text.
        start: where in the track, in seconds.
        chroma: uint8, the strongest pitch classes of the same seconds, 255 where it is silent.
    """

    stored: "np.ndarray[Any, Any]"
    track: TokenTrack
    number: int
    caption: str
    start: float
    chroma: "np.ndarray[Any, Any]"

    @property
    def codes(self) -> Tensor:
        """[K, n] int64."""
        return torch.from_numpy(self.stored.astype(np.int64))


class TokenDataset(Dataset[TokenWindow]):
    """Sample n: a random window of a random track.

    Tracks are drawn with probability proportional to their lengths, times the weights of their sources.

    Args:
        store: what to draw from.
        split: of which split.
        frames: length of a window.
        seed: the run's seed.
        captions: how captions are augmented.
        source_weights: factor of each source in the draws; 1 for those that are not named.
    """

    def __init__(
        self,
        store: TokenStore,
        split: str,
        frames: int,
        seed: int,
        captions: CaptionConfig = _PLAIN,
        source_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.store, self.frames, self.seed, self.captions = store, frames, seed, captions
        self.tracks = store.split(split)
        lengths, sources = self.tracks.column("frames"), self.tracks.column("source")
        self.order = SampleOrder(weigh_sources(lengths, sources, store.header.sources, source_weights or {}), seed)

    def __getitem__(self, number: int) -> TokenWindow:
        draw = self.order.draw(number)
        if self.store.remote:
            self.store.ahead(int(self.tracks.numbers[self.order.draw(number + _AHEAD).track]))
        track = self.tracks[draw.track]
        start = int(draw.position * max(1, track.frames - self.frames + 1))
        return token_window(
            self.store,
            track,
            start,
            self.frames,
            number,
            training_caption(track.caption, track.facts, self.captions, self.seed, number),
        )


def token_window(
    store: TokenStore, track: TokenTrack, start: int, frames: int, number: int = 0, caption: str | None = None
) -> TokenWindow:
    """The window of a track from frame ``start`` on; by default with the track's own caption."""
    return TokenWindow(
        stored=store.window(track, start, frames),
        track=track,
        number=number,
        caption=track.caption if caption is None else caption,
        start=start / store.frame_rate,
        chroma=store.chroma(track, start, frames),
    )


class TokenDataModule(NumberedDataModule):
    """Streams random windows of a token store.

    Args:
        store: folder or URL of a store written by ``mgl tokens``, with the splits "train" and "valid".
        seconds: length of a window.
        batch_size: items a micro-batch and device.
        workers: loader processes a device.
        seed: the run's seed.
        valid_items: fixed validation windows, with plain captions.
        captions: how the captions of training samples are augmented.
        source_weights: factor by which each source's share of the training samples is multiplied; 1 for those that are
            not named.
    """

    def __init__(
        self,
        store: str,
        seconds: float = 30.0,
        batch_size: int = 6,
        workers: int = 2,
        seed: int = 0,
        valid_items: int = 256,
        captions: CaptionConfig = _PLAIN,
        source_weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(batch_size, workers, seed, valid_items)
        self.store, self.captions, self.source_weights = TokenStore(store), captions, source_weights
        self.frames = round(seconds * self.store.frame_rate)
        if self.frames < 1:
            raise InputError(f"data.seconds={seconds} is shorter than one frame at {self.store.frame_rate:g} Hz")

    def samples(self, split: str, seed: int) -> TokenDataset:
        """The numbered windows of a split."""
        if split == "train":
            return TokenDataset(self.store, split, self.frames, seed, self.captions, self.source_weights)
        return TokenDataset(self.store, split, self.frames, seed)

    @property
    def collate(self) -> Callable[[list[TokenWindow]], TokenBatch]:
        """Pads to the window's length, so that every batch has one shape."""
        return Collate(self.frames, self.store.header.chroma_frames(self.frames))


@dataclass(frozen=True)
class Collate:
    """Windows -> TokenBatch of ``frames`` frames of codes and ``chroma_frames`` of chroma."""

    frames: int
    chroma_frames: int

    def __call__(self, windows: list[TokenWindow]) -> TokenBatch:
        """Joins windows of at most ``frames`` frames, zeros to their right."""
        codes = np.zeros((len(windows), len(windows[0].stored), self.frames), dtype=np.int64)
        chroma = np.full((len(windows), self.chroma_frames), SILENT, dtype=np.uint8)
        for row, classes, window in zip(codes, chroma, windows, strict=True):
            row[:, : window.stored.shape[1]] = window.stored
            classes[: len(window.chroma)] = window.chroma
        return TokenBatch(
            codes=torch.from_numpy(codes),
            lengths=torch.tensor([window.stored.shape[1] for window in windows]),
            captions=[window.caption for window in windows],
            numbers=torch.tensor([window.number for window in windows]),
            tracks=[window.track.id for window in windows],
            chroma=torch.from_numpy(chroma),
        )
