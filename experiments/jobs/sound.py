"""From a decoded waveform to the bytes of an audio file: loudness, peaks, container.

Shape letters: C channels, N samples.
"""

from io import BytesIO
from typing import Any

import soundfile
import torch
from torch import Tensor

from datamodules.audio_io import write_audio
from datamodules.errors import InputError
from datamodules.ingest.loudness import LoudnessMeter

FORMATS = ("wav", "flac", "ogg")
MEASURED = ("gain_db", "limited_peak")  # what ``level`` finds out
# audiocraft's normalize_loudness: what is quieter than this (RMS) stays as it is, for it is only noise.
_QUIETEST = 2e-3
_KNEE = 0.8  # of full scale: what lies below, the limiter leaves alone


def level(wav: Tensor, sample_rate: int, loudness: float | None) -> tuple[Tensor, dict[str, Any]]:
    """Brings a clip to a loudness, and within full scale.

    One gain for the whole clip, measured by ITU-R BS.1770-4. If its largest sample then lies beyond full scale, a soft
    limiter rounds off what lies above 0.8 (tanh); a clip within full scale is not touched by it.

    Args:
        wav: [C, N].
        sample_rate: Hz.
        loudness: LUFS; None for no gain.

    Returns:
        The clip [C, N], and what the manifest says of it: "gain_db", where a loudness was asked for (None for a clip
        that stays as it is: shorter than 0.4 s or next to silent), and "limited_peak", the largest sample before the
        limiter, where it was needed.
    """
    wav = wav.detach().float().cpu()
    facts: dict[str, Any] = {}
    if loudness is not None:
        gain = _gain_db(wav, sample_rate, loudness)
        facts["gain_db"] = gain
        wav = wav * 10 ** ((gain or 0.0) / 20)
    peak = float(wav.abs().max())
    if peak > 1:
        facts["limited_peak"] = round(peak, 4)
        wav = soft_limit(wav)
    return wav, facts


def _gain_db(wav: Tensor, sample_rate: int, loudness: float) -> float | None:
    if float(wav.square().mean().sqrt()) < _QUIETEST:
        return None
    meter = LoudnessMeter(sample_rate, wav.shape[0])
    meter.update(wav.double().numpy().T)
    measured = meter.loudness()
    return None if measured is None else round(loudness - measured, 3)


def soft_limit(wav: Tensor) -> Tensor:
    """Rounds off what lies above 0.8 so that nothing reaches full scale; smooth to the first derivative."""
    room = 1 - _KNEE
    rounded = _KNEE + room * torch.tanh((wav.abs() - _KNEE) / room)
    return torch.where(wav.abs() > _KNEE, wav.sign() * rounded, wav)


def encode(wav: Tensor, sample_rate: int, kind: str) -> bytes:
    """The content of an audio file.

    Args:
        wav: [C, N] in -1..1.
        sample_rate: Hz.
        kind: "wav" or "flac", both of 16 bit, or "ogg" (Vorbis).

    Raises:
        InputError: the format does not know such a rate or so many channels.
    """
    out = BytesIO()
    try:
        write_audio(out, wav, sample_rate, kind)
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{wav.shape[0]} channels at {sample_rate} Hz cannot be written as {kind} "
            f"({error.error_string.strip()}); take --format wav"
        ) from error
    return out.getvalue()
