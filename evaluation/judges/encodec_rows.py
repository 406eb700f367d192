"""EnCodec's encoder on a CPU: the network of transformers as matrix products over tiles of time.

With the channels of a sample in one row, a convolution is a product for each tap and needs no copy of its input, and
what lies between two strided layers, most of all activations, fits into the cache a tile at a time. A tile is heard
with what its samples reach to on both sides. Weight norm is folded. Sums are added up in another order than in
transformers, so the last digits differ.

Shape letters: V clips of one length, C channels, N rows (samples or frames), O output channels, J taps, D dimensions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

_TILE = 2**17  # values of a layer's output in a tile: half a MiB
_FEWEST = 256  # rows of the smallest product: fewer would read the weights for too little work
_NARROW = 8  # values; thinner taps are joined to one product

Rows = Callable[[Tensor], Tensor]


class RowConvolution:
    """A convolution of transformers' EnCodec, over rows [N, C] -> [ceil(N / stride), O], padding included.

    Args:
        layer: its module, with weight norm.
    """

    def __init__(self, layer: Any) -> None:
        weight = layer.conv.weight.detach()
        outputs, self.inputs, kernel = weight.shape
        self.stride, self.dilation = layer.conv.stride[0], layer.conv.dilation[0]
        self.mode, self.bias = layer.pad_mode, layer.conv.bias.detach()
        assert kernel % self.stride == 0, "a kernel is a whole number of strides wide"
        taps = kernel // self.stride
        self.taps = weight.permute(2, 1, 0).reshape(taps, self.stride * self.inputs, outputs).contiguous()
        padding = (kernel - 1) * self.dilation + 1 - self.stride
        self.right = 0 if layer.causal else padding // 2
        self.left = padding - self.right

    def __call__(self, x: Tensor) -> Tensor:
        """As above."""
        count = -(-len(x) // self.stride)
        x = self._padded(x)
        taps, width, _ = self.taps.shape
        if width < _NARROW:
            columns = x.unfold(0, (taps - 1) * self.dilation + 1, self.stride)[..., :: self.dilation]
            return torch.addmm(self.bias, columns.transpose(1, 2).flatten(1), self.taps.flatten(0, 1))
        blocks = x.view(-1, width)
        y = torch.addmm(self.bias, blocks[:count], self.taps[0])
        for tap in range(1, taps):
            first = tap * self.dilation
            y.addmm_(blocks[first : first + count], self.taps[tap])
        return y

    def _padded(self, x: Tensor) -> Tensor:
        left, right = self.left, self.right + -len(x) % self.stride
        if not left and not right:
            return x
        if self.mode != "reflect":
            return pad(x, (0, 0, left, right))
        # A reflection needs more rows than it mirrors; a shorter signal is first continued with zeros.
        lacking = max(0, max(left, right) + 1 - len(x))
        x = pad(x, (0, 0, 0, lacking))
        parts = [x[1 : left + 1].flip(0), x, x[len(x) - right - 1 : -1].flip(0)]
        return torch.cat(parts)[: left + len(x) + right - lacking]


class RowUnit:
    """A residual unit, over rows [N, C] -> [N, C].

    Args:
        unit: its module.
    """

    def __init__(self, unit: Any) -> None:
        self.block = [RowConvolution(layer) for layer in unit.block if not isinstance(layer, nn.ELU)]
        self.shortcut = None if isinstance(unit.shortcut, nn.Identity) else RowConvolution(unit.shortcut)

    def __call__(self, x: Tensor) -> Tensor:
        """As above."""
        y = x
        for layer in self.block:
            y = layer(elu(y))
        return y.add_(x if self.shortcut is None else self.shortcut(x))


@dataclass(frozen=True)
class Stage:
    """Layers of one rate, of which the last may go on at a lower one; computed tile by tile.

    Attributes:
        layers: in their order.
        convolutions: all that are in them.
    """

    layers: Sequence[Rows]
    convolutions: Sequence[RowConvolution]

    def __call__(self, x: Tensor) -> Tensor:
        """Rows [N, C] -> [ceil(N / stride), O]."""
        stride = self.convolutions[-1].stride
        left, right = (
            _whole(sum(getattr(one, side) for one in self.convolutions), stride) for side in ("left", "right")
        )
        widest = max(one.taps.shape[2] // one.stride for one in self.convolutions)
        tile = _whole(max(_FEWEST * stride, _TILE // widest), stride)
        assert tile > left, "the first tile, which is padded by reflection, is longer than what it mirrors"
        parts = []
        for start in range(0, len(x), tile):
            first, stop = max(0, start - left), min(len(x), start + tile)
            y = x[first : stop + right]
            for layer in self.layers:
                y = layer(y)
            parts.append(y[(start - first) // stride : -(-(stop - first) // stride)])
        return torch.cat(parts)


class RowEncoder:
    """The encoder of transformers' EnCodec on a CPU.

    Args:
        encoder: its module; its weights are copied.
    """

    def __init__(self, encoder: Any) -> None:
        layers = list(encoder.layers)
        (place,) = (place for place, layer in enumerate(layers) if hasattr(layer, "lstm"))
        self.stages = _stages(layers[:place])
        self.recurrence: Rows = layers[place]
        self.last = _stages(layers[place + 1 :])

    def __call__(self, pieces: Tensor) -> Tensor:
        """Clips [V, C, N] -> frames [V, N', D]. The LSTM takes all clips a step: it reads its weights once."""
        frames = torch.stack([_through(self.stages, clip.T.contiguous()) for clip in pieces])
        frames = self.recurrence(frames.transpose(1, 2)).transpose(1, 2)
        return torch.stack([_through(self.last, clip.contiguous()) for clip in frames])


def elu(x: Tensor) -> Tensor:
    """ELU, by an exponential rather than torch's slower expm1; the error is that of float32 around 1."""
    negative = x.clamp(max=0).exp_().sub_(1)
    return torch.maximum(x, negative, out=negative)  # below zero e^x - 1 is the larger


def _stages(layers: Sequence[nn.Module]) -> list[Stage]:
    """Each ends with a strided convolution, the last one where the layers do."""
    stages: list[Stage] = []
    some: list[Rows] = []
    convolutions: list[RowConvolution] = []
    for layer in layers:
        if isinstance(layer, nn.ELU):
            some.append(elu)
        elif hasattr(layer, "block"):
            unit = RowUnit(layer)
            some.append(unit)
            convolutions += unit.block
        else:
            convolution = RowConvolution(layer)
            some.append(convolution)
            convolutions.append(convolution)
            if convolution.stride > 1:
                stages.append(Stage(some, convolutions))
                some, convolutions = [], []
    return [*stages, Stage(some, convolutions)] if some else stages


def _through(stages: Sequence[Stage], x: Tensor) -> Tensor:
    for stage in stages:
        x = stage(x)
    return x


def _whole(rows: int, stride: int) -> int:
    return -(-rows // stride) * stride
