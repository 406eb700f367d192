"""CLAP as a text encoder: one embedding a text, in the space that it shares with audio.

The paper's ablation (table A.1) trains on the embeddings of the audio and generates from those of texts; a token store
has no audio, so here both are of texts.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from datamodules.features.clap import load_clap
from lightning_modules.conditioning.conditions import Condition
from lightning_modules.conditioning.text import TextEncoder


class ClapTextEncoder(TextEncoder):
    """Texts -> one embedding each, frozen.

    Args:
        name: as for ``load_clap``.

    Raises:
        InputError: it is not on this machine and cannot be fetched.
    """

    def __init__(self, name: str) -> None:
        clap = load_clap(name)
        super().__init__(dim=clap.dim, trained=False)
        self.clap = clap.requires_grad_(False).eval()

    def forward(self, given: Sequence[str]) -> Condition:
        """B texts -> embeddings [B, 1, D] of length one, and mask [B, 1]."""
        embeddings = self.clap.text(list(given))[:, None]
        mask = torch.tensor([bool(text.strip()) for text in given], device=embeddings.device)[:, None]
        return Condition(embeddings.masked_fill(~mask[..., None], 0), mask)

    def train(self, mode: bool = True) -> "ClapTextEncoder":
        """Stays in evaluation mode."""
        super().train(False)
        return self

    def save(self, folder: str | Path) -> None:
        """Not needed: a frozen encoder is named by its id."""
        raise AssertionError("a frozen encoder is not saved along")
