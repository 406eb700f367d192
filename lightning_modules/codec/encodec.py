"""EnCodec: waveform to codes and back, and through the bottleneck in training.

Shape letters: B items, C channels, N samples, K codebooks, T frames, D latent width.
"""

from typing import NamedTuple

from torch import Tensor

from lightning_modules.codec import seanet
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.quantizer import ResidualVectorQuantizer


class CodecOutput(NamedTuple):
    """reconstruction [B, C, N], codes [B, K, T], commitment loss (scalar)."""

    reconstruction: Tensor
    codes: Tensor
    commitment: Tensor


class EnCodec(Codec):
    """SEANet encoder, residual vector quantizer, SEANet decoder (arXiv 2210.13438).

    Attributes:
        config: the shape.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(
            sample_rate=config.sample_rate,
            channels=config.channels,
            hop=config.hop,
            codebooks=config.codebooks,
            entries=config.entries,
        )
        self.config = config
        self.encoder = seanet.encoder(config)
        self.quantizer = ResidualVectorQuantizer(config.codebooks, config.entries, config.dim)
        self.decoder = seanet.decoder(config)
        seanet.initialise(self)

    def _encode(self, wav: Tensor) -> Tensor:
        return self.quantizer.encode(self.encoder(wav))

    def _decode(self, codes: Tensor) -> Tensor:
        return self.decoder(self.quantizer.decode(codes))

    def forward(self, wav: Tensor) -> CodecOutput:
        """Waveform [B, C, N] through the bottleneck and back, cut to N samples; differentiable."""
        latents, codes, commitment = self.quantizer(self.encoder(wav))
        return CodecOutput(self.decoder(latents)[..., : wav.shape[-1]], codes, commitment)
