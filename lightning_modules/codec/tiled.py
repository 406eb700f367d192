"""SEANet on a CPU: matrix products over tiles of time that stay in the cache.

With all channels of a step in one row, a convolution of kernel m * s and stride s is m matrix products of the rows,
taken s at a time; a transposed one of kernel 2 * s is two; and none needs its input copied into columns. Signals are
lazy: a stage of the network asks the layer before it for just the rows of its tile, so that what lies between two
strided layers, most of all activations, never leaves the cache. Weight norm is folded.

Shape letters: C channels, N steps (rows), O output channels, S stride, J taps.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.codec.seanet import PaddedConv1d, ResidualUnit, TrimmedConvTranspose1d

_TILE = 2**17  # values of the widest tile, a thread: half a MiB in float32
_LEAST = 256  # rows of a product's output: fewer would stream the weights for too little work
_NARROW = 8  # channels; fewer make products too thin, and taps are joined to one


class Signal(ABC):
    """Rows [N, C] that are computed when they are asked for.

    Attributes:
        length: N.
        width: values of its source that one row needs.
        least: how many rows to ask for at once, so that no product has fewer than ``_LEAST``.
    """

    length: int
    width: int
    least: int

    @abstractmethod
    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, within 0..length, as a contiguous [stop - start, C]."""

    def padded(self, start: int, stop: int, most: int | None = None) -> Tensor:
        """The same, continued beyond both ends: by a reflection of at most ``most`` rows, or by zeros."""
        if start >= 0 and stop <= self.length:
            return self.rows(start, stop)
        places = torch.arange(start, stop)
        if most is not None:
            # A reflection needs more rows than it mirrors; a shorter signal is first continued with zeros.
            last = max(self.length - 1, most)
            places = last - (last - places.abs()).abs()
        inside = (places >= 0) & (places < self.length)
        first, behind = int(places[inside].min()), int(places[inside].max()) + 1
        rows = self.rows(first, behind)
        gathered = rows[(places - first).clamp(0, behind - first - 1)]
        return gathered if inside.all() else gathered * inside[:, None]


class Stored(Signal):
    """Rows that lie in memory."""

    def __init__(self, tensor_NC: Tensor) -> None:
        self.tensor = tensor_NC
        self.length, self.width, self.least = *tensor_NC.shape, 1

    def rows(self, start: int, stop: int) -> Tensor:
        """A view."""
        return self.tensor[start:stop]


@dataclass(frozen=True)
class Taps:
    """A convolution's weights as matrices: y[t] = bias + sum over j of x[t + j * dilation] @ taps[j], S rows at a time.

    Attributes:
        taps: [J, S * C, O].
        bias: [O].
        stride: S.
        dilation: between taps, in steps of S rows.
        left: rows that are padded on the left.
        mode: how.
    """

    taps: Tensor
    bias: Tensor
    stride: int
    dilation: int
    left: int
    mode: str

    @classmethod
    def of(cls, layer: PaddedConv1d) -> "Taps":
        """Folds and rearranges a layer's weights."""
        weight, stride = layer.conv.weight.detach(), layer.conv.stride[0]
        outputs, inputs, kernel = weight.shape
        assert kernel % stride == 0, "a kernel is a whole number of strides wide"
        taps = weight.permute(2, 1, 0).reshape(kernel // stride, stride * inputs, outputs).contiguous()
        bias = layer.conv.bias
        assert bias is not None
        return cls(taps, bias.detach(), stride, layer.conv.dilation[0], layer.reach[0], layer.mode)

    @property
    def span(self) -> int:
        """Rows that one output hears."""
        return ((len(self.taps) - 1) * self.dilation + 1) * self.stride

    def reflected(self, length: int) -> int | None:
        """Rows of a signal that are mirrored on the longer side, where it is padded by reflection."""
        right = self.span - self.stride - self.left + -length % self.stride
        return max(self.left, right) if self.mode == "reflect" else None

    def __call__(self, x: Tensor) -> Tensor:
        """[span + (n - 1) * S, C] -> [n, O]."""
        count = (len(x) - self.span) // self.stride + 1
        taps, width, outputs = self.taps.shape
        if taps > 2 and width < _NARROW:
            columns = x.unfold(0, self.span, 1)[..., :: self.dilation]  # [n, C, J]
            return torch.addmm(self.bias, columns.flatten(1), self.taps.transpose(0, 1).flatten(0, 1))
        blocks = x.view(-1, width)
        shifted = [blocks[j * self.dilation : j * self.dilation + count] for j in range(taps)]
        if taps > 2 and outputs < _NARROW:
            every = blocks @ self.taps.transpose(0, 1).flatten(1)  # [., J * O]
            parts = [
                every[j * self.dilation : j * self.dilation + count, j * outputs : (j + 1) * outputs]
                for j in range(taps)
            ]
            return torch.stack(parts).sum(0) + self.bias
        y = torch.addmm(self.bias, shifted[0], self.taps[0])
        for block, tap in zip(shifted[1:], self.taps[1:], strict=True):
            y.addmm_(block, tap)
        return y


class Convolved(Signal):
    """A convolution of a signal, after an ELU if there is one."""

    def __init__(self, source: Signal, taps: Taps, activated: bool) -> None:
        self.source, self.taps, self.activated = source, taps, activated
        self.length, self.width = -(-source.length // taps.stride), taps.taps.shape[1]
        self.least = max(_LEAST, -(-source.least // taps.stride))

    def rows(self, start: int, stop: int) -> Tensor:
        """Asks for the rows under the taps."""
        taps = self.taps
        first = start * taps.stride - taps.left
        last = first + (stop - start - 1) * taps.stride + taps.span
        x = self.source.padded(first, last, taps.reflected(self.source.length))
        return taps(elu(x) if self.activated else x)


@dataclass(frozen=True)
class UnitTaps:
    """A residual unit's convolutions; the shortcut's is None where the input itself is added."""

    wide: Taps
    narrow: Taps
    shortcut: Taps | None

    @classmethod
    def of(cls, unit: ResidualUnit) -> "UnitTaps":
        """Folds and rearranges a unit's weights."""
        shortcut = Taps.of(unit.shortcut) if isinstance(unit.shortcut, PaddedConv1d) else None
        wide, narrow = (Taps.of(layer) for layer in unit.block if isinstance(layer, PaddedConv1d))
        return cls(wide, narrow, shortcut)


class Residual(Signal):
    """A residual unit over a signal."""

    def __init__(self, source: Signal, taps: UnitTaps) -> None:
        self.source, self.taps = source, taps
        self.length, self.width = source.length, taps.wide.taps.shape[1]
        self.least = max(_LEAST, source.least)

    def rows(self, start: int, stop: int) -> Tensor:
        """Both convolutions and the sum."""
        wide, narrow, shortcut = self.taps.wide, self.taps.narrow, self.taps.shortcut
        first, last = start - wide.left, stop - wide.left + wide.span - 1
        x = self.source.padded(first, last, wide.reflected(self.length))
        hidden = elu(wide(elu(x)))
        middle = x[wide.left : wide.left + stop - start]
        y = middle + narrow.bias if shortcut is None else shortcut(middle).add_(narrow.bias)
        return y.addmm_(hidden, narrow.taps[0])


@dataclass(frozen=True)
class UpTaps:
    """A transposed convolution's weights: the S outputs of step t are x[t] @ taps[0] + x[t - 1] @ taps[1].

    Attributes:
        taps: [2, C, S * O].
        bias: [S * O].
        stride: S.
        left: outputs that are cut off on the left.
    """

    taps: Tensor
    bias: Tensor
    stride: int
    left: int

    @classmethod
    def of(cls, layer: TrimmedConvTranspose1d) -> "UpTaps":
        """Folds and rearranges a layer's weights."""
        weight, stride = layer.conv.weight.detach(), layer.conv.stride[0]
        assert weight.shape[2] == 2 * stride, "a kernel is two strides wide"
        taps = weight.unflatten(2, (2, stride)).permute(2, 0, 3, 1).flatten(2).contiguous()
        assert layer.conv.bias is not None
        return cls(taps, layer.conv.bias.detach().repeat(stride), stride, layer.left)


class Upsampled(Signal):
    """A transposed convolution of a signal, after an ELU if there is one."""

    def __init__(self, source: Signal, taps: UpTaps, activated: bool) -> None:
        self.source, self.taps, self.activated = source, taps, activated
        self.length, self.width = source.length * taps.stride, len(taps.bias) // taps.stride
        self.least = _LEAST * taps.stride

    def rows(self, start: int, stop: int) -> Tensor:
        """Whole steps of S outputs, cut to what was asked for."""
        taps, stride = self.taps, self.taps.stride
        start, stop = start + taps.left, stop + taps.left
        first, behind = start // stride, -(-stop // stride)
        x = self.source.padded(first - 1, behind)
        x = elu(x) if self.activated else x
        y = torch.addmm(taps.bias, x[1:], taps.taps[0]).addmm_(x[:-1], taps.taps[1])
        return y.view(len(y) * stride, -1)[start - first * stride : stop - first * stride]


class TiledStack:
    """The layers of an encoder or decoder on one side of its LSTM.

    Args:
        layers: convolutions, residual units, transposed convolutions, ELUs.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers: list[tuple[Taps | UnitTaps | UpTaps, bool]] = []
        activated = False
        for layer in layers:
            if isinstance(layer, nn.ELU):
                activated = True
                continue
            self.layers.append((_taps(layer), activated))
            activated = False
        assert not activated, "a stack ends with a convolution or a unit"

    def __call__(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, O, N'], one item after the other."""
        return torch.stack([self._run(item.T.contiguous()) for item in x]).transpose(1, 2)

    def _run(self, x: Tensor) -> Tensor:
        signal: Signal = Stored(x)
        for taps, activated in self.layers:
            if isinstance(taps, UpTaps):
                signal = Upsampled(_computed(signal), taps, activated)
            elif isinstance(taps, UnitTaps):
                signal = Residual(signal, taps)
            else:
                signal = Convolved(signal, taps, activated)
                if taps.stride > 1:
                    signal = _computed(signal)
        return _computed(signal).tensor


def elu(x: Tensor) -> Tensor:
    """ELU, by an exponential rather than torch's slower expm1; the error is that of float32 around 1."""
    if x.dtype != torch.float32:
        return F.elu(x)
    negative = x.clamp(max=0).exp_().sub_(1)
    return torch.maximum(x, negative, out=negative)  # below zero e^x - 1 is the larger


def _taps(layer: nn.Module) -> Taps | UnitTaps | UpTaps:
    if isinstance(layer, PaddedConv1d):
        return Taps.of(layer)
    if isinstance(layer, ResidualUnit):
        return UnitTaps.of(layer)
    assert isinstance(layer, TrimmedConvTranspose1d), f"no such layer in a stack: {layer}"
    return UpTaps.of(layer)


def _computed(signal: Signal) -> Stored:
    """Computes a signal tile by tile."""
    if isinstance(signal, Stored):
        return signal
    tile = max(signal.least, _TILE * torch.get_num_threads() // signal.width)
    first = signal.rows(0, min(tile, signal.length))
    if tile >= signal.length:
        return Stored(first)
    whole = first.new_empty(signal.length, first.shape[1])
    whole[:tile] = first
    for start in range(tile, signal.length, tile):
        stop = min(start + tile, signal.length)
        whole[start:stop] = signal.rows(start, stop)
    return Stored(whole)
