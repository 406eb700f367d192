"""Crops of waveforms: ranges read from the compressed tracks, with their captions.

Shape letters: B items, C channels, N samples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.audio_io import read_audio
from datamodules.batches import AudioBatch
from datamodules.errors import InputError
from datamodules.loading import NumberedDataModule
from datamodules.manifest import Track, read_manifest
from datamodules.sample_order import SampleOrder


@dataclass
class Crop:
    """One crop: audio [C, n] with n at most the crop's length, and where it came from."""

    audio: Tensor
    track: Track
    number: int


class CropDataset(Dataset[Crop]):
    """Sample n: a random range of a random track, drawn with probability proportional to the tracks' durations."""

    def __init__(self, tracks: list[Track], seconds: float, sample_rate: int, channels: int, seed: int) -> None:
        self.tracks, self.seconds = tracks, seconds
        self.sample_rate, self.channels = sample_rate, channels
        self.order = SampleOrder([track.duration for track in tracks], seed)

    def __getitem__(self, number: int) -> Crop:
        draw = self.order.draw(number)
        track = self.tracks[draw.track]
        start = draw.position * max(0.0, track.duration - self.seconds)
        audio = read_audio(
            track.path, sample_rate=self.sample_rate, channels=self.channels, start=start, duration=self.seconds
        )
        return Crop(audio[:, : round(self.seconds * self.sample_rate)], track, number)


class AudioCropDataModule(NumberedDataModule):
    """Streams waveform crops of a manifest's tracks.

    Args:
        manifest: a manifest, or a folder that holds one, with the splits "train" and "valid".
        seconds: length of a crop; the paper's language model sees 30 s, its codec 1 s.
        sample_rate: Hz of the crops; files at other rates are resampled.
        channels: 1 mixes down, 2 doubles mono.
        batch_size: items a micro-batch and device.
        workers: loader processes a device.
        seed: the run's seed.
        valid_items: fixed validation crops.
    """

    def __init__(
        self,
        manifest: str,
        seconds: float = 30.0,
        sample_rate: int = 32000,
        channels: int = 1,
        batch_size: int = 8,
        workers: int = 4,
        seed: int = 0,
        valid_items: int = 64,
    ) -> None:
        super().__init__(batch_size, workers, seed, valid_items)
        if seconds <= 0:
            raise InputError(f"a crop of {seconds} s is empty; data.seconds must be positive")
        self.manifest, self.seconds = manifest, seconds
        self.sample_rate, self.channels = sample_rate, channels

    def samples(self, split: str, seed: int) -> CropDataset:
        """The numbered crops of a split."""
        return CropDataset(read_manifest(self.manifest, split), self.seconds, self.sample_rate, self.channels, seed)

    @property
    def collate(self) -> Callable[[list[Crop]], AudioBatch]:
        """Pads to the crop's length, so that every batch has one shape."""
        return Collate(round(self.seconds * self.sample_rate))


@dataclass(frozen=True)
class Collate:
    """Crops -> AudioBatch with N = ``samples``."""

    samples: int

    def __call__(self, crops: list[Crop]) -> AudioBatch:
        """Joins crops of at most ``samples`` samples, zeros to their right."""
        channels = crops[0].audio.shape[0]
        audio = torch.zeros(len(crops), channels, self.samples)
        for row, crop in zip(audio, crops, strict=True):
            row[:, : crop.audio.shape[1]] = crop.audio
        facts: list[Mapping[str, Any]] = [crop.track.facts for crop in crops]
        return AudioBatch(
            audio=audio,
            lengths=torch.tensor([crop.audio.shape[1] for crop in crops]),
            captions=[crop.track.caption for crop in crops],
            numbers=torch.tensor([crop.number for crop in crops]),
            tracks=[crop.track.id for crop in crops],
            facts=facts,
        )
