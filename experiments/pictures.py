"""Chromagrams as pictures. Shape letters: N samples, T chroma frames, P pitch classes."""

import torch
from torch import Tensor

from datamodules.features.chroma import ChromaExtractor
from lightning_modules.codec.listening import colours

PICTURE_RATE = 32_000  # of the chroma that melodies are conditioned on and scored by
_ROWS, _COLUMNS, _GAP = 16, 4, 4  # pixels of a pitch class, of a frame, between two chromagrams


def chromagrams(reference: Tensor, generated: Tensor) -> Tensor:
    """Two waveforms [N] at 32 kHz as one picture of their chroma side by side: [3, 16 P, 4 T + 4 + 4 T'] uint8.

    C is at the bottom, B at the top; black is silent, pale the strongest class of a frame.
    """
    extractor = ChromaExtractor(PICTURE_RATE)
    pictures = [colours(extractor(wav[None])[0][0].T.flip(0)) for wav in (reference, generated)]
    large = [one.repeat_interleave(_ROWS, 1).repeat_interleave(_COLUMNS, 2) for one in pictures]
    white = torch.full((3, large[0].shape[1], _GAP), 255, dtype=torch.uint8)
    return torch.cat([large[0], white, large[1]], 2)
