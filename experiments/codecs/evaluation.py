"""What a codec does to whole clips: it encodes and decodes each, measures, and keeps the excerpts it did worst on.

Shape letters: C channels, N samples, K codebooks, T frames.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from datamodules.audio_io import read_audio
from datamodules.errors import InputError
from datamodules.manifest import Manifest
from evaluation.tables import MetricText
from evaluation.uncertainty import FEWEST_FOR_INTERVAL, LEVEL, RESAMPLES, bootstrap_mean
from lightning_modules.codec.baselines import CodedClip, FileCodec, container_bytes
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.losses import SCALES
from lightning_modules.codec.measures import (
    MOST_DECIBELS,
    SEGMENT_SECONDS,
    SHORTEST,
    STFT_WINDOWS,
    CodebookCounts,
    ReconstructionMeasures,
)
from lightning_modules.codec.visqol import PIECE_SECONDS, Visqol

METRICS = (
    MetricText("si_sdr", "SI-SDR, dB", "higher", "how far the original stands above what was added to it"),
    MetricText("mel_distance", "Mel distance", "lower", "mean difference of log mel magnitudes, in powers of ten"),
    MetricText(
        "stft_distance", "STFT distance", "lower", "spectral convergence plus mean difference of log magnitudes"
    ),
    MetricText("visqol", "ViSQOL", "higher", "modelled opinion of listeners, 1 to 4.7; fitted at 24 kbit/s and more"),
)
_SILENT = "every original is silent or too short"
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


class Excerpt(NamedTuple):
    """The stretch of a clip that a codec did worst on.

    Attributes:
        clip: the clip's row.
        original: [C, N].
        reconstruction: [C, N].
    """

    clip: dict[str, Any]
    original: Tensor
    reconstruction: Tensor


class Measured(NamedTuple):
    """What a codec did to one clip, before it counts.

    Attributes:
        clip: its row in results.json.
        reconstruction: [C, N].
        worst: where in the clip it is worst, seconds.
        coded: codes [1, K, T], or a file.
        seconds: of the clip, not rounded.
        spent: seconds that encoding and decoding took.
    """

    clip: dict[str, Any]
    reconstruction: Tensor
    worst: float
    coded: Tensor | CodedClip
    seconds: float
    spent: tuple[float, float]


class CodecEvaluation:
    """Takes clips one after the other; memory holds one of them, sums, a row a clip, and the excerpts.

    Args:
        codec: on its device.
        device: that device.
        examples: excerpts to keep: those of the clips with the largest mel distances.
        visqol: the scorer; None leaves its column out.
    """

    def __init__(
        self, codec: Codec | FileCodec, device: str = "cpu", examples: int = 8, visqol: Visqol | None = None
    ) -> None:
        self.codec, self.device, self.examples, self.visqol = codec, device, examples, visqol
        self.measures = ReconstructionMeasures(codec.sample_rate).to(device)
        self.clips: list[dict[str, Any]] = []
        self.excerpts: list[Excerpt] = []
        self.seconds: list[float] = []
        self.bits: list[float] = []
        self._spent = [0.0, 0.0]
        self.codes, self._container = None, 0
        if isinstance(codec, Codec):
            self.codes = CodebookCounts(codec.codebooks, codec.entries)
            # What a device does only once is not the codec's speed.
            silence = torch.zeros(1, codec.channels, max(codec.hop, codec.sample_rate), device=device)
            codec.decode(codec.encode(silence))

    @property
    def rate_and_channels(self) -> tuple[int, int]:
        """Of the clips: Hz, and how many."""
        return self.codec.sample_rate, self.codec.channels

    def add(self, name: str, wav: Tensor, start: float = 0.0) -> None:
        """Measures a clip [C, N] at the codec's rate, which begins ``start`` seconds into its track.

        Raises:
            InputError: it is too short, or the reconstruction is not finite; the clip is then not counted.
        """
        one = self.measure(name, wav, start)
        self.count(one)
        self._keep(one, wav)

    def measure(self, name: str, wav: Tensor, start: float = 0.0) -> Measured:
        """Measures a clip as ``add`` does, and counts nothing yet.

        Raises:
            InputError: as for ``add``.
        """
        if wav.shape[1] < SHORTEST:
            raise InputError(f"{wav.shape[1]} samples are shorter than the longest window, {SHORTEST} samples")
        coded, made, spent = self._through(wav)
        reconstruction = made[0, :, : wav.shape[1]].float().cpu()
        if not torch.isfinite(reconstruction).all():
            raise InputError("the codec gave samples that are not finite")
        score = self.measures(reconstruction, wav)
        seconds = wav.shape[1] / self.codec.sample_rate
        clip = {
            "id": name,
            "start": round(start, 3),
            "seconds": round(seconds, 3),
            **{metric.key: getattr(score, metric.key) for metric in METRICS[:-1]},
            "visqol": self.visqol(reconstruction, wav, self.codec.sample_rate) if self.visqol else None,
            "worst_at": round(start + score.worst, 3),
        }
        return Measured(clip, reconstruction, score.worst, coded, seconds, spent)

    def count(self, one: Measured) -> None:
        """Counts a clip that was measured."""
        if isinstance(one.coded, CodedClip):
            self.bits.append(8.0 * len(one.coded.content))
            self._container += container_bytes(one.coded.content)
        else:
            assert isinstance(self.codec, Codec)
            assert self.codes is not None
            self.codes.add(one.coded)
            self.bits.append(self.codec.bitrate / self.codec.frame_rate * one.coded.shape[-1])
        self.seconds.append(one.seconds)
        self._spent = [before + now for before, now in zip(self._spent, one.spent, strict=True)]
        self.clips.append(one.clip)

    def _through(self, wav: Tensor) -> tuple[Tensor | CodedClip, Tensor, tuple[float, float]]:
        """A clip as codes or a file, what these decode to, and the seconds of either way."""
        if isinstance(self.codec, Codec):
            codes, encoding = self._timed(self.codec.encode, wav[None].to(self.device))
            made, decoding = self._timed(self.codec.decode, codes)
            return codes, made, (encoding, decoding)
        file, encoding = self._timed(self.codec.encode, wav[None])
        made, decoding = self._timed(self.codec.decode, file)
        return file, made, (encoding, decoding)

    def _timed(self, function: Callable[[_Given], _Made], value: _Given) -> tuple[_Made, float]:
        begun = time.perf_counter()
        result = function(value)
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return result, time.perf_counter() - begun

    def _keep(self, one: Measured, wav: Tensor) -> None:
        start, stop = stretch(one.worst, self.codec.sample_rate)
        both = (side[:, start:stop].clone() for side in (wav, one.reconstruction))
        self.excerpts.append(Excerpt(one.clip, *both))
        self.excerpts.sort(key=lambda kept: -kept.clip["mel_distance"])
        del self.excerpts[self.examples :]

    def results(self, no_visqol: str = "") -> dict[str, Any]:
        """The figures of results.json that come from the clips; at least one was measured.

        Args:
            no_visqol: why there is no ViSQOL score, if there is none.
        """
        columns = {metric.key: [clip[metric.key] for clip in self.clips] for metric in METRICS}
        reasons = {"visqol": no_visqol or _SILENT}
        seconds = sum(self.seconds)
        return {
            "n": len(self.clips),
            "hours": seconds / 3600,
            "metrics": {key: mean_of_clips(values, reasons.get(key, _SILENT)) for key, values in columns.items()},
            **self._coding(),
            "speed": {
                "encode": seconds / self._spent[0],
                "decode": seconds / self._spent[1],
                "unit": "seconds of audio a second",
                "device": _device_name(self.device) if isinstance(self.codec, Codec) else "cpu, 1 thread",
            },
            "clips": self.clips,
        }

    def _coding(self) -> dict[str, Any]:
        """Codes, codebooks and bitrate of a neural codec; of files what was asked for and what the container takes."""
        if not isinstance(self.codec, Codec):
            container = 8 * self._container / sum(self.seconds) / 1000
            return {"bitrate": {"asked": self.codec.asked, "container": container, "unit": "kbit/s"}}
        assert self.codes is not None
        used = self.codes.use()
        entropy = sum(book.bits for book in used) * self.codec.frame_rate
        return {
            "codes": int(self.codes.counts[0].sum()),
            "codebooks": [book._asdict() for book in used],
            "bitrate": {"nominal": self.codec.bitrate / 1000, "entropy": entropy / 1000, "unit": "kbit/s"},
        }


class TakesClips(Protocol):
    """What clips are given to: one codec's evaluation, or that of several."""

    clips: list[dict[str, Any]]

    @property
    def rate_and_channels(self) -> tuple[int, int]:
        """Of the clips: Hz, and how many."""

    def add(self, name: str, wav: Tensor, start: float = 0.0) -> None:
        """Measures a clip [C, N]."""


def evaluate_tracks(
    evaluation: TakesClips,
    manifest: Manifest,
    seconds: float | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> list[dict[str, str]]:
    """Measures every track of a manifest.

    Args:
        evaluation: takes the clips.
        manifest: the tracks.
        seconds: length of the stretch that is taken from the middle of a longer track; None takes whole tracks.
        progress: told how many seconds are done.

    Returns:
        Tracks that could not be measured, with the reason.

    Raises:
        InputError: not one could be.
    """
    failed, done = [], 0.0
    rate, channels = evaluation.rate_and_channels
    for place, track in enumerate(manifest):
        manifest.ahead([place + 1] if place + 1 < len(manifest) else [])
        length = track.duration if seconds is None else min(seconds, track.duration)
        start = (track.duration - length) / 2
        try:
            file = manifest.file(track)
            wav = read_audio(file, sample_rate=rate, channels=channels, start=start, duration=seconds)
            evaluation.add(track.id, wav, start)
        except InputError as error:
            failed.append({"id": track.id, "reason": str(error)})
        done += length
        progress(done)
    if not evaluation.clips:
        raise InputError(
            f"none of {len(failed)} tracks could be measured; the first, {failed[0]['id']}: {failed[0]['reason']}"
        )
    return failed


def chosen_tracks(manifest: Manifest, split: str, clips: int | None) -> Manifest:
    """The tracks of a split, or of all for "", and of these at most ``clips``, spread evenly over the manifest.

    Raises:
        InputError: no such split.
    """
    if split:
        there = sorted({manifest.splits[code] for code in manifest.rows["split"]} - {""})
        if split not in there:
            known = f"it has {', '.join(there)}" if there else "it has no splits"
            raise InputError(
                f"{manifest.path}: no track is in split {split!r}; {known}, and --split '' takes all tracks"
            )
        manifest = manifest.split(split)
    count = len(manifest) if clips is None else min(clips, len(manifest))
    # The middles of as many equal parts: neighbours in a manifest are often of one album.
    places = [(2 * number + 1) * len(manifest) // (2 * count) for number in range(count)]
    return Manifest(manifest.folder, manifest.name, manifest.rows[places], manifest.splits, manifest.sources)


def protocol(manifest: Manifest, split: str, seconds: float | None, versions: Mapping[str, str]) -> dict[str, Any]:
    """Everything that the figures depend on beside the codec."""
    return {
        "manifest": str(manifest.path),
        "sha256": sha256(manifest.path.read_bytes()).hexdigest(),
        "split": split or None,
        "tracks": len(manifest),
        "seconds": seconds,
        "heard": "whole tracks" if seconds is None else f"the middle {seconds:g} s of longer tracks",
        "si_sdr": f"means removed, all channels as one signal, between -{MOST_DECIBELS:g} and {MOST_DECIBELS:g} dB",
        "mel_distance": {"windows_and_bands": [list(scale) for scale in SCALES], "hop": "a quarter window"},
        "stft_distance": {"windows": list(STFT_WINDOWS), "hop": "a quarter window", "logarithm": "natural"},
        "visqol": f"audio mode, 48 kHz, mono; mean over equal pieces of at most {PIECE_SECONDS:g} s",
        "averages": "over clips, each counting the same; codebooks over all codes",
        "intervals": {"method": "percentile bootstrap over clips", "level": LEVEL, "resamples": RESAMPLES},
        "versions": dict(versions),
    }


def stretch(worst: float, sample_rate: int) -> tuple[int, int]:
    """Samples [start, stop) of the excerpt that begins ``worst`` seconds into a clip."""
    start = round(worst * sample_rate)
    return start, start + round(SEGMENT_SECONDS * sample_rate)


def mean_of_clips(values: Sequence[float | None], reason: str) -> dict[str, Any]:
    """Mean over the clips that have a value, with an interval where they are enough for one."""
    known = [value for value in values if value is not None]
    if not known:
        return {"value": None, "low": None, "high": None, "n": 0, "reason": reason}
    if len(known) < FEWEST_FOR_INTERVAL:
        why = f"an interval needs at least {FEWEST_FOR_INTERVAL} clips, not {len(known)}"
        return {"value": sum(known) / len(known), "low": None, "high": None, "n": len(known), "reason": why}
    return {**bootstrap_mean(known)._asdict(), "n": len(known)}


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device}, {torch.get_num_threads()} threads" if device == "cpu" else device
