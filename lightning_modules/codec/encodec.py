"""EnCodec: waveform to codes and back, and through the bottleneck in training.

Shape letters: B items, C channels, N samples, K codebooks, T frames, D latent width.
"""

from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.codec import seanet
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.inference import Half
from lightning_modules.codec.quantizer import ResidualVectorQuantizer


class CodecOutput(NamedTuple):
    """reconstruction [B, C, N], codes [B, K, T], commitment loss (scalar)."""

    reconstruction: Tensor
    codes: Tensor
    commitment: Tensor


class EnCodec(Codec):
    """SEANet encoder, residual vector quantizer, SEANet decoder (arXiv 2210.13438).

    ``encode`` and ``decode`` run in the type of encoder's and decoder's weights (``codec.encoder.bfloat16()``), the
    quantizer always in float32; audio of any length passes in bounded memory, and chunks change nothing.

    Attributes:
        config: the shape.
        compiled: whether ``encode`` and ``decode`` compile their kernels on a GPU: a minute at first, less ever after.
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
        self.compiled = False
        self._made: tuple[object, tuple[Half, Half]] | None = None

    def with_codebooks(self, count: int) -> "EnCodec":
        """The same codec with its first ``count`` codebooks alone, so coarser; it shares the weights.

        Raises:
            InputError: it has no such number of codebooks.
        """
        if not 1 <= count <= self.codebooks:
            raise InputError(f"the codec has 1 to {self.codebooks} codebooks, not {count}")
        coarse = EnCodec(replace(self.config, codebooks=count))
        coarse.encoder, coarse.decoder = self.encoder, self.decoder
        coarse.quantizer.codebooks = self.quantizer.codebooks[:count]
        return coarse.train(self.training)

    def _encode(self, wav: Tensor) -> Tensor:
        return self.quantizer.encode(self._halves()[0](wav).float())

    def _decode(self, codes: Tensor) -> Tensor:
        return self._halves()[1](self.quantizer.decode(codes)).float()

    def _halves(self) -> tuple[Half, Half]:
        """Encoder and decoder for inference, made again when a weight has changed or moved."""
        state = (self.compiled, *((p.data_ptr(), p._version, p.dtype, p.device) for p in self.parameters()))
        if self._made is None or self._made[0] != state:
            hop, compiled = self.hop, self.compiled
            halves = Half(self.encoder, hop, True, compiled), Half(self.decoder, hop, False, compiled)
            self._made = state, halves
        return self._made[1]

    def forward(self, wav: Tensor) -> CodecOutput:
        """Waveform [B, C, N] through the bottleneck and back, cut to N samples; differentiable."""
        latents, codes, commitment = self.quantizer(self.encoder(wav))
        return CodecOutput(self.decoder(latents)[..., : wav.shape[-1]], codes, commitment)
