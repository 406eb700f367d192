"""Drawing codes from logits.

Shape letters: B rows, K codebooks, V entries, S steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.errors import InputError


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn.

    Attributes:
        top_k: only the k likeliest entries are drawn from.
        temperature: divides the logits; lower is more timid.
        greedy: take the likeliest entry instead of drawing.
    """

    top_k: int = 250
    temperature: float = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise InputError(f"top_k must be at least 1, got {self.top_k}")
        if not self.temperature > 0:
            raise InputError(
                f"temperature must be positive, got {self.temperature}; for the likeliest codes use greedy"
            )


def noise(seeds: Sequence[int], steps: int, codebooks: int) -> Tensor:
    """All the randomness of a batch, [B, K, S] in [0, 1): row b depends on its own seed alone."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.rand(steps, codebooks, generator=generator).T)
    return torch.stack(rows)


def draw(logits: Tensor, noise: Tensor, sampling: Sampling) -> Tensor:
    """Logits [B, K, V] and one uniform number each [B, K] -> codes [B, K], by inverting the cumulative distribution."""
    if sampling.greedy:
        return logits.argmax(-1)
    values, entries = logits.float().topk(min(sampling.top_k, logits.shape[-1]), dim=-1)
    cumulative = (values / sampling.temperature).softmax(-1).cumsum(-1)
    # Scaling by the last sum instead of 1 keeps a rounding error from pointing past the end.
    place = torch.searchsorted(cumulative, noise[..., None] * cumulative[..., -1:], right=True)
    return entries.gather(-1, place.clamp(max=entries.shape[-1] - 1)).squeeze(-1)
