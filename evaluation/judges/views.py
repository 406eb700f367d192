"""Worn views of clips, for a judge that hears music through noise, dull filters and other rooms.

A view is a pure function of (seed, sample number). How worn it is stays known, so that the judge can learn to tell:
content is what captions pull close, and wear is what one more head reads from the same embedding.

Shape letters: B clips, N samples, F frequencies, E kinds of wear.
"""

from functools import lru_cache

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from datamodules.sample_order import derived_seed

WEAR = ("low-pass", "reverberation", "noise")
_CHANCE = 0.4  # of each kind of wear in a view
_LOWEST_HZ = 1_000.0
_EQUALISER_DB, _EQUALISER_BANDS = 8.0, 6
_GAIN_DB = 9.0
_MOST_SNR, _LEAST_SNR = 35.0, 0.0
_SHORTEST_ROOM, _LONGEST_ROOM = 0.3, 1.5  # seconds until it has fallen by 60 dB
_BANK = 2**20  # samples of noise, of which every view takes a stretch
# What the draws of a view are for, one after the other.
_GAIN, _WORN, _ON, _HOW, _SECONDS, _TILT, _PLACES, _BANDS = 0, 1, slice(2, 5), slice(5, 8), 8, 9, slice(10, 12), 12


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
    draws = torch.stack([_draws(seed, number) for number in numbers.tolist()]).to(wav.device)
    worn = draws[:, _WORN] < share
    wear = draws[:, _HOW] * (draws[:, _ON] < _CHANCE) * worn[:, None]
    made = wav.clone()
    chosen = worn.nonzero()[:, 0]
    if len(chosen):
        made[chosen] = _worn(wav[chosen], wear[chosen], draws[chosen], sample_rate, seed)
    return made * 10 ** (_GAIN_DB * (2 * draws[:, _GAIN, None] - 1) / 20), wear


def _draws(seed: int, number: int) -> Tensor:
    """All that is random about a view, [12 + bands] from 0 to 1."""
    generator = torch.Generator().manual_seed(derived_seed(seed, number, "view"))
    return torch.rand(_BANDS + _EQUALISER_BANDS, generator=generator)


def _worn(wav: Tensor, wear: Tensor, draws: Tensor, sample_rate: int, seed: int) -> Tensor:
    """[B, N]: equaliser, low-pass and room as one product of spectra, then noise."""
    dull, room, noise = wear.T[..., None]
    samples, longest = wav.shape[1], round(_LONGEST_ROOM * sample_rate)
    count = next_fast_len(samples + longest, real=True)
    hertz = torch.linspace(0, sample_rate / 2, count // 2 + 1, device=wav.device)
    cutoff = (sample_rate / 2) * (2 * _LOWEST_HZ / sample_rate) ** dull
    # Butterworth's of eighth order, without its phase
    low_pass = torch.where(dull > 0, 1 / (1 + (hertz / cutoff) ** 16).sqrt(), 1.0)
    response = _equaliser(hertz, draws[:, _BANDS:]) * low_pass
    hiss, tail = (
        _stretches(_bank(seed, wav.device), draws[:, _PLACES][:, k], n) for k, n in ((0, samples), (1, longest))
    )
    heard = torch.fft.rfft(_room(tail, room, draws[:, _SECONDS, None], sample_rate), count)
    wet = torch.fft.irfft(torch.fft.rfft(wav, count) * response * heard, count)[:, :samples]
    tilt = draws[:, _TILT, None]  # 0 is white, 1 is pink
    spectrum = torch.fft.rfft(hiss)
    spectrum = spectrum / torch.arange(1, spectrum.shape[1] + 1, device=wav.device) ** (tilt / 2)
    hiss = torch.fft.irfft(spectrum, samples)
    snr = _MOST_SNR + (_LEAST_SNR - _MOST_SNR) * noise
    level = (wet.square().mean(1, keepdim=True) / hiss.square().mean(1, keepdim=True)).sqrt() * 10 ** (-snr / 20)
    return wet + hiss * torch.where(noise > 0, level, 0.0)


@lru_cache(maxsize=2)
def _bank(seed: int, device: torch.device) -> Tensor:
    """White noise [_BANK]: drawing it for every clip anew would take longer than all else."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "noise"))
    return torch.randn(_BANK, generator=generator).to(device)


def _stretches(bank: Tensor, places: Tensor, samples: int) -> Tensor:
    """[B, samples] of the bank, from where ``places`` [B] say on, round its end."""
    starts = (places * len(bank)).long()
    return bank[(starts[:, None] + torch.arange(samples, device=bank.device)) % len(bank)]


def _equaliser(hertz: Tensor, draws: Tensor) -> Tensor:
    """[B, F]: gains drawn at a few places, straight in decibels over octaves between them."""
    gains = _EQUALISER_DB * (2 * draws - 1)
    octaves = (hertz.clamp_min(60.0) / 60.0).log2()
    place = octaves / octaves[-1] * (_EQUALISER_BANDS - 1)
    low = place.floor().long().clamp_max(_EQUALISER_BANDS - 2)
    return 10 ** (torch.lerp(gains[:, low], gains[:, low + 1], place - low) / 20)


def _room(tail: Tensor, strength: Tensor, draw: Tensor, sample_rate: int) -> Tensor:
    """Impulse responses [B, R] of rooms: the sound itself, then noise [B, R] that dies away; no room of strength 0."""
    frames = (_SHORTEST_ROOM + (_LONGEST_ROOM - _SHORTEST_ROOM) * draw) * sample_rate
    place = torch.arange(tail.shape[1], device=tail.device)
    inside = (place >= round(0.01 * sample_rate)) & (place < frames) & (strength > 0)
    tail = tail * 10 ** (-3 * place / frames) * inside
    level = tail.square().sum(1, keepdim=True).sqrt().clamp_min(1e-9)
    tail = tail / level * 10 ** ((20 * strength - 20) / 20)
    tail[:, 0] = 1
    return tail
