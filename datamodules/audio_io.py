"""Reading and writing audio: ranges of compressed files, mixed down and resampled, through soundfile.

Shape letters: C channels, N samples.
"""

from collections.abc import Callable
from functools import lru_cache
from math import ceil, gcd
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample

from datamodules.errors import InputError, unreadable

# libsndfile crashes on one very long Vorbis write; a minute at a time is safe and as fast.
_WRITE_BLOCK_SECONDS = 60
# No recording has more; a damaged header that says so would fill the memory.
_HIGHEST_RATE, _MOST_CHANNELS = 768_000, 1024
# Values in a resampling kernel, about: 44,100 to 32,000 Hz makes 141,120.
_LARGEST_KERNEL = 2_000_000


def audio_length(path: str | Path) -> tuple[int, int]:
    """Frames and sample rate that the header of an audio file promises.

    Raises:
        InputError: the file is missing, or is not audio that libsndfile reads, as M4A is not.
    """
    with _open(path) as file:
        return file.frames, file.samplerate


def read_audio(
    path: str | Path, *, sample_rate: int, channels: int = 1, start: float = 0.0, duration: float | None = None
) -> Tensor:
    """Reads a range of a file, seeking in the compressed stream: only that range is decoded.

    A range is, sample for sample, the slice of the whole resampled file: what the resampling filter needs around the
    range is read along and cut off.

    Args:
        path: WAV, FLAC, OGG, Opus or MP3.
        sample_rate: rate of the result in Hz.
        channels: channels of the result: 1 mixes down, 2 doubles a mono file.
        start: where the range begins, in seconds.
        duration: length of the range in seconds; None reads to the end.

    Returns:
        [C, N] float32; shorter than ``duration`` where the file ends earlier, N = 0 past its end.

    Raises:
        InputError: no such file, not audio, or samples that are not finite.
    """
    first = round(start * sample_rate)
    count = None if duration is None else round(duration * sample_rate)
    with _open(path) as file:
        converter = resampler(file.samplerate, sample_rate)
        begin, end, skip = converter.source(first, count)
        try:
            file.seek(min(begin, file.frames))
            samples = file.read(-1 if end is None else max(0, end - begin), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise InputError(f"{path}: cannot be decoded at {start:.1f} s ({error.error_string.strip()})") from error
    wav = to_channels(torch.from_numpy(samples.T), channels, path)
    if not torch.isfinite(wav).all():
        raise InputError(f"{path}: holds samples that are not finite; clean the file or leave it out")
    return converter(wav)[:, skip : None if count is None else skip + count].contiguous()


class Resampler:
    """From one rate to another, and which source samples a range of the result is made of."""

    def __init__(self, rate: int, wanted: int) -> None:
        self.convert: Callable[[Tensor], Tensor]
        shared = gcd(rate, wanted)
        self.rate, self.wanted = rate // shared, wanted // shared
        if self.rate == self.wanted:
            self.convert, self.margin = _unchanged, 0
        elif self.rate * self.wanted < _LARGEST_KERNEL:
            # Its filters are computed once here; torchaudio's function would do so for every call.
            self.convert = transform = Resample(rate, wanted)
            self.margin = transform.width + 1
        else:
            self.convert = polyphase = _Polyphase(self.wanted, self.rate)
            self.margin = polyphase.half // self.wanted + 2

    def source(self, first: int, count: int | None) -> tuple[int, int | None, int]:
        """Source samples [begin, end) for ``count`` samples from ``first`` on, and how many of their result to skip.

        ``begin`` lies where the filters' phases repeat, so the phases are those of the whole file.
        """
        block = max(0, first * self.rate // self.wanted - self.margin) // self.rate
        end = None if count is None else ceil((first + count) * self.rate / self.wanted) + self.margin
        return block * self.rate, end, first - block * self.wanted

    def __call__(self, wav: Tensor) -> Tensor:
        """[C, N] at the one rate -> [C, N'] at the other."""
        return self.convert(wav) if wav.shape[-1] else wav


def _unchanged(wav: Tensor) -> Tensor:
    return wav


class _Polyphase:
    """Rates with hardly a common divisor (44,056 to 32,000 Hz), for which torchaudio's kernel would fill the memory."""

    def __init__(self, up: int, down: int) -> None:
        from scipy.signal import firwin  # 0.3 s, and such rates are rare

        self.up, self.down, self.half = up, down, 10 * max(up, down)
        self.taps = firwin(2 * self.half + 1, 1 / max(up, down), window=("kaiser", 5.0)).astype(np.float32)

    def __call__(self, wav: Tensor) -> Tensor:
        from scipy.signal import resample_poly

        return torch.from_numpy(resample_poly(wav.numpy(), self.up, self.down, axis=-1, window=self.taps))


@lru_cache(maxsize=16)
def resampler(rate: int, wanted: int) -> Resampler:
    """From ``rate`` to ``wanted`` Hz; the filters of the latest few pairs of rates are kept."""
    return Resampler(rate, wanted)


def to_channels(wav: Tensor, channels: int, source: str | Path = "audio") -> Tensor:
    """Mixes [C, N] down to mono by the mean, or doubles mono; refuses what has no obvious answer."""
    if wav.shape[0] == channels:
        return wav
    if channels == 1:
        return wav.mean(0, keepdim=True)
    if wav.shape[0] == 1:
        return wav.expand(channels, -1)
    raise InputError(
        f"{source}: {wav.shape[0]} channels cannot become {channels}; mix the file to mono or stereo first"
    )


def write_audio(out: str | Path | BinaryIO, wav: Tensor, sample_rate: int, container: str | None = None) -> None:
    """Writes a waveform: 16 bit in WAV and FLAC, Vorbis in OGG.

    Args:
        out: path, or a file that is open for writing bytes.
        wav: [C, N] in -1..1, clipped where it goes beyond.
        sample_rate: Hz.
        container: "wav", "flac", "ogg"; by default what the path's suffix names.
    """
    samples = wav.detach().float().cpu().clamp(-1, 1).numpy().T
    block = _WRITE_BLOCK_SECONDS * sample_rate
    with soundfile.SoundFile(out, "w", sample_rate, samples.shape[1], format=container) as file:
        for start in range(0, len(samples), block):
            file.write(samples[start : start + block])


def _open(path: str | Path) -> soundfile.SoundFile:
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such audio file")
    try:
        file = soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{path}: not readable as audio ({unreadable(error.error_string)}); convert it, for instance to FLAC: WAV, "
            "FLAC, OGG, Opus and MP3 are read"
        ) from error
    if not 0 < file.samplerate <= _HIGHEST_RATE or file.channels > _MOST_CHANNELS:
        file.close()
        raise InputError(
            f"{path}: its header is damaged ({file.channels} channels at {file.samplerate} Hz); give another copy"
        )
    return file
