"""Sound and pictures as data URIs, so that a page needs no other file."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import MelSpectrogram

from datamodules.audio_io import read_audio

SAMPLE_RATE = 32_000
_BLOCK = 10 * SAMPLE_RATE  # libsndfile crashes on one very long Vorbis write
_MELS, _COLUMNS, _DEPTH = 64, 300, 80.0
LARGEST_DIFFERENCE = 20.0  # dB, in pictures of a difference


def data_uri(content: bytes, kind: str) -> str:
    """``content`` as a data URI of a media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


class Quality(NamedTuple):
    """Of Ogg Vorbis.

    Attributes:
        compression: libsndfile's level, 0 to 1.
        bytes_per_second: of 32 kHz mono, Vorbis' tables apart, at most: measured on music, square waves and noise.
            Typical is a tenth less.
    """

    compression: float
    bytes_per_second: int

    @property
    def name(self) -> str:
        """Vorbis' own number of it, -1 to 10."""
        return f"{10 * (1 - self.compression):.0f}"


# From the best, libsndfile's default, to the plainest.
QUALITIES = (Quality(0.6, 12_000), Quality(0.7, 9_700), Quality(0.8, 8_000), Quality(1.0, 5_900))


def encode_audio(wav: Tensor, quality: Quality = QUALITIES[0]) -> str:
    """[N] at 32 kHz as Ogg Vorbis in a data URI."""
    samples = wav.clamp(-1, 1).numpy()
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", SAMPLE_RATE, 1, "VORBIS", format="OGG", compression_level=quality.compression
    ) as file:
        for start in range(0, len(samples), _BLOCK):
            file.write(samples[start : start + _BLOCK])
    return data_uri(buffer.getvalue(), "audio/ogg")


def encode_lossless(wav: Tensor, sample_rate: int) -> str:
    """[C, N] as 16-bit FLAC in a data URI: for listening to what a codec does, without what another one adds."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wav.clamp(-1, 1).T.numpy(), sample_rate, format="FLAC", subtype="PCM_16")
    return data_uri(buffer.getvalue(), "audio/flac")


def encode_spectrogram(wav: Tensor) -> str:
    """[N] at 32 kHz as a picture of its mel spectrogram, 80 dB deep, low pitches at the bottom; a PNG data URI."""
    decibels = _mel_decibels(wav, SAMPLE_RATE, _MELS, _COLUMNS)
    top = max(float(decibels.max()), -60.0)
    return _picture(decibels, "magma", top - _DEPTH, top)


class ComparedSpectrograms(NamedTuple):
    """PNG data URIs: two mel spectrograms on one scale, and the second minus the first."""

    original: str
    reconstruction: str
    difference: str


def compare_spectrograms(original: Tensor, reconstruction: Tensor, sample_rate: int) -> ComparedSpectrograms:
    """Two waveforms [N] as mel spectrograms up to half the rate, 80 dB down from the original's loudest place.

    The difference goes from -20 dB (blue: missing) to 20 dB (red: added); what lies below 80 dB counts as lying there.
    """
    both = [_mel_decibels(wav, sample_rate, 2 * _MELS, 2 * _COLUMNS) for wav in (original, reconstruction)]
    top = max(float(both[0].max()), -60.0)
    left, right = (decibels.clamp(top - _DEPTH, top) for decibels in both)
    return ComparedSpectrograms(
        _picture(left, "magma", top - _DEPTH, top),
        _picture(right, "magma", top - _DEPTH, top),
        _picture(right - left, "RdBu_r", -LARGEST_DIFFERENCE, LARGEST_DIFFERENCE),
    )


def spectrograms_on_one_scale(original: Tensor, others: Sequence[Tensor], sample_rate: int) -> list[str]:
    """A waveform [N] and any number of its versions as mel spectrograms, all on the original's scale; PNG data URIs."""
    decibels = [_mel_decibels(wav, sample_rate, 2 * _MELS, 2 * _COLUMNS) for wav in (original, *others)]
    top = max(float(decibels[0].max()), -60.0)
    return [_picture(values, "magma", top - _DEPTH, top) for values in decibels]


def _mel_decibels(wav: Tensor, sample_rate: int, bands: int, columns: int) -> Tensor:
    """[N] -> [bands, columns or so] in dB."""
    n_fft = 2048
    hop = max(256, len(wav) // columns)
    mel = MelSpectrogram(sample_rate, n_fft, hop_length=hop, n_mels=bands, f_max=sample_rate / 2)
    power = mel(torch.nn.functional.pad(wav, (0, max(0, n_fft - len(wav)))))
    return 10 * power.clamp_min(1e-10).log10()


def _picture(values: Tensor, colours: str, low: float, high: float) -> str:
    from matplotlib import image

    buffer = io.BytesIO()
    content = np.ascontiguousarray(values.clamp(low, high).flip(0).numpy())
    image.imsave(buffer, content, cmap=colours, vmin=low, vmax=high, format="png")
    return data_uri(_fewer_colours(buffer.getvalue()), "image/png")


def _fewer_colours(png: bytes) -> bytes:
    """The same picture with a palette of 64 colours: a quarter of the bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(64).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def player(path: Path, seconds: float, quality: Quality = QUALITIES[0]) -> dict[str, str]:
    """Audio and spectrogram of the first ``seconds`` of a file; InputError where it cannot be read."""
    wav = read_audio(path, sample_rate=SAMPLE_RATE, duration=seconds)[0]
    return {"audio": encode_audio(wav, quality), "picture": encode_spectrogram(wav)}
