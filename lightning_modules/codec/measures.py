"""How far reconstructions of whole clips are from their originals, in bounded memory, and how codebooks are used.

Spectra are computed of a segment of some ten seconds at a time. A segment is read with what its outermost windows reach
into, and keeps the frames whose centres lie in it, so all segments together have exactly the frames of the whole clip:
the sums are those of one large spectrum, up to rounding. Waveforms may lie in main memory and the spectra on a GPU.

Shape letters: B items, C channels, N samples, F bands, T frames, K codebooks, V entries.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchaudio.transforms import Spectrogram

from datamodules.errors import InputError
from lightning_modules.codec.losses import FLOOR, SCALES, MultiScaleMelDistance

STFT_WINDOWS = (512, 1024, 2048)
SEGMENT_SECONDS = 10.0
# Root mean square under which a clip counts as silent: -100 dB of full scale, a third of a 16-bit step.
SILENT = 1e-5
# SI-SDR is cut off here, so that a perfect clip and a lost one leave the mean finite.
MOST_DECIBELS = 100.0
SHORTEST = max(window for window, _ in SCALES)
_CONTEXT = SHORTEST  # samples; the longest window reaches half as far
_STEP = SHORTEST // 4  # the longest hop; every other one divides it


class ClipScore(NamedTuple):
    """What one clip's reconstruction scores.

    Attributes:
        si_sdr: dB; None where the original is silent.
        mel_distance: decades.
        stft_distance: no unit; None where the original is silent.
        worst: where the segment with the largest mel distance begins, seconds.
    """

    si_sdr: float | None
    mel_distance: float
    stft_distance: float | None
    worst: float


class ReconstructionMeasures(nn.Module):
    """SI-SDR, mel distance and STFT distance of one clip, however long.

    ``mel_distance`` is that of ``MultiScaleMelDistance``. ``stft_distance`` is the two spectral terms of Parallel
    WaveGAN (arXiv 1910.11480, equations 4 to 6), added up and averaged over windows of 512, 1024 and 2048 samples: the
    norm of the difference of the magnitudes over the norm of the original's, plus the mean absolute difference of their
    natural logarithms. The windows are Hann's with a hop of a quarter; magnitudes below 1e-5 (-100 dB) count as that.

    Args:
        sample_rate: of the clips, Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.mels = MultiScaleMelDistance(sample_rate).mels
        self.spectra = nn.ModuleList(
            [Spectrogram(window, hop_length=window // 4, power=1.0, normalized=True) for window in STFT_WINDOWS]
        )
        self._segment = max(1, round(SEGMENT_SECONDS * sample_rate / _STEP)) * _STEP

    @torch.no_grad()
    def forward(self, output: Tensor, target: Tensor) -> ClipScore:
        """Two waveforms [C, N], the reconstruction and its original.

        Raises:
            InputError: the clip is shorter than the longest window.
        """
        assert output.shape == target.shape, "a reconstruction is cut to its original before it is measured"
        if output.shape[-1] < SHORTEST:
            raise InputError(f"{output.shape[-1]} samples are shorter than the longest window, {SHORTEST} samples")
        mel, stft, local = _Sums(len(self.mels)), _Sums(len(self.spectra)), []
        for start, stop in segments(output.shape[-1], self._segment):
            before = mel.logarithms.clone(), mel.values.clone()
            for scale, transform in enumerate(self.mels):
                mel.add(scale, *(_frames(transform, wav, start, stop) for wav in (output, target)))
            local.append(((mel.logarithms - before[0]) / (mel.values - before[1])).mean().item())
            for scale, transform in enumerate(self.spectra):
                stft.add(scale, *(_frames(transform, wav, start, stop) for wav in (output, target)))
        ratio = si_sdr_of_clip(output, target)
        return ClipScore(
            ratio,
            (mel.logarithms / mel.values).mean().item() / math.log(10),
            None if ratio is None else stft.distance(),
            local.index(max(local)) * self._segment / self.sample_rate,
        )


class _Sums:
    """Sums over spectra, [scales] float64 each, from which both distances follow."""

    def __init__(self, scales: int) -> None:
        self.logarithms, self.squares, self.energy, self.values = torch.zeros(4, scales, dtype=torch.float64)

    def add(self, scale: int, output: Tensor, target: Tensor) -> None:
        """Adds two spectra of magnitudes [C, F, T]."""
        logarithms = output.clamp(min=FLOOR).log() - target.clamp(min=FLOOR).log()
        self.logarithms[scale] += logarithms.abs().sum().item()
        self.squares[scale] += (output - target).square().sum().item()
        self.energy[scale] += target.square().sum().item()
        self.values[scale] += output.numel()

    def distance(self) -> float:
        """Spectral convergence plus the mean difference of the logarithms, averaged over the scales."""
        return ((self.squares / self.energy).sqrt() + self.logarithms / self.values).mean().item()


def segments(length: int, size: int) -> Iterator[tuple[int, int]]:
    """[start, stop) of consecutive segments of ``size`` samples; the last is half as long to half as long again."""
    count = max(1, int(length / size + 0.5))
    return pairwise([*(number * size for number in range(count)), length])


def _frames(transform: Any, wav: Tensor, start: int, stop: int) -> Tensor:
    """The frames of ``transform(wav)`` whose centres lie in [start, stop), or to the end: [C, F, T]."""
    begin = max(0, start - _CONTEXT)
    device = next(transform.buffers()).device
    spectrum: Tensor = transform(wav[:, begin : stop + _CONTEXT].to(device))
    first, count = (start - begin) // transform.hop_length, (stop - start) // transform.hop_length
    return spectrum[..., first:] if stop == wav.shape[-1] else spectrum[..., first : first + count]


def si_sdr_of_clip(output: Tensor, target: Tensor) -> float | None:
    """Scale-invariant signal-to-distortion ratio of a whole clip in dB (arXiv 1811.02508), means removed.

    Computed in float64 from sums over segments, all channels as one signal. Silence is spoken for: an original below
    ``SILENT`` has no ratio, and a silent reconstruction of a sounding original has the worst, -100 dB, where adding a
    small number above and below the line would have made it 0 dB.

    Args:
        output: reconstruction [C, N].
        target: original [C, N].

    Returns:
        Between -100 and 100 dB; None where the original is silent.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    means = [wav.mean(dtype=torch.float64) for wav in (output, target)]
    for start, stop in segments(output.shape[-1], 1 << 20):
        made, real = (wav[:, start:stop].double() - mean for wav, mean in zip((output, target), means, strict=True))
        sums += torch.stack([made.square().sum(), real.square().sum(), (made * real).sum()])
    made_energy, real_energy, product = sums.tolist()
    if real_energy < SILENT**2 * output.numel():
        return None
    signal = product**2 / real_energy
    limit = 10 ** (MOST_DECIBELS / 10)
    if signal * limit <= made_energy or signal == 0:
        return -MOST_DECIBELS
    noise = max(made_energy - signal, signal / limit)
    return 10 * math.log10(signal / noise)


class CodebookUse(NamedTuple):
    """How a codebook was used: share of its entries that occurred, perplexity, entropy in bits a code."""

    use: float
    perplexity: float
    bits: float


class CodebookCounts:
    """How often each entry of each codebook occurred, over any number of clips.

    Args:
        codebooks: K.
        entries: V.

    Attributes:
        counts: [K, V] int64.
    """

    def __init__(self, codebooks: int, entries: int) -> None:
        self.counts = torch.zeros(codebooks, entries, dtype=torch.int64)

    def add(self, codes: Tensor) -> None:
        """Counts codes [B, K, T]."""
        entries = self.counts.shape[1]
        for k, row in enumerate(codes.unbind(1)):
            self.counts[k] += torch.bincount(row.flatten(), minlength=entries).cpu()

    def use(self) -> Sequence[CodebookUse]:
        """The figures of each codebook; at least one code was counted."""
        shares = (self.counts > 0).double().mean(1)
        nats = _entropy(self.counts.double())
        columns = shares.tolist(), nats.exp().tolist(), (nats / math.log(2)).tolist()
        return [CodebookUse(*row) for row in zip(*columns, strict=True)]


def _entropy(counts: Tensor) -> Tensor:
    """Entropy in nats of the distributions that counts [..., V] show."""
    return torch.special.entr(counts / counts.sum(-1, keepdim=True)).sum(-1)
