"""Texts as conditions: which encoder, and what every one of them does.

Shape letters: B items, L tokens, D width of the text encoder.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from datamodules.errors import InputError
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
        ngrams: rows of a table that "bytes" hears groups of bytes by, see ``T5TextEncoder``; 0 for single bytes. A few
            thousand, and words are there from the first step on, which a small model would take very long to spell.
        checksum: of the weights that a pretrained encoder must have, as a saved model asks for those that it was
            trained with; "" is whatever is found under the name.
    """

    name: str = "google-t5/t5-base"
    kind: Literal["t5", "clap"] = "t5"
    train: bool = False
    dim: int = 256
    layers: int = 2
    heads: int = 4
    ngrams: int = 0
    checksum: str = ""


class TextEncoder(Conditioner):
    """Texts -> Condition; an empty text is the null condition."""

    @abstractmethod
    def forward(self, given: Sequence[str]) -> Condition:
        """B texts -> embeddings [B, L, D] and mask [B, L]."""

    @property
    def checksum(self) -> str:
        """sha256 of the weights' values: the same in any file and layout.

        And under any names, for the names are transformers' own, and a newer release may have others.
        """
        digests = set()
        for tensor in self.parameters():
            values: Any = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
            digests.add(hashlib.sha256(values).hexdigest() + str(list(tensor.shape)))
        return hashlib.sha256(" ".join(sorted(digests)).encode()).hexdigest()

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Writes the encoder and its tokenizer in Hugging Face's layout."""


def require_checksum(encoder: TextEncoder, config: TextEncoderConfig) -> None:
    """Checks that a pretrained encoder is the one that its config asks for.

    Raises:
        InputError: its weights are others.
    """
    if config.checksum and (found := encoder.checksum) != config.checksum:
        raise InputError(
            f"the text encoder {config.name}: its weights are not those that are asked for (checksum {found[:12]}, not "
            f"{config.checksum[:12]}), and a model hears other texts with others; put those there, or name where they "
            "are: text.name in config.yaml"
        )
