"""Kullback-Leibler divergence between what a classifier hears in a generated clip and in its reference.

Shape letters: N clips, L labels.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from datamodules.errors import InputError

Direction = Literal["reference_to_generated", "generated_to_reference", "both"]
EPSILON = 1e-6


def kl_divergence(
    generated_logits: Tensor,
    reference_logits: Tensor,
    *,
    direction: Direction = "reference_to_generated",
    epsilon: float = EPSILON,
) -> Tensor:
    """Divergence of each pair of clips, in nats.

    With p the softmax of the reference's logits and q of the generated clip's:
    KL(p || q) = sum_l p_l (log p_l - log(q_l + epsilon)), audiocraft's ``kld_pq`` and the MusicGen paper's KL.

    Args:
        generated_logits: [N, L].
        reference_logits: [N, L], row by row the references of the generated clips.
        direction: KL(reference || generated), the default; KL(generated || reference), as stable-audio-metrics takes
            it; or the sum of both.
        epsilon: added inside the logarithm of the second distribution.

    Returns:
        [N]; as low as -L * epsilon for equal logits, because of the epsilon.

    Raises:
        InputError: shapes that differ, an unknown direction, or logits that are not finite.
    """
    if generated_logits.dim() != 2 or generated_logits.shape != reference_logits.shape:
        raise InputError(
            f"logits must be two [N, L] of one shape, not {list(generated_logits.shape)} and "
            f"{list(reference_logits.shape)}"
        )
    if not (generated_logits.isfinite().all() and reference_logits.isfinite().all()):
        raise InputError("logits are not finite; look for broken clips first")
    if direction not in get_args(Direction):
        raise InputError(f"direction {direction!r} is unknown; use one of {', '.join(get_args(Direction))}")
    q, p = generated_logits.double().softmax(-1), reference_logits.double().softmax(-1)
    forward = (torch.xlogy(p, p) - p * (q + epsilon).log()).sum(-1)
    if direction == "reference_to_generated":
        return forward
    backward = (torch.xlogy(q, q) - q * (p + epsilon).log()).sum(-1)
    return backward if direction == "generated_to_reference" else forward + backward


class KLDivergence(Metric):
    """Mean over clips of ``kl_divergence``; lower is better.

    Args:
        direction: see ``kl_divergence``.
        epsilon: see ``kl_divergence``.
        kwargs: for ``torchmetrics.Metric``.

    Example:
        >>> metric = KLDivergence()
        >>> metric.update(torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
        >>> abs(float(metric.compute())) < 1e-5
        True
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(
        self, direction: Direction = "reference_to_generated", epsilon: float = EPSILON, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if direction not in get_args(Direction):
            raise InputError(f"direction {direction!r} is unknown; use one of {', '.join(get_args(Direction))}")
        self.direction, self.epsilon = direction, epsilon
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, generated_logits: Tensor, reference_logits: Tensor) -> None:
        """Adds pairs of clips; both [N, L]."""
        values = kl_divergence(generated_logits, reference_logits, direction=self.direction, epsilon=self.epsilon)
        self.total += values.sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        """The mean in nats, float64 scalar; InputError before any update."""
        if self.count == 0:
            raise InputError("KL divergence needs at least one pair of clips; update it first")
        return self.total / self.count
