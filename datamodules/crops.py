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
from datamodules.captions import CaptionConfig, training_caption
from datamodules.errors import InputError
from datamodules.failures import Failure, FailureCount
from datamodules.loading import NumberedDataModule
from datamodules.manifest import Manifest, Track, read_manifest
from datamodules.sample_order import SampleOrder, weigh_sources

_PLAIN = CaptionConfig()
# More than so many unreadable draws for one sample are no accident.
_ATTEMPTS = 10


@dataclass
class Crop:
    """One crop, and where it came from.

    Attributes:
        audio: [C, n], n at most the crop's length.
        track: whose.
        number: of the sample in the run.
        caption: the sample's text.
        start: where in the track, in seconds.
        failures: draws of this sample that could not be read, and for which this one stands in.
    """

    audio: Tensor
    track: Track
    number: int
    caption: str
    start: float
    failures: list[Failure]


@dataclass(frozen=True)
class CropShape:
    """Length in seconds, rate in Hz and channels of a crop."""

    seconds: float
    sample_rate: int
    channels: int


class CropDataset(Dataset[Crop]):
    """Sample n: a random range of a random track.

    Tracks are drawn with probability proportional to their durations, times the weights of their sources. A track that
    cannot be read is replaced by another draw, which is as fixed by the sample's number as the first.

    Args:
        tracks: what to draw from.
        shape: of the crops.
        seed: the run's seed.
        captions: how captions are augmented.
        source_weights: factor of each source in the draws; 1 for those that are not named.
    """

    def __init__(
        self,
        tracks: Manifest,
        shape: CropShape,
        seed: int,
        captions: CaptionConfig = _PLAIN,
        source_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.tracks, self.shape, self.seed, self.captions = tracks, shape, seed, captions
        weights = weigh_sources(tracks.durations, tracks.rows["source"], tracks.sources, source_weights or {})
        self.order = SampleOrder(weights, seed)

    def __getitem__(self, number: int) -> Crop:
        failures: list[Failure] = []
        while True:
            draw = self.order.draw(number, len(failures))
            track = self.tracks[draw.track]
            start = draw.position * max(0.0, track.duration - self.shape.seconds)
            try:
                audio = self._read(track, start)
            except InputError as error:
                failures.append(Failure(number, track.id, str(error)))
                if len(failures) == _ATTEMPTS:
                    raise InputError(f"sample {number}: {_ATTEMPTS} draws in a row cannot be read; {error}") from error
                continue
            caption = training_caption(track.caption, track.facts, self.captions, self.seed, number)
            return Crop(audio, track, number, caption, start, failures)

    def __getitems__(self, numbers: list[int]) -> list[Crop]:
        """A batch; of a manifest behind a URL its files are fetched side by side."""
        if not self.tracks.local:
            self.tracks.ahead([self.order.draw(number).track for number in numbers])
        return [self[number] for number in numbers]

    def _read(self, track: Track, start: float) -> Tensor:
        shape = self.shape
        audio = read_audio(
            self.tracks.file(track),
            sample_rate=shape.sample_rate,
            channels=shape.channels,
            start=start,
            duration=shape.seconds,
        )
        if not audio.shape[-1]:
            raise InputError(f"{track.path}: nothing can be read at {start:.1f} s of {track.duration:.1f} s")
        return audio


class AudioCropDataModule(NumberedDataModule):
    """Streams waveform crops of a manifest's tracks.

    Args:
        manifest: a manifest, or a folder that holds one, on disk or behind a URL, with the splits "train" and "valid".
        seconds: length of a crop; the paper's language model sees 30 s, its codec 1 s.
        sample_rate: Hz of the crops; files at other rates are resampled.
        channels: 1 mixes down, 2 doubles mono.
        batch_size: items a micro-batch and device.
        workers: loader processes a device.
        seed: the run's seed.
        valid_items: fixed validation crops, with plain captions.
        captions: how the captions of training samples are augmented.
        source_weights: factor by which each source's share of the training samples is multiplied; 1 for those that are
            not named.
        max_failures: share of draws that may be unreadable before the run is stopped.
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
        captions: CaptionConfig = _PLAIN,
        source_weights: dict[str, float] | None = None,
        max_failures: float = 0.01,
    ) -> None:
        super().__init__(batch_size, workers, seed, valid_items)
        if seconds <= 0:
            raise InputError(f"a crop of {seconds} s is empty; data.seconds must be positive")
        if not 0 <= max_failures <= 1:
            raise InputError(f"max_failures is a share between 0 and 1, got {max_failures}")
        self.manifest, self.seconds = manifest, seconds
        self.shape = CropShape(seconds, sample_rate, channels)
        self.captions, self.source_weights = captions, source_weights
        self.failures = FailureCount(max_failures)
        self._opened: Manifest | None = None

    def samples(self, split: str, seed: int) -> CropDataset:
        """The numbered crops of a split; outside training with plain captions, sources as they are."""
        if self._opened is None:
            self._opened = read_manifest(self.manifest)
        tracks = self._opened.split(split)
        if split != "train":
            return CropDataset(tracks, self.shape, seed)
        return CropDataset(tracks, self.shape, seed, self.captions, self.source_weights)

    def on_before_batch_transfer(self, batch: AudioBatch, dataloader_idx: int) -> AudioBatch:
        """Counts what could not be read.

        Raises:
            InputError: more than ``max_failures`` of the draws failed.
        """
        self.failures.add(len(batch.tracks), batch.failures)
        return batch

    @property
    def collate(self) -> Callable[[list[Crop]], AudioBatch]:
        """Pads to the crop's length, so that every batch has one shape."""
        return Collate(round(self.seconds * self.shape.sample_rate))


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
            captions=[crop.caption for crop in crops],
            numbers=torch.tensor([crop.number for crop in crops]),
            tracks=[crop.track.id for crop in crops],
            facts=facts,
            failures=[failure for crop in crops for failure in crop.failures],
        )
