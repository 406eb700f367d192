"""Audio through a codec and back: what a generated clip has been through, whatever it plays."""

import torch
from torch import Tensor, nn

from lightning_modules.codec.folder import load_codec


class CodecPass(nn.Module):
    """Encodes and decodes waveforms [B, 1, N] at the codec's rate; no gradients flow.

    Args:
        codec: folder of the codec, or "embedded".

    Attributes:
        sample_rate: that the codec wants, in Hz.
    """

    def __init__(self, codec: str = "embedded") -> None:
        super().__init__()
        self.codec = load_codec(codec)
        self.sample_rate = self.codec.sample_rate

    @torch.no_grad()
    def forward(self, wav: Tensor) -> Tensor:
        """[B, C, N] -> [B, C, N].

        Raises:
            InputError: audio that the codec cannot take (``Codec.encode``).
        """
        with torch.autocast(wav.device.type, enabled=False):
            return self.codec.decode(self.codec.encode(wav.float()))[..., : wav.shape[-1]]
