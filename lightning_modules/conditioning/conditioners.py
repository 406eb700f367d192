"""All conditioners of a model together."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import InputError
from datamodules.features.chroma import NO_CLASS
from lightning_modules.conditioning.conditions import Condition, Conditioner, Conditions
from lightning_modules.conditioning.melody import MelodyConfig, MelodyEncoder
from lightning_modules.conditioning.text import BYTES, TextEncoder, TextEncoderConfig, require_checksum

TEXT, MELODY = "text", "melody"


class Conditioners(nn.Module):
    """Texts and melodies -> Conditions.

    Args:
        text: the text encoder, if the model hears texts.
        melody: the melody encoder, if it hears melodies.
    """

    def __init__(self, text: TextEncoder | None, melody: MelodyEncoder | None = None) -> None:
        super().__init__()
        self.text, self.melody = text, melody

    @property
    def by_name(self) -> Mapping[str, Conditioner]:
        """Those that there are."""
        both: dict[str, Conditioner | None] = {MELODY: self.melody, TEXT: self.text}
        return {name: conditioner for name, conditioner in both.items() if conditioner is not None}

    @property
    def dims(self) -> dict[str, int]:
        """Widths of the embeddings."""
        return {name: conditioner.dim for name, conditioner in self.by_name.items()}

    def forward(self, texts: Sequence[str], classes: Tensor | None = None) -> Conditions:
        """B rows.

        Args:
            texts: B texts; an empty one is the null condition.
            classes: pitch classes of B melodies [B, T'] uint8, 255 for none; None is no melody in any row.
        """
        items: dict[str, Condition] = {}
        if self.melody is not None:
            silent = torch.full((len(texts), 1), NO_CLASS, dtype=torch.uint8)
            items[MELODY] = self.melody(silent if classes is None else classes)
        if self.text is not None:
            items[TEXT] = self.text(texts)
        nulls = {name: one.null for name, one in self.by_name.items() if one.null is not None}
        return Conditions(items, nulls)


def build_conditioners(text: TextEncoderConfig | None, melody: MelodyConfig | None) -> Conditioners:
    """Conditioners of these configs: a byte-level text encoder is fresh, a pretrained one is loaded.

    Raises:
        InputError: it is not on this machine and cannot be fetched, or has other weights than are asked for.
    """
    return Conditioners(build_text_encoder(text) if text else None, MelodyEncoder(melody) if melody else None)


def build_text_encoder(config: TextEncoderConfig) -> TextEncoder:
    """A fresh byte-level encoder, or a pretrained one.

    Raises:
        InputError: the pretrained encoder is not on this machine and cannot be fetched, has other weights than are
            asked for, or cannot be trained.
    """
    from lightning_modules.conditioning.clap import ClapTextEncoder
    from lightning_modules.conditioning.t5 import fresh_byte_encoder, load_text_encoder

    made: TextEncoder
    if config.kind == "clap":
        if config.train:
            raise InputError("text.train: a CLAP stays frozen, for training would part its texts from its sounds")
        made = ClapTextEncoder(config.name)
    elif config.name == BYTES:
        return fresh_byte_encoder(config)
    else:
        made = load_text_encoder(config.name, trained=config.train)
    require_checksum(made, config)
    return made


def require_conditions(names: Sequence[str], given: Mapping[str, Any]) -> None:
    """Checks that a language model's conditions and the conditioners are the same.

    Raises:
        InputError: a condition that the model attends to has no conditioner, or the other way round.
    """
    for name in names:
        if name not in given:
            raise InputError(f"the language model attends to {name!r}, of which there is no conditioner; configure it")
    for name in given:
        if name not in names:
            raise InputError(f"there is a conditioner of {name!r}, which is in none of cross, prefix and added")
