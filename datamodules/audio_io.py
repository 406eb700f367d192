"""Reading and writing audio: ranges of compressed files, mixed down and resampled, through soundfile.

Shape letters: C channels, N samples.
"""

from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample

from datamodules.errors import InputError

# libsndfile crashes on one very long Vorbis write; a minute at a time is safe and as fast.
_WRITE_BLOCK_SECONDS = 60


def audio_length(path: str | Path) -> tuple[int, int]:
    """Frames and sample rate that the header of an audio file promises.

    Raises:
        InputError: the file is missing or is not audio that libsndfile reads.
    """
    with _open(path) as file:
        return file.frames, file.samplerate


def read_audio(
    path: str | Path, *, sample_rate: int, channels: int = 1, start: float = 0.0, duration: float | None = None
) -> Tensor:
    """Reads a range of a file, seeking in the compressed stream: only that range is decoded.

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
    with _open(path) as file:
        first = min(round(start * file.samplerate), file.frames)
        frames = -1 if duration is None else round(duration * file.samplerate)
        try:
            file.seek(first)
            samples = file.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise InputError(f"{path}: cannot be decoded at {start:.1f} s ({error.error_string.strip()})") from error
        rate = file.samplerate
    if not np.isfinite(samples).all():
        raise InputError(f"{path}: holds samples that are not finite; clean the file or leave it out")
    wav = torch.from_numpy(np.ascontiguousarray(samples.T))
    wav = to_channels(wav, channels, path)
    if rate != sample_rate and wav.shape[-1]:
        wav = resample(wav, rate, sample_rate)
    return wav


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


def write_audio(path: str | Path, wav: Tensor, sample_rate: int) -> None:
    """Writes [C, N] in -1..1 (clipped) to the container that the suffix names; 16 bit for WAV and FLAC."""
    path = Path(path)
    samples = wav.detach().float().cpu().clamp(-1, 1).numpy().T
    block = _WRITE_BLOCK_SECONDS * sample_rate
    with soundfile.SoundFile(str(path), "w", samplerate=sample_rate, channels=samples.shape[1]) as file:
        for start in range(0, len(samples), block):
            file.write(samples[start : start + block])


def _open(path: str | Path) -> soundfile.SoundFile:
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such audio file")
    try:
        return soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path}: not readable as audio ({error.error_string.strip()})") from error
