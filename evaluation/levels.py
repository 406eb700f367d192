"""How loud a clip is when it is heard: made so by its loudness, by its peak, or left as it is.

A CLAP score or a Frechet distance moves with the volume, so a protocol says it (``evaluation.protocol.Level``).

Shape letters: C channels, N samples.
"""

from pathlib import Path

import soundfile
from torch import Tensor
from torchaudio.functional import loudness as lufs

from datamodules.audio_io import audio_length, read_audio, resampler, to_channels
from datamodules.errors import InputError
from evaluation.protocol import Level

# audiocraft's normalize_loudness: what is quieter than this (RMS) stays as it is.
_QUIETEST = 2e-3
_SHORTEST = 0.4  # seconds: a block of BS.1770


def read_at_level(path: str | Path, sample_rate: int, level: Level, duration: float | None = None) -> Tensor:
    """Reads a clip from its start, as loud as it is to be heard.

    Args:
        path: an audio file.
        sample_rate: Hz of the result.
        level: how loud.
        duration: seconds; None reads to the end.

    Returns:
        [N], mixed to mono.

    Raises:
        InputError: as ``read_audio`` and ``at_loudness``; the file is named.
    """
    if level.loudness is None:
        return at_peak(read_audio(path, sample_rate=sample_rate, duration=duration)[0], level)
    _, rate = audio_length(path)
    wav = read_audio(path, sample_rate=rate, channels=soundfile.info(str(path)).channels, duration=duration)
    try:
        loud = at_loudness(wav, rate, level.loudness)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return at_peak(resampler(rate, sample_rate)(to_channels(loud, 1))[0], level)


def at_loudness(wav: Tensor, sample_rate: int, loudness: float) -> Tensor:
    """Scales a clip to a loudness and clips it at full scale: audiocraft's normalisation of what it generates.

    The measure is torchaudio's (ITU-R BS.1770-4), as there. It limits samples to full scale after its filter, so very
    loud clips count as a little quieter than they are.

    Args:
        wav: [C, N], of at most five channels.
        sample_rate: Hz.
        loudness: LUFS.

    Returns:
        [C, N] within -1..1; only clipped where the root mean square is under 0.002.

    Raises:
        InputError: shorter than 0.4 s, or nothing in it that could be heard, such as a constant.
    """
    if float(wav.square().mean().sqrt() if wav.numel() else 0.0) < _QUIETEST:
        return wav.clamp(-1, 1)
    if wav.shape[-1] < round(_SHORTEST * sample_rate):
        raise InputError(
            f"it lasts {wav.shape[-1] / sample_rate:.3f} s, and loudness needs {_SHORTEST} s; leave it out"
        )
    gain = 10 ** ((loudness - float(lufs(wav, sample_rate))) / 20)
    if not 0 < gain < float("inf"):
        raise InputError("its loudness cannot be measured; leave it out, or take a protocol without a loudness")
    return (gain * wav).clamp(-1, 1)


def at_peak(wav: Tensor, level: Level) -> Tensor:
    """Scales samples [N] so that the largest of them is the level's peak; silence, and no peak, leave them alone."""
    if level.peak is None or not wav.numel():
        return wav
    largest = float((wav if level.peak_of == "positive" else wav.abs()).max())
    return wav * (10 ** (level.peak / 20) / largest) if largest > 0 else wav


def noise_at_level(wav: Tensor, sample_rate: int, level: Level) -> Tensor:
    """Samples [N] that were never in a file, as loud as a generated clip is heard."""
    loud = wav if level.loudness is None else at_loudness(wav[None], sample_rate, level.loudness)[0]
    return at_peak(loud, level)
