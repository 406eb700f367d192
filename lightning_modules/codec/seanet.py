"""SEANet: the convolutional encoder and decoder of EnCodec (arXiv 2210.13438, section 3.1).

Modules sit in ``nn.Sequential`` at the indices that EnCodec's published checkpoints use, so that a converter only
renames.

Shape letters: B items, C channels of a layer, N samples or steps.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from lightning_modules.codec.config import CodecConfig


class PaddedConv1d(nn.Module):
    """Weight-normalised convolution whose output has ceil(N / stride) steps.

    The padding kernel - stride is split between both sides (the larger half on the left), or lies all on the left when
    causal; the right side gets as much more as the last window lacks.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, config: CodecConfig, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        padding = (kernel - 1) * dilation + 1 - stride
        right = 0 if config.causal else padding // 2
        self.stride, self.mode = stride, config.pad_mode
        # Zeros on both sides alike are the convolution's own business and cost no copy.
        inner = right if config.pad_mode == "constant" and 2 * right == padding else 0
        self.left, self.right = (0, 0) if inner else (padding - right, right)
        self.conv = weight_norm(nn.Conv1d(inputs, outputs, kernel, stride=stride, dilation=dilation, padding=inner))

    @property
    def reach(self) -> tuple[int, int]:
        """Input steps before and after its own ``stride`` that an output hears."""
        kernel, dilation, padding = self.conv.kernel_size[0], self.conv.dilation[0], self.conv.padding[0]
        assert isinstance(padding, int)
        left = self.left + padding
        return left, (kernel - 1) * dilation + 1 - self.stride - left

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C', ceil(N / stride)]."""
        missing = -x.shape[-1] % self.stride
        return self.conv(_pad(x, self.left, self.right + missing, self.mode))


class TrimmedConvTranspose1d(nn.Module):
    """Weight-normalised transposed convolution whose output has exactly N * stride steps."""

    def __init__(self, inputs: int, outputs: int, kernel: int, config: CodecConfig, stride: int) -> None:
        super().__init__()
        self.conv = weight_norm(nn.ConvTranspose1d(inputs, outputs, kernel, stride=stride))
        excess = kernel - stride
        self.right = excess if config.causal else excess // 2
        self.left = excess - self.right

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C', N * stride]."""
        x = self.conv(x)
        return x[..., self.left : x.shape[-1] - self.right]


class ResidualUnit(nn.Module):
    """Two convolutions through a narrower middle, added to the input."""

    def __init__(self, width: int, config: CodecConfig, dilation: int) -> None:
        super().__init__()
        hidden = width // config.compress
        self.block = nn.Sequential(
            nn.ELU(),
            PaddedConv1d(width, hidden, config.residual_kernel, config, dilation=dilation),
            nn.ELU(),
            PaddedConv1d(hidden, width, 1, config),
        )
        self.shortcut = PaddedConv1d(width, width, 1, config) if config.conv_shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C, N]."""
        return self.shortcut(x) + self.block(x)


class ResidualLSTM(nn.Module):
    """A stack of LSTM layers over time, added to its input."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C, N]."""
        y, _ = self.lstm(x.permute(2, 0, 1))
        return x + y.permute(1, 2, 0)


def encoder(config: CodecConfig) -> nn.Sequential:
    """Waveform [B, C, N] -> latents [B, dim, ceil(N / hop)]."""
    widths = _widths(config)
    layers: list[nn.Module] = [PaddedConv1d(config.channels, widths[0], config.kernel, config)]
    for (width, wider), ratio in zip(pairwise(widths), reversed(config.ratios), strict=True):
        layers += _residual_units(width, config)
        layers += [nn.ELU(), PaddedConv1d(width, wider, 2 * ratio, config, stride=ratio)]
    if config.lstm_layers:
        layers.append(ResidualLSTM(widths[-1], config.lstm_layers))
    layers += [nn.ELU(), PaddedConv1d(widths[-1], config.dim, config.last_kernel, config)]
    return nn.Sequential(*layers)


def decoder(config: CodecConfig) -> nn.Sequential:
    """Latents [B, dim, T] -> waveform [B, C, T * hop]."""
    widths = _widths(config)[::-1]
    layers: list[nn.Module] = [PaddedConv1d(config.dim, widths[0], config.kernel, config)]
    if config.lstm_layers:
        layers.append(ResidualLSTM(widths[0], config.lstm_layers))
    for (width, narrower), ratio in zip(pairwise(widths), config.ratios, strict=True):
        layers += [nn.ELU(), TrimmedConvTranspose1d(width, narrower, 2 * ratio, config, stride=ratio)]
        layers += _residual_units(narrower, config)
    layers += [nn.ELU(), PaddedConv1d(widths[-1], config.channels, config.last_kernel, config)]
    return nn.Sequential(*layers)


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Draws every convolution so that it keeps the variance of its input, and sets biases to zero.

    PyTorch's default (which the original keeps) loses nine tenths of a waveform's variance on the way to the latents,
    where the biases then drown it: training spends its first thousands of steps on constant latents.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
            transposed = isinstance(layer, nn.ConvTranspose1d)
            # Of a transposed convolution's kernel only every stride-th tap reaches one output sample.
            taps = layer.kernel_size[0] / (layer.stride[0] if transposed else 1)
            layer.weight = torch.randn_like(layer.weight) / (layer.in_channels * taps) ** 0.5
            assert layer.bias is not None
            layer.bias.zero_()


def _widths(config: CodecConfig) -> list[int]:
    return [config.filters * 2**stage for stage in range(len(config.ratios) + 1)]


def _residual_units(width: int, config: CodecConfig) -> Sequence[nn.Module]:
    return [
        ResidualUnit(width, config, config.dilation_base**unit if unit else 1) for unit in range(config.residual_units)
    ]


def _pad(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    if not (left or right):
        return x
    if mode == "constant":
        return F.pad(x, (left, right))
    # A reflection needs more samples than it mirrors; a shorter input is first continued with silence.
    lacking = max(left, right) + 1 - x.shape[-1]
    if lacking <= 0:
        return F.pad(x, (left, right), mode=mode)
    padded = F.pad(F.pad(x, (0, lacking)), (left, right), mode=mode)
    return padded[..., : padded.shape[-1] - lacking]
