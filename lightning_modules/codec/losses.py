"""Reconstruction losses and distances of a codec.

Shape letters: B items, C channels, N samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.transforms import MelSpectrogram

# (window, mel bands): short windows resolve few bands, so that no filter is empty.
SCALES = ((64, 10), (128, 20), (256, 40), (512, 64), (1024, 64), (2048, 80))
# Every second window is enough to learn from, at half the cost; the distance that is reported listens to all.
LOSS_SCALES = SCALES[1::2]
FLOOR = 1e-5


class MultiScaleMelLoss(nn.Module):
    """L1 of mel magnitudes plus squared error of their logarithms, averaged over window lengths.

    EnCodec's reconstruction loss in the frequency domain (arXiv 2210.13438, equation 2, with MusicGen's log10 and
    squared error), with fewer bands for shorter windows.
    """

    def __init__(self, sample_rate: int, scales: Sequence[tuple[int, int]] = LOSS_SCALES) -> None:
        super().__init__()
        self.mels = nn.ModuleList([mel_spectrogram(sample_rate, window, bands) for window, bands in scales])

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Two waveforms [B, C, N] -> scalar."""
        total = output.new_zeros(())
        for mel in self.mels:
            left, right = mel(output), mel(target)
            total = total + F.l1_loss(left, right)
            total = total + F.mse_loss((left + FLOOR).log10(), (right + FLOOR).log10())
        return total / len(self.mels)


class MultiScaleMelDistance(nn.Module):
    """Mean absolute difference of log10 mel magnitudes over several windows: a distance to report, in decades."""

    def __init__(self, sample_rate: int, scales: Sequence[tuple[int, int]] = SCALES) -> None:
        super().__init__()
        self.mels = nn.ModuleList([mel_spectrogram(sample_rate, window, bands) for window, bands in scales])

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Two waveforms [B, C, N] -> [B]."""
        parts = []
        for mel in self.mels:
            difference = mel(output).clamp(min=FLOOR).log10() - mel(target).clamp(min=FLOOR).log10()
            parts.append(difference.abs().flatten(1).mean(1))
        return torch.stack(parts).mean(0)


def si_sdr(output: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB (arXiv 1811.02508): [B, C, N] twice -> [B], means removed."""
    output, target = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (output, target))
    scale = (output * target).sum(1, keepdim=True) / target.square().sum(1, keepdim=True).clamp(min=1e-8)
    signal = scale * target
    noise = (output - signal).square().sum(1).clamp(min=1e-8)
    return 10 * (signal.square().sum(1).clamp(min=1e-8) / noise).log10()


def mel_spectrogram(sample_rate: int, window: int, bands: int) -> MelSpectrogram:
    """Mel magnitudes with a hop of a quarter window, energy-normalised so that windows of all lengths weigh alike."""
    return MelSpectrogram(
        sample_rate,
        n_fft=window,
        hop_length=window // 4,
        n_mels=bands,
        power=1.0,
        normalized=True,
        norm="slaney" if bands >= 64 else None,
        mel_scale="slaney",
    )
