"""Pieces longer than what a model was trained on: windows that overlap.

Each window begins with the last codes of the one before, as if they had been given, and its positions count from 0.

Shape letters: C channels, N samples.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.errors import InputError

STRIDE = 0.6  # of a window, where none is asked for: 18 s of the 30 s that the published models were trained on


class Window(NamedTuple):
    """Frames ``start`` to ``stop`` of a piece, of which the first ``given`` are known."""

    start: int
    stop: int
    given: int

    @property
    def frames(self) -> int:
        """All of its frames, the given ones included."""
        return self.stop - self.start


def windows(frames: int, known: int, window: int, stride: int) -> list[Window]:
    """The windows in which a piece is drawn.

    Args:
        frames: of the whole piece.
        known: frames at its beginning that are given; fewer than ``frames``.
        window: the most frames of a window.
        stride: frames by which windows move on, fewer than ``window``: it overlaps with the one before by the rest.
    """
    made = []
    while known < frames:
        start = 0 if known < window else known - (window - stride)
        made.append(Window(start, min(start + window, frames), known - start))
        known = made[-1].stop
    return made


def window_and_stride(frame_rate: float, window: float, stride: float | None) -> tuple[int, int]:
    """Seconds -> frames.

    Args:
        frame_rate: frames a second.
        window: seconds.
        stride: seconds; None is three fifths of the window.

    Raises:
        InputError: a window of less than two frames, or a stride that is not between one frame and the window.
    """
    frames = int(window * frame_rate + 1e-6) if 0 < window < float("inf") else 0
    if frames < 2:
        raise InputError(f"a window of {window} s cannot be drawn; give two frames ({2 / frame_rate:g} s) or more")
    moved = round((STRIDE * window if stride is None else stride) * frame_rate)
    if stride is None:
        return frames, min(max(moved, 1), frames - 1)
    if not 1 <= moved < frames:
        raise InputError(
            f"a stride of {stride:g} s does not fit windows of {window:g} s; give less than that, and a frame "
            f"({1 / frame_rate:g} s) or more"
        )
    return frames, moved


def wrapped(wav: Tensor, start: int, samples: int) -> Tensor:
    """``samples`` samples of a melody [C, N] from sample ``start`` on, as if it went round and round."""
    return wav[..., torch.arange(start, start + samples) % wav.shape[-1]]
