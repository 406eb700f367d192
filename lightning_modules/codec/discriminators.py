"""Multi-scale STFT discriminators and what generator and discriminators learn from them (EnCodec, section 3.4).

Shape letters: B items, C channels, N samples, F frequencies, T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

_SLOPE = 0.3  # MusicGen's; EnCodec has 0.2
_TIME_DILATIONS = (1, 2, 4)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of the discriminators; the defaults are MusicGen's (472,490 parameters with one channel).

    Attributes:
        windows: STFT lengths, one discriminator each, with a hop of a quarter.
        filters: width of their convolutions.
        starts: optimiser step from which on they learn and are listened to.
    """

    windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    filters: int = 32
    starts: int = 0


class Judged(NamedTuple):
    """What a discriminator says: scores [B, 1, T, F'] (high where it takes the audio for real), and its activations."""

    scores: Tensor
    features: list[Tensor]


class STFTDiscriminator(nn.Module):
    """Convolutions over one complex spectrogram, real and imaginary parts as channels, time dilated, frequency strided.

    All convolutions are weight-normalised, as EnCodec has it; in audiocraft the first one is not, for want of an
    argument that was not passed on.
    """

    window: Tensor

    def __init__(self, channels: int, window: int, filters: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        layers = [_conv(2 * channels, filters, (3, 9))]
        layers += [_conv(filters, filters, (3, 9), stride=2, dilation=dilation) for dilation in _TIME_DILATIONS]
        layers.append(_conv(filters, filters, (3, 3)))
        self.layers = nn.ModuleList(layers)
        self.last = _conv(filters, 1, (3, 3))

    def forward(self, wav: Tensor) -> Judged:
        """Waveform [B, C, N] with N of at least a window."""
        length = len(self.window)
        spectrum = torch.stft(
            wav.flatten(0, 1), length, length // 4, window=self.window, center=False, normalized=True,
            return_complex=True,
        )  # fmt: skip
        parts = torch.view_as_real(spectrum).unflatten(0, wav.shape[:2])  # [B, C, F, T, 2]
        x = parts.permute(0, 4, 1, 3, 2).flatten(1, 2)  # [B, 2C, T, F]
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return Judged(self.last(x), features)


class Discriminators(nn.Module):
    """One STFT discriminator a window length.

    Args:
        config: their shape.
        channels: of the audio.
    """

    def __init__(self, config: DiscriminatorConfig, channels: int = 1) -> None:
        super().__init__()
        self.starts = config.starts
        self.scales = nn.ModuleList([STFTDiscriminator(channels, window, config.filters) for window in config.windows])

    def forward(self, wav: Tensor) -> list[Judged]:
        """Waveform [B, C, N] -> what each of them says."""
        return [scale(wav) for scale in self.scales]


def discriminator_loss(real: Sequence[Judged], fake: Sequence[Judged]) -> Tensor:
    """Hinge: real audio should score above 1, reconstructions below -1; the mean over discriminators."""
    losses = [F.relu(1 - r.scores).mean() + F.relu(1 + f.scores).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def adversarial_loss(fake: Sequence[Judged]) -> Tensor:
    """What the generator wants: high scores for its reconstructions; the mean over discriminators."""
    return torch.stack([-judged.scores.mean() for judged in fake]).mean()


def feature_loss(real: Sequence[Judged], fake: Sequence[Judged]) -> Tensor:
    """Distance of activations, each layer's L1 relative to its mean size on the real audio (EnCodec, equation 3).

    audiocraft computes that size and then does not divide by it, so that its loud layers outweigh the others.
    """
    losses = [
        F.l1_loss(b, a.detach()) / a.detach().abs().mean().clamp(min=1e-8)
        for r, f in zip(real, fake, strict=True)
        for a, b in zip(r.features, f.features, strict=True)
    ]
    return torch.stack(losses).mean()


def _conv(inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Kernel over (time, frequency); strided in frequency, dilated in time, padded to keep both lengths."""
    padding = (dilation * (kernel[0] // 2), kernel[1] // 2)
    layer = nn.Conv2d(inputs, outputs, kernel, stride=(1, stride), dilation=(dilation, 1), padding=padding)
    made: nn.Conv2d = weight_norm(layer)
    return made
