"""Texts as conditions: which encoder, and what every one of them does.

Shape letters: B items, L tokens, D width of the text encoder.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lightning_modules.conditioning.conditions import Condition, Conditioner

BYTES = "bytes"


@dataclass(frozen=True)
class TextEncoderConfig:
    """Which text encoder.

    Attributes:
        name: "bytes" for a byte-level T5 encoder trained from scratch with the language model, else a Hugging Face hub
            id or folder: of a T5 encoder (the paper's: "google-t5/t5-base"), or of a CLAP.
        kind: "t5", which FLAN-T5 and ByT5 are too, or "clap", whose one embedding a text is what the paper's ablation
            conditions on (table A.1).
        train: learns along with the language model; otherwise a pretrained encoder is frozen. "bytes" always learns.
        dim: width, for "bytes"; a pretrained encoder brings its own.
        layers: encoder layers, for "bytes".
        heads: attention heads, for "bytes".
    """

    name: str = "google-t5/t5-base"
    kind: Literal["t5", "clap"] = "t5"
    train: bool = False
    dim: int = 256
    layers: int = 2
    heads: int = 4


class TextEncoder(Conditioner):
    """Texts -> Condition; an empty text is the null condition."""

    @abstractmethod
    def forward(self, given: Sequence[str]) -> Condition:
        """B texts -> embeddings [B, L, D] and mask [B, L]."""

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Writes the encoder and its tokenizer in Hugging Face's layout."""
