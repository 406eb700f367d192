"""What the language model is conditioned on, before it is projected to the model's width.

Shape letters: B items, L places (tokens, chroma frames), D width of the encoder.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Condition(NamedTuple):
    """embeddings [B, L, D], zero where masked, and mask [B, L], true where there is something."""

    embeddings: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Conditions:
    """Conditions by name ("text", "melody").

    Attributes:
        items: the conditions, of the same B rows.
        nulls: [D] by name, where a row without the condition holds this vector at every place; a condition that is not
            named here is masked altogether in such a row.
    """

    items: Mapping[str, Condition]
    nulls: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Condition:
        return self.items[name]

    def drop(self, rows: Tensor, names: Collection[str] | None = None) -> "Conditions":
        """The same conditions, null in ``rows`` ([B] bool): those called ``names``, or all."""
        kept = {}
        for name, (embeddings, mask) in self.items.items():
            if names is not None and name not in names:
                kept[name] = Condition(embeddings, mask)
                continue
            out = rows.to(mask.device)
            null = self.nulls.get(name)
            if null is None:
                kept[name] = Condition(embeddings.masked_fill(out[:, None, None], 0), mask & ~out[:, None])
            else:
                filler = null.to(embeddings).expand_as(embeddings)
                kept[name] = Condition(torch.where(out[:, None, None], filler, embeddings), mask | out[:, None])
        return Conditions(kept, self.nulls)

    def null(self, names: Collection[str] | None = None) -> "Conditions":
        """The null condition of the same shape: of those called ``names``, or of all."""
        made = self
        for name, (_, mask) in self.items.items():
            if names is None or name in names:
                made = made.drop(torch.ones(len(mask), dtype=torch.bool, device=mask.device), [name])
        return made

    def replace(self, name: str, condition: Condition) -> "Conditions":
        """The same with another condition called ``name``."""
        return Conditions({**self.items, name: condition}, self.nulls)

    def select(self, rows: Tensor) -> "Conditions":
        """These rows ([R] int64)."""
        kept = {name: Condition(e[rows], m[rows]) for name, (e, m) in self.items.items()}
        return Conditions(kept, self.nulls)

    def followed_by(self, other: "Conditions") -> "Conditions":
        """These rows, then ``other``'s, the shorter of two conditions padded with masked zeros."""
        kept = {}
        for name, ours in self.items.items():
            places = max(ours.mask.shape[1], other[name].mask.shape[1])
            one, two = (padded(condition, places) for condition in (ours, other[name]))
            kept[name] = Condition(torch.cat([one.embeddings, two.embeddings]), torch.cat([one.mask, two.mask]))
        return Conditions(kept, self.nulls)


def padded(condition: Condition, places: int) -> Condition:
    """The same condition with L = ``places``, at least what it has: zeros, masked, on the right."""
    more = places - condition.mask.shape[1]
    return Condition(F.pad(condition.embeddings, (0, 0, 0, more)), F.pad(condition.mask, (0, more)))


class Conditioner(nn.Module, ABC):
    """What turns one kind of condition into embeddings.

    Args:
        dim: width D of the embeddings.
        trained: whether it learns along with the language model; otherwise it is frozen, and outside checkpoints.
        null: [D], what a row without the condition holds at every place; None where such a row is masked.
    """

    null: Tensor | None

    def __init__(self, dim: int, trained: bool, null: Tensor | None = None) -> None:
        super().__init__()
        self.dim, self.trained = dim, trained
        self.register_buffer("null", null, persistent=False)

    @abstractmethod
    def forward(self, given: Any) -> Condition:
        """B conditions of its kind -> embeddings [B, L, D] and mask [B, L]."""
