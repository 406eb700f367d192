"""Cross-entropy per codebook.

Shape letters: B items, K codebooks, S steps, V entries.
"""

from torch import Tensor
from torch.nn import functional as F


def cross_entropy_sums(logits: Tensor, targets: Tensor, special: int) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy in nats and number of predicted codes, per item and codebook.

    Args:
        logits: [B, K, S, V].
        targets: [B, K, S]; ``special`` where there is nothing to predict.
        special: the token that is never a target.

    Returns:
        sums [B, K] float32 and counts [B, K] int64.
    """
    losses = F.cross_entropy(logits.flatten(0, 2).float(), targets.flatten(), ignore_index=special, reduction="none")
    return losses.view_as(targets).sum(2), (targets != special).sum(2)


def codebook_means(sums: Tensor, counts: Tensor) -> Tensor:
    """Mean cross-entropy of each codebook [K] over all items: every predicted code counts the same."""
    return sums.sum(0) / counts.sum(0).clamp(min=1)
