"""Melody as a condition: the strongest pitch class of every chroma frame (MusicGen, section 2.3).

Shape letters: B items, C channels, N samples, T chroma frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.errors import InputError
from datamodules.features.chroma import NO_CLASS, PITCH_CLASSES, ChromaExtractor, strongest_class
from lightning_modules.conditioning.conditions import Condition, Conditioner

if TYPE_CHECKING:
    from datamodules.features.stems import StemSeparator

_SILENCE = 1e-4  # largest sample: -80 dB


@dataclass(frozen=True)
class MelodyConfig:
    """How a melody is heard.

    Attributes:
        frames: chroma frames of the prefix; a shorter melody is repeated, a longer one cut. 235 are 30 s at 32 kHz.
        stems: which Demucs removes drums and bass first, as in the paper; empty hears the full mix and needs none.
        spread: places of the condition a chroma frame, for models that add melodies to their steps (``lm.added``): the
            frame rate of the codec over that of the chroma. 0 is the paper's, a place a chroma frame.
    """

    frames: int = 235
    stems: str = "htdemucs"
    spread: float = 0.0


class MelodyEncoder(Conditioner):
    """Pitch classes -> one-hot vectors of 12.

    A frame that is silent, and every frame of a missing melody, holds class 0 (C): in the original as in transformers
    an argmax of silence is 0, and the published weights know the null melody so. (In training the original has five
    zero vectors instead, which generation never shows to the model.) Where melodies are spread, what is silent or
    missing is zeros and masked.

    Args:
        config: how it is heard.
    """

    nearest: Tensor | None

    def __init__(self, config: MelodyConfig) -> None:
        null = torch.eye(PITCH_CLASSES)[0] if not config.spread else None
        super().__init__(dim=PITCH_CLASSES, trained=False, null=null)
        if config.frames < 1:
            raise InputError(f"melody.frames is {config.frames}; give 1 or more")
        if config.spread and not config.spread >= 1:
            raise InputError(f"melody.spread is {config.spread}; give 0, or 1 or more places a chroma frame")
        # Of a frame's samples, the one that it is about is in their middle, and that of the first is the first.
        places = torch.arange(round(config.frames * config.spread)) / config.spread if config.spread else None
        nearest = (places + 0.5).long().clamp_(max=config.frames - 1) if places is not None else None
        self.register_buffer("nearest", nearest, persistent=False)
        self.config = config
        self._separator: StemSeparator | None = None

    def forward(self, given: Tensor) -> Condition:
        """Pitch classes [B, T'] uint8, 255 for none -> embeddings [B, L, 12] and mask [B, L], true where not spread.

        L is the number of frames, or of places that they are spread over.
        """
        classes = given.to(next(self.buffers()).device)
        times = -(-self.config.frames // max(classes.shape[1], 1))
        classes = classes.repeat(1, times)[:, : self.config.frames].long()
        there = classes != NO_CLASS
        embeddings = F.one_hot(classes.where(there, 0), PITCH_CLASSES).float()
        if self.nearest is None:
            return Condition(embeddings, torch.ones_like(there))
        return Condition((embeddings * there[..., None])[:, self.nearest], there[:, self.nearest])

    @torch.no_grad()
    def classes(self, melodies: Sequence[Tensor | None], sample_rate: int) -> Tensor:
        """Hears melodies.

        Args:
            melodies: B recordings [C, N], or None for no melody.
            sample_rate: theirs, Hz.

        Returns:
            Pitch classes [B, frames] uint8, 255 where there is none.

        Raises:
            InputError: a recording is silent, not finite or shorter than a window of the chroma, or Demucs cannot be
                had.
        """
        made = torch.full((len(melodies), self.config.frames), NO_CLASS, dtype=torch.uint8)
        for row, melody in zip(made, melodies, strict=True):
            if melody is not None:
                heard = self._hear(melody, sample_rate)
                row.copy_(heard.repeat(-(-self.config.frames // len(heard)))[: self.config.frames])
        return made

    def _hear(self, melody: Tensor, sample_rate: int) -> Tensor:
        """Pitch classes [T'] uint8 of a recording [C, N]."""
        extractor = ChromaExtractor(sample_rate)
        if melody.dim() != 2 or not melody.isfinite().all():
            raise InputError("a melody must be [C, N] of finite samples")
        if melody.shape[1] < extractor.n_fft:
            raise InputError(
                f"a melody of {melody.shape[1] / sample_rate:.2f} s is shorter than a window of its chroma, "
                f"{extractor.n_fft / sample_rate:.2f} s; give a longer one"
            )
        if melody.abs().max() < _SILENCE:
            raise InputError("the melody is silent; give another, or none")
        heard = melody.to(next(self.buffers()).device)[None]
        if self.config.stems:
            heard = self._separated(heard, sample_rate)
        chroma, _ = extractor(heard)
        return strongest_class(chroma)[0].cpu()

    def _separated(self, wav: Tensor, sample_rate: int) -> Tensor:
        from datamodules.features.stems import load_separator

        if self._separator is None:
            self._separator = load_separator(self.config.stems, sample_rate=sample_rate)
        kept: Tensor = self._separator(wav)
        if kept.abs().max() < _SILENCE:
            raise InputError("the melody is silent without its drums and bass; hear its full mix (stems: '')")
        return kept
