"""The LSTM at the bottleneck, for inference: carries its state from one chunk of frames to the next.

Shape letters: B items, T frames, H width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.codec.seanet import ResidualLSTM

State = tuple[Tensor, Tensor] | None  # hidden and cell state [layers, B, H]; None at the beginning
_LOOPED = 3  # items up to which one item after the other is faster on a CPU


class Recurrence:
    """x + LSTM(x).

    A step of one item is a product of one row with a matrix of 4 H^2 values, and costs what reading that matrix costs.
    A matrix product with the matrix transposed reads it faster than torch's LSTM does, so a CPU steps through few items
    here; the products with the inputs, which wait for nothing, are one product for all frames.

    Args:
        module: the layer with its weights.
    """

    def __init__(self, module: ResidualLSTM) -> None:
        self.lstm = module.lstm
        self.layers: Sequence[tuple[Tensor, Tensor, Tensor]] = []
        if self.lstm.weight_hh_l0.device.type == "cpu":
            self.layers = [self._transposed(layer) for layer in range(self.lstm.num_layers)]

    def __call__(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """[B, H, T] and the state before -> [B, H, T] and the state after."""
        frames = x.permute(2, 0, 1)
        if self.layers and len(x) <= _LOOPED:
            y, state = self._looped(frames, state)
        else:
            y, state = self.lstm(frames, state)
        return x + y.permute(1, 2, 0), state

    def _looped(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, cell = state or (x.new_zeros(len(self.layers), *x.shape[1:]) for _ in range(2))
        hidden, cell = hidden.clone(), cell.clone()
        items = []
        for item in range(x.shape[1]):
            y = x[:, item]
            for layer, weights in enumerate(self.layers):
                y = _steps(y, hidden[layer, item : item + 1], cell[layer, item : item + 1], weights)
            items.append(y)
        return torch.stack(items, 1), (hidden, cell)

    def _transposed(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of inputs and of the state [H, 4H], and the bias [4H], in the order of gates of ``_reordered``."""
        inputs, states, bias, more = (
            getattr(self.lstm, f"{name}_l{layer}").detach() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        return _reordered(inputs).T.contiguous(), _reordered(states).T.contiguous(), _reordered(bias + more)


def _steps(x: Tensor, hidden: Tensor, cell: Tensor, weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """One layer over [T, H]; changes ``hidden`` and ``cell`` [1, H] to those after the last frame."""
    inputs, states, bias = weights
    gates = x.new_empty(1, len(bias))
    width = x.shape[1]
    sigmoids, candidate = gates[:, : 3 * width], gates[:, 3 * width :]
    take, keep, show = sigmoids.split(width, 1)
    outputs, before = [], hidden
    for given in torch.addmm(bias, x, inputs).split(1):
        torch.addmm(given, before, states, out=gates)
        sigmoids.sigmoid_()
        candidate.tanh_()
        cell.mul_(keep).addcmul_(take, candidate)
        before = cell.tanh().mul_(show)
        outputs.append(before)
    hidden.copy_(before)
    return torch.cat(outputs)


def _reordered(gates: Tensor) -> Tensor:
    """Torch's order of gates is input, forget, cell, output."""
    take, keep, candidate, show = gates.chunk(4)
    return torch.cat([take, keep, show, candidate])
