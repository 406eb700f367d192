"""The linear layers of the language model."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Linear(nn.Linear):
    """``nn.Linear`` without bias, of whose weights mixed precision keeps no copy for the way back.

    Autograd would keep the weights in 16 bits from forward to backward, half as much again as the weights themselves.
    Here they are made again, which takes as long as reading them. Results and gradients are the same, bit for bit.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., out]."""
        kind = x.device.type
        if not torch.is_autocast_enabled(kind):
            return super().forward(x)
        made: Tensor = _Product.apply(x.to(torch.get_autocast_dtype(kind)), self.weight)
        return made


class _Product(torch.autograd.Function):
    """Inputs [..., width] and weights [out, width], which are taken to the inputs' precision -> [..., out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        of_x, of_weight = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        ctx.dtype = weight.dtype
        return F.linear(x, weight.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = gradient @ weight.to(gradient.dtype) if weight is not None else None
        of_weight = (gradient.flatten(0, -2).T @ x.flatten(0, -2)).to(ctx.dtype) if x is not None else None
        return of_x, of_weight
