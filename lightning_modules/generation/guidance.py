"""Classifier-free guidance: which versions of the conditions are decoded side by side, and how their logits are mixed.

Shape letters: B rows, R branches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.conditioning.conditions import Condition, Conditions

Guidance = float | Mapping[str, float]


@dataclass(frozen=True)
class Branches:
    """Versions of B conditions, each decoded.

    Attributes:
        conditions: R x B rows, branch after branch.
        weights: one a branch; they sum to 1.
    """

    conditions: Conditions
    weights: tuple[float, ...]

    def select(self, items: Tensor) -> "Branches":
        """The branches of these items ([b] int64), without places of the text that are padding in all of them."""
        count = len(self.conditions["text"].mask) // len(self.weights)
        rows = torch.cat([items + branch * count for branch in range(len(self.weights))])
        chosen = self.conditions.select(rows)
        embeddings, mask = chosen["text"]
        places = max(1, int(mask.sum(1).max()))
        return Branches(chosen.replace("text", Condition(embeddings[:, :places], mask[:, :places])), self.weights)

    def mix(self, logits: Tensor) -> Tensor:
        """Logits [R B, ...] -> [B, ...], the branches' weighted sum."""
        if len(self.weights) == 1:
            return logits
        parts = logits.chunk(len(self.weights))
        if len(parts) == 2:
            return torch.lerp(parts[1], parts[0], self.weights[0])
        mixed = self.weights[0] * parts[0]
        for weight, part in zip(self.weights[1:], parts[1:], strict=True):
            mixed = mixed.add_(part, alpha=weight)
        return mixed


def branches(
    conditions: Conditions, names: Sequence[str], guidance: Guidance, negative: Condition | None = None
) -> Branches:
    """The branches that a guidance needs.

    One scale s gives null + s (all - null), the paper's. A scale for each condition gives, with the conditions
    switched on one after the other, null + s1 (first - null) + s2 (first and second - first) + ...; with equal
    scales this is the same. Branches of no weight are not decoded.

    Args:
        conditions: B rows.
        names: all of their conditions, in the order in which they are switched on.
        guidance: one scale, or one for each name.
        negative: [B or 1, L, D] of the text encoder: what stands where the text is switched off, in place of nothing.

    Raises:
        InputError: a scale of a condition that the model has not, or none for one that it has, or negative prompts that
            are neither one nor one an item.
    """
    scales = _scales(names, guidance)
    if negative is not None and len(negative.mask) not in (1, len(conditions["text"].mask)):
        raise InputError(f"there are {len(negative.mask)} negative prompts; give one, or one for each prompt")
    chain = [scales[name] for name in names]
    # Branch i has the first i conditions; its weight is what the next difference takes off what its own adds.
    weights = [(chain[i - 1] if i else 1.0) - (chain[i] if i < len(chain) else 0.0) for i in range(len(chain) + 1)]
    made, kept = None, []
    for i in reversed(range(len(chain) + 1)):
        if weights[i] == 0:
            continue
        version = _switched_off(conditions, names[i:], negative)
        made = version if made is None else made.followed_by(version)
        kept.append(weights[i])
    assert made is not None, "weights sum to one, so not all of them are zero"
    return Branches(made, tuple(kept))


def _switched_off(conditions: Conditions, names: Sequence[str], negative: Condition | None) -> Conditions:
    made = conditions.null(names)
    if negative is None or "text" not in names:
        return made
    rows = len(conditions["text"].mask)
    return made.replace("text", Condition(*(part.expand(rows, *part.shape[1:]) for part in negative)))


def _scales(names: Sequence[str], guidance: Guidance) -> Mapping[str, float]:
    if not isinstance(guidance, Mapping):
        return dict.fromkeys(names, float(guidance))
    if set(guidance) != set(names):
        raise InputError(
            f"guidance names {', '.join(guidance) or 'nothing'}; this model has {', '.join(names) or 'none'}"
        )
    return guidance
