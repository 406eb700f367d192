"""The shape of a codec."""

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class CodecConfig:
    """Shape of an EnCodec-style codec; the defaults are MusicGen's 32 kHz one (56.9 M parameters).

    Attributes:
        sample_rate: Hz.
        channels: audio channels.
        filters: width of the first stage; each stage doubles it.
        ratios: strides of the decoder's stages, in its order; their product is the hop in samples.
        dim: width of latents and codebook entries.
        residual_units: residual units a stage.
        lstm_layers: LSTM layers at the bottleneck; 0 leaves them out.
        kernel: width of the first convolutions.
        last_kernel: width of the last convolutions.
        residual_kernel: width of the residual units' convolutions.
        dilation_base: dilation of residual unit j is dilation_base ** j.
        compress: a residual unit's middle is this many times narrower.
        causal: pad on the left only.
        pad_mode: "reflect" or "constant".
        conv_shortcut: residual units add a 1-wide convolution of the input instead of the input.
        codebooks: residual quantizers, K.
        entries: entries of each codebook.
    """

    sample_rate: int = 32000
    channels: int = 1
    filters: int = 64
    ratios: tuple[int, ...] = (8, 5, 4, 4)
    dim: int = 128
    residual_units: int = 1
    lstm_layers: int = 2
    kernel: int = 7
    last_kernel: int = 7
    residual_kernel: int = 3
    dilation_base: int = 2
    compress: int = 2
    causal: bool = False
    pad_mode: str = "reflect"
    conv_shortcut: bool = False
    codebooks: int = 4
    entries: int = 2048

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return prod(self.ratios)

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop
