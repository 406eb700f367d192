"""All conditioners of a model together."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import InputError
from lightning_modules.conditioning.conditions import Condition, Conditioner, Conditions
from lightning_modules.conditioning.melody import NO_CLASS, MelodyEncoder
from lightning_modules.conditioning.text import TextEncoder

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
            raise InputError(f"there is a conditioner of {name!r}, which is in neither cross nor prefix of the model")
