"""The codec: waveform to codes and back.

Shape letters: B items, C channels, N samples, K codebooks, T frames, D latent width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from datamodules.errors import InputError
from lightning_modules.codec import seanet
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.quantizer import ResidualVectorQuantizer


class CodecOutput(NamedTuple):
    """reconstruction [B, C, N], codes [B, K, T], commitment loss (scalar)."""

    reconstruction: Tensor
    codes: Tensor
    commitment: Tensor


class Codec(nn.Module):
    """EnCodec: SEANet encoder, residual vector quantizer, SEANet decoder.

    Attributes:
        config: the shape.
        checksum: sha256 of the weights file it was loaded from; empty before it was saved.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.checksum = ""
        self.encoder = seanet.encoder(config)
        self.quantizer = ResidualVectorQuantizer(config.codebooks, config.entries, config.dim)
        self.decoder = seanet.decoder(config)
        seanet.initialise(self)

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.config.sample_rate

    @property
    def channels(self) -> int:
        """Audio channels."""
        return self.config.channels

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.config.frame_rate

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return self.config.hop

    @property
    def codebooks(self) -> int:
        """Codebooks, K."""
        return self.config.codebooks

    @property
    def entries(self) -> int:
        """Entries of each codebook."""
        return self.config.entries

    @torch.no_grad()
    def encode(self, wav: Tensor) -> Tensor:
        """Waveform [B, C, N] at the codec's rate -> codes [B, K, ceil(N / hop)] int64.

        Raises:
            InputError: wrong shape, nothing in it, or samples that are not finite.
        """
        if wav.dim() != 3 or wav.shape[1] != self.channels or 0 in wav.shape:
            raise InputError(
                f"the codec wants audio [B, {self.channels}, N] with N of at least 1, got {list(wav.shape)}"
            )
        if not torch.isfinite(wav).all():
            raise InputError("the audio holds samples that are not finite")
        return self.quantizer.encode(self.encoder(wav))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] -> waveform [B, C, T * hop].

        Raises:
            InputError: wrong number of codebooks, or a code outside its codebook.
        """
        if codes.dim() != 3 or codes.shape[1] != self.codebooks or 0 in codes.shape:
            raise InputError(f"the codec wants codes [B, {self.codebooks}, T], got {list(codes.shape)}")
        if codes.min() < 0 or codes.max() >= self.entries:
            raise InputError(f"codes must lie in 0..{self.entries - 1}, got {int(codes.min())}..{int(codes.max())}")
        return self.decoder(self.quantizer.decode(codes))

    def forward(self, wav: Tensor) -> CodecOutput:
        """Waveform [B, C, N] through the bottleneck and back, cut to N samples; differentiable."""
        latents, codes, commitment = self.quantizer(self.encoder(wav))
        return CodecOutput(self.decoder(latents)[..., : wav.shape[-1]], codes, commitment)
