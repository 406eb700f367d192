"""What every codec keeps to, whatever its network: audio [B, C, N] to codes [B, K, T] and back.

Shape letters: B items, C channels, N samples, K codebooks, T frames.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from datamodules.errors import InputError


class Codec(nn.Module, ABC):
    """A neural audio codec with K codebooks of equal size and a fixed number of samples a frame.

    Language model, token store and generation know no more of a codec than this. An implementation writes ``_encode``
    and ``_decode``; what they are given was checked.

    Attributes:
        sample_rate: Hz.
        channels: audio channels, C.
        hop: samples a frame.
        codebooks: K.
        entries: entries of each codebook.
        checksum: tells codecs whose codes mean different things apart; empty before the codec was saved.
    """

    def __init__(self, *, sample_rate: int, channels: int, hop: int, codebooks: int, entries: int) -> None:
        super().__init__()
        self.sample_rate, self.channels, self.hop = sample_rate, channels, hop
        self.codebooks, self.entries = codebooks, entries
        self.checksum = ""

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop

    @property
    def bitrate(self) -> float:
        """Bits a second that the codes need: K log2(entries) a frame."""
        return self.codebooks * torch.tensor(float(self.entries)).log2().item() * self.frame_rate

    @torch.no_grad()
    def encode(self, wav: Tensor, sample_rate: int | None = None) -> Tensor:
        """Waveform [B, C, N] at the codec's rate -> codes [B, K, ceil(N / hop)] int64.

        Args:
            wav: the audio.
            sample_rate: its rate in Hz, if it is to be checked.

        Raises:
            InputError: wrong shape or rate, less than a frame, or samples that are not finite.
        """
        if sample_rate is not None and sample_rate != self.sample_rate:
            raise InputError(f"the codec wants audio at {self.sample_rate} Hz, got {sample_rate} Hz; resample it first")
        if wav.dim() != 3 or wav.shape[0] == 0 or wav.shape[1] != self.channels:
            raise InputError(f"the codec wants audio [B, {self.channels}, N], got {list(wav.shape)}")
        if wav.shape[2] < self.hop:
            raise InputError(f"the codec wants at least a frame of {self.hop} samples, got {wav.shape[2]}")
        if not torch.isfinite(wav).all():
            raise InputError("the audio holds samples that are not finite")
        return self._encode(wav)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] -> waveform [B, C, T * hop] in float32.

        Raises:
            InputError: wrong number of codebooks, or a code outside its codebook.
        """
        if codes.dim() != 3 or codes.shape[1] != self.codebooks or 0 in codes.shape:
            raise InputError(f"the codec wants codes [B, {self.codebooks}, T], got {list(codes.shape)}")
        if codes.min() < 0 or codes.max() >= self.entries:
            raise InputError(f"codes must lie in 0..{self.entries - 1}, got {int(codes.min())}..{int(codes.max())}")
        return self._decode(codes)

    @abstractmethod
    def _encode(self, wav: Tensor) -> Tensor:
        """[B, C, N] -> [B, K, ceil(N / hop)] int64."""

    @abstractmethod
    def _decode(self, codes: Tensor) -> Tensor:
        """[B, K, T] -> [B, C, T * hop] float32."""
