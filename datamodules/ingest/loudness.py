"""Integrated loudness (ITU-R BS.1770-4), from blocks of a signal that is never whole in memory.

Shape letters: N samples, C channels.
"""

from math import cos, pi, sin, sqrt
from typing import Any

import numpy as np
from scipy.signal import sosfilt


class LoudnessMeter:
    """Takes a signal block by block; knows its loudness at the end.

    Args:
        sample_rate: Hz.
        channels: each counts as a front channel.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.step = round(0.1 * sample_rate)
        self.filters = np.stack([_shelf(sample_rate), _highpass(sample_rate)])
        self.usable = sample_rate > 2 * 1500
        self.state = np.zeros((2, 2, channels))
        self.rest = np.zeros((0, channels))
        self.energies: list[Any] = []

    def update(self, samples: "np.ndarray[Any, Any]") -> None:
        """Hears [N, C] more samples."""
        if not self.usable:
            return
        weighted, self.state = sosfilt(self.filters, samples, axis=0, zi=self.state)
        self.rest = np.concatenate([self.rest, weighted]) if len(self.rest) else weighted
        whole = len(self.rest) // self.step
        steps = self.rest[: whole * self.step].reshape(whole, self.step * self.rest.shape[1])
        self.energies.append(np.einsum("ij,ij->i", steps, steps) / self.step)
        self.rest = self.rest[whole * self.step :]

    def loudness(self) -> float | None:
        """LUFS; None for what is shorter than 0.4 s, silent, or sampled at under 3 kHz."""
        steps = np.concatenate([np.zeros(0), *self.energies])
        if len(steps) < 4:
            return None
        # Blocks of 0.4 s every 0.1 s; those under -70 LUFS count never, those 10 LU under the rest not either.
        blocks = np.convolve(steps, np.ones(4) / 4, "valid")
        blocks = blocks[_lufs(blocks) > -70]
        if not len(blocks):
            return None
        blocks = blocks[_lufs(blocks) > _lufs(blocks.mean()) - 10]
        return float(_lufs(blocks.mean()))


def _lufs(energy: Any) -> Any:
    return -0.691 + 10 * np.log10(np.maximum(energy, 1e-20))


def _shelf(rate: int) -> "np.ndarray[Any, Any]":
    """Second-order section: 4 dB more above 1,500 Hz (the head's diffraction)."""
    a, w = 10 ** (4 / 40), 2 * pi * 1500 / rate
    alpha, c, r = sin(w) / 2 * sqrt(2), cos(w), sqrt(a)
    b = [a * (a + 1 + (a - 1) * c + 2 * r * alpha), -2 * a * (a - 1 + (a + 1) * c)]
    b.append(a * (a + 1 + (a - 1) * c - 2 * r * alpha))
    d = [a + 1 - (a - 1) * c + 2 * r * alpha, 2 * (a - 1 - (a + 1) * c), a + 1 - (a - 1) * c - 2 * r * alpha]
    return np.array([*b, *d]) / d[0]


def _highpass(rate: int) -> "np.ndarray[Any, Any]":
    """Second-order section: what lies below 38 Hz counts less and less (Q = 0.5)."""
    w = 2 * pi * 38 / rate
    c, alpha = cos(w), sin(w)
    d = [1 + alpha, -2 * c, 1 - alpha]
    return np.array([(1 + c) / 2, -(1 + c), (1 + c) / 2, *d]) / d[0]
