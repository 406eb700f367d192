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
        top_p: of those, only the likeliest that together have this probability; 1 for all.
    """

    top_k: int = 250
    temperature: float = 1.0
    greedy: bool = False
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise InputError(f"top_k must be at least 1, got {self.top_k}")
        if not self.temperature > 0:
            raise InputError(
                f"temperature must be positive, got {self.temperature}; for the likeliest codes use greedy"
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, got {self.top_p}; 1 draws from all of top_k")


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
    last = torch.full_like(entries[..., :1], entries.shape[-1] - 1)
    if sampling.top_p < 1:
        # The place at which the entries first reach their share.
        last = torch.minimum(last, (cumulative < sampling.top_p * cumulative[..., -1:]).sum(-1, keepdim=True))
    # Scaling by the last sum instead of 1, and staying below it, keeps a rounding error from pointing past the end.
    sought = noise[..., None] * cumulative.gather(-1, last)
    place = torch.searchsorted(cumulative, sought, right=True)
    return entries.gather(-1, torch.minimum(place, last)).squeeze(-1)
