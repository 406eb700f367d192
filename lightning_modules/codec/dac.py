"""The Descript audio codec (arXiv 2306.06546) as transformers has it, under this suite's contract.

Shape letters: B items, N samples, K codebooks, T frames.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from datamodules.errors import InputError
from lightning_modules.codec.contract import Codec


class DAC(Codec):
    """transformers' ``DacModel``; the first ``codebooks`` of its quantizers are used.

    Args:
        shape: fields of transformers' ``DacConfig``.
        codebooks: K; by default all.

    Raises:
        InputError: fields that make no DAC, or more codebooks than it has.
    """

    def __init__(self, shape: Mapping[str, Any], codebooks: int | None = None) -> None:
        from huggingface_hub.errors import StrictDataclassError
        from transformers import DacConfig, DacModel

        try:
            config = DacConfig(**shape)
        except (StrictDataclassError, TypeError) as error:
            raise InputError(f"not the shape of a DAC: {error}") from error
        wanted = config.n_codebooks if codebooks is None else codebooks
        if not isinstance(wanted, int) or not 1 <= wanted <= config.n_codebooks:
            raise InputError(f"this DAC has {config.n_codebooks} codebooks; 1 to as many can be used, not {wanted!r}")
        super().__init__(
            sample_rate=config.sampling_rate,
            channels=1,
            hop=config.hop_length,
            codebooks=wanted,
            entries=config.codebook_size,
        )
        self.shape = dict(shape)
        self.model = DacModel(config)

    def _encode(self, wav: Tensor) -> Tensor:
        whole = F.pad(wav, (0, -wav.shape[-1] % self.hop))
        return self.model.encode(whole, n_quantizers=self.codebooks).audio_codes

    def _decode(self, codes: Tensor) -> Tensor:
        wav = self.model.decode(audio_codes=codes).audio_values[:, None].float()
        # Its transposed convolutions lose a few samples where a ratio is odd.
        return F.pad(wav, (0, codes.shape[-1] * self.hop - wav.shape[-1]))
