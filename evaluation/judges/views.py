"""Worn views of a clip, for a judge that hears music through noise, dull filters, other rooms and codecs.

A view is a pure function of (seed, sample number). How worn it is stays known, so that the judge can learn to tell:
content is what captions pull close, and wear is what one more head reads from the same embedding.

Shape letters: B clips, N samples, F frequencies, E kinds of wear.
"""

import math

import torch
from torch import Tensor

from datamodules.sample_order import derived_seed

WEAR = ("low-pass", "reverberation", "noise")
_CHANCE = 0.4  # of each kind of wear in a view
_LOWEST_HZ = 1_000.0
_EQUALISER_DB, _EQUALISER_BANDS = 8.0, 6
_GAIN_DB = 9.0
_MOST_SNR, _LEAST_SNR = 35.0, 0.0
_LONGEST_ROOM = 1.5  # seconds until it has fallen by 60 dB


def worn_views(wav: Tensor, numbers: Tensor, *, sample_rate: int, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A share of the clips as views: equalised, and each kind of wear with a chance of 0.4; every clip at another gain.

    Args:
        wav: [B, N], padded with zeros on the right.
        numbers: [B], numbers of the samples in the run.
        sample_rate: Hz.
        share: of the clips that become views, 0 to 1; the others are only louder or quieter.
        seed: the run's.

    Returns:
        The clips [B, N], and how worn each is [B, E], 0 for not at all and 1 for the most, in the order of ``WEAR``.
    """
    made, wear = [], []
    for clip, number in zip(wav, numbers.tolist(), strict=True):
        generator = torch.Generator().manual_seed(derived_seed(seed, number, "view"))
        draws = torch.rand(12, generator=generator)
        gain = 10 ** (_GAIN_DB * (2 * float(draws[0]) - 1) / 20)
        worn = torch.zeros(len(WEAR))
        if draws[1] < share:
            on = draws[2:5] < _CHANCE
            worn = draws[5:8] * on
            clip = _worn(clip, worn.tolist(), generator, sample_rate)
        made.append(clip * gain)
        wear.append(worn)
    return torch.stack(made), torch.stack(wear).to(wav.device)


def _worn(clip: Tensor, worn: list[float], generator: torch.Generator, sample_rate: int) -> Tensor:
    """One clip [N]: equaliser, low-pass and room as one product of spectra, then noise."""
    dull, room, noise = worn
    count = 2 ** math.ceil(math.log2(len(clip) + _LONGEST_ROOM * sample_rate * (room > 0)))
    hertz = torch.linspace(0, sample_rate / 2, count // 2 + 1)
    response = _equaliser(hertz, generator)
    if dull:
        cutoff = (sample_rate / 2) * (2 * _LOWEST_HZ / sample_rate) ** dull
        response = response / (1 + (hertz / cutoff) ** 16).sqrt()  # Butterworth's of eighth order, without its phase
    spectrum = torch.fft.rfft(clip, count) * response.to(clip.device)
    if room:
        spectrum = spectrum * torch.fft.rfft(_room(room, generator, sample_rate).to(clip.device), count)
    wet = torch.fft.irfft(spectrum, count)[: len(clip)]
    if noise:
        snr = _MOST_SNR + (_LEAST_SNR - _MOST_SNR) * noise
        tilt = float(torch.rand((), generator=generator))  # 0 is white, 1 is pink
        hiss = torch.randn(len(clip) // 2 + 1, dtype=torch.complex64, generator=generator)
        hiss = torch.fft.irfft(hiss / torch.arange(1, len(hiss) + 1) ** (tilt / 2), len(clip)).to(clip.device)
        level = wet.square().mean().sqrt() / hiss.square().mean().sqrt()
        wet = wet + hiss * level * 10 ** (-snr / 20)
    return wet


def _equaliser(hertz: Tensor, generator: torch.Generator) -> Tensor:
    """[F]: gains drawn at a few places, straight in decibels over octaves between them."""
    gains = _EQUALISER_DB * (2 * torch.rand(_EQUALISER_BANDS, generator=generator) - 1)
    octaves = (hertz.clamp_min(60.0) / 60.0).log2()
    place = octaves / octaves[-1] * (_EQUALISER_BANDS - 1)
    low = place.floor().long().clamp_max(_EQUALISER_BANDS - 2)
    return 10 ** (torch.lerp(gains[low], gains[low + 1], place - low) / 20)


def _room(strength: float, generator: torch.Generator, sample_rate: int) -> Tensor:
    """Impulse response of a room: the sound itself, then noise that dies away."""
    seconds = 0.3 + (_LONGEST_ROOM - 0.3) * float(torch.rand((), generator=generator))
    frames = round(seconds * sample_rate)
    tail = torch.randn(frames, generator=generator) * 10 ** (-3 * torch.arange(frames) / frames)
    tail[: round(0.01 * sample_rate)] = 0
    tail = tail / tail.square().sum().sqrt() * 10 ** ((20 * strength - 20) / 20)
    tail[0] = 1
    return tail
