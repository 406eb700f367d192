"""Cross-entropy per codebook.

Shape letters: B items, K codebooks, S steps, V entries.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules import ranks


def cross_entropy_sums(logits: Tensor, targets: Tensor, special: int) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy in nats and number of predicted codes, per item and codebook.

    Args:
        logits: [B, K, S, V].
        targets: [B, K, S]; ``special`` where there is nothing to predict.
        special: the token that is never a target.

    Returns:
        sums [B, K] float32 and counts [B, K] int64.
    """
    # One codebook after the other: in float32, and as gradients, the logits of a single one are there at a time.
    sums = [
        F.cross_entropy(each.flatten(0, 1).float(), wanted.flatten(), ignore_index=special, reduction="none")
        .view_as(wanted)
        .sum(1)
        for each, wanted in zip(logits.unbind(1), targets.unbind(1), strict=True)
    ]
    return torch.stack(sums, 1), (targets != special).sum(2)


def codebook_means(sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of each codebook over all items of all processes: every predicted code counts the same.

    Args:
        sums: [B, K] of this process.
        counts: [B, K] of this process.

    Returns:
        What this process has to minimise [K]: averaged over processes, as data parallel training averages gradients, it
        is the mean, also where one process has shorter items than another. And the mean itself [K], without gradient.
    """
    total, count = ranks.add_up(torch.stack([sums.detach().sum(0), counts.sum(0).to(sums.dtype)]))
    count = count.clamp(min=1)
    return sums.sum(0) * ranks.world_size() / count, total / count
