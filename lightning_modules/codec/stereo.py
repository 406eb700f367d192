"""Stereo out of a mono codec: each channel passes on its own, the codebooks are interleaved (paper, section 2.3).

Shape letters: B items, N samples, K codebooks of the mono codec, T frames.
"""

from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.codec.contract import Codec


class StereoCodec(Codec):
    """Codes of the left and the right channel in turn: left 1, right 1, left 2, right 2, ...

    Args:
        mono: the codec of both channels.

    Raises:
        InputError: it is not mono.
    """

    def __init__(self, mono: Codec) -> None:
        if mono.channels != 1:
            raise InputError(f"stereo by two passes needs a mono codec, this one has {mono.channels} channels")
        super().__init__(
            sample_rate=mono.sample_rate, channels=2, hop=mono.hop, codebooks=2 * mono.codebooks, entries=mono.entries
        )
        self.mono = mono

    def _encode(self, wav: Tensor) -> Tensor:
        codes = self.mono.encode(wav.flatten(0, 1)[:, None])  # [2B, K, T]
        return codes.unflatten(0, (-1, 2)).transpose(1, 2).flatten(1, 2)

    def _decode(self, codes: Tensor) -> Tensor:
        sides = codes.unflatten(1, (-1, 2)).transpose(1, 2).flatten(0, 1)  # [2B, K, T]
        return self.mono.decode(sides).unflatten(0, (-1, 2))[:, :, 0]
