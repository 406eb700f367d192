"""Sound and pictures as data URIs, so that a page needs no other file."""

import base64
import io
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import MelSpectrogram

from datamodules.audio_io import read_audio

SAMPLE_RATE = 32_000
_BLOCK = 10 * SAMPLE_RATE  # libsndfile crashes on one very long Vorbis write
_MELS, _COLUMNS = 64, 300


def data_uri(content: bytes, kind: str) -> str:
    """``content`` as a data URI of a media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def encode_audio(wav: Tensor) -> str:
    """[N] at 32 kHz as Ogg Vorbis (about 10 kB a second) in a data URI."""
    samples = wav.clamp(-1, 1).numpy()
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", SAMPLE_RATE, 1, "VORBIS", format="OGG") as file:
        for start in range(0, len(samples), _BLOCK):
            file.write(samples[start : start + _BLOCK])
    return data_uri(buffer.getvalue(), "audio/ogg")


def encode_spectrogram(wav: Tensor) -> str:
    """[N] at 32 kHz as a picture of its mel spectrogram, 80 dB deep, low pitches at the bottom; a PNG data URI."""
    from matplotlib import image

    n_fft = 2048
    hop = max(256, len(wav) // _COLUMNS)
    mel = MelSpectrogram(SAMPLE_RATE, n_fft, hop_length=hop, n_mels=_MELS, f_max=16_000)
    power = mel(torch.nn.functional.pad(wav, (0, max(0, n_fft - len(wav)))))
    decibels = 10 * power.clamp_min(1e-10).log10()
    top = max(float(decibels.max()), -60.0)
    buffer = io.BytesIO()
    picture = np.ascontiguousarray(decibels.clamp(top - 80, top).flip(0).numpy())
    image.imsave(buffer, picture, cmap="magma", vmin=top - 80, vmax=top, format="png")
    return data_uri(_fewer_colours(buffer.getvalue()), "image/png")


def _fewer_colours(png: bytes) -> bytes:
    """The same picture with a palette of 64 colours: a quarter of the bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(64).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def player(path: Path, seconds: float) -> dict[str, str]:
    """Audio and spectrogram of the first ``seconds`` of a file; InputError where it cannot be read."""
    wav = read_audio(path, sample_rate=SAMPLE_RATE, duration=seconds)[0]
    return {"audio": encode_audio(wav), "picture": encode_spectrogram(wav)}
