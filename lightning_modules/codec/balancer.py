"""The gradient balancer: each loss has its share of the gradient, however large it is (EnCodec, section 3.4)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_modules import ranks

_TINY = 1e-12


class Balancer(nn.Module):
    """Adds up the losses' gradients at the decoder's output, each scaled to its weight's share of a norm of one.

    A loss's gradient is divided by a moving average of its norm an item, so its weight says what it contributes and
    nothing depends on its scale. The average is unbiased (the first step has the norm itself) and taken over all ranks.
    A loss that is not there yet leaves its share to the others.

    Args:
        weights: of the losses by name, above zero.
        decay: of the averages, a step.

    Attributes:
        averages: of the norms, in the order of the weights.
        updates: steps in each of them.
    """

    averages: Tensor
    updates: Tensor

    def __init__(self, weights: Mapping[str, float], decay: float = 0.999) -> None:
        super().__init__()
        self.weights, self.decay = dict(weights), decay
        self.register_buffer("averages", torch.zeros(len(weights)))
        self.register_buffer("updates", torch.zeros(len(weights)))

    def forward(self, losses: Mapping[str, Tensor], output: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient [B, ...] to hand to ``output`` [B, ...], and each loss's part of its norm before scaling.

        Args:
            losses: scalars that depend on ``output``; a name without a weight is an error of the caller's.
            output: what they were computed from.
        """
        places = [list(self.weights).index(name) for name in losses]
        gradients = [torch.autograd.grad(loss, output, retain_graph=True)[0] for loss in losses.values()]
        norms = torch.stack([gradient.detach().flatten(1).norm(dim=1).mean() for gradient in gradients])
        norms = ranks.add_up(norms) / ranks.world_size()
        self.updates[places] += 1
        self.averages[places] = self.averages[places].lerp(norms, 1 - self.decay)
        usual = self.averages[places] / (1 - self.decay ** self.updates[places])
        weights = torch.tensor([self.weights[name] for name in losses], device=norms.device)
        scales = weights / weights.sum() / usual.clamp(min=_TINY)
        total = torch.stack([scale * gradient for scale, gradient in zip(scales, gradients, strict=True)]).sum(0)
        return total, dict(zip(losses, norms, strict=True))
