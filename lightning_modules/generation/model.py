"""A whole model: text encoder, language model and codec, from prompts to waveforms.

Shape letters: B items, C channels, N samples, K codebooks, T frames.
"""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.sample_order import derived_seed
from lightning_modules.codec.contract import Codec
from lightning_modules.generation.engine import generate_codes
from lightning_modules.generation.sampling import Sampling
from lightning_modules.lm.conditioners import Condition, Conditions, TextEncoder
from lightning_modules.lm.model import LanguageModel


class MusicModel:
    """What ``load_model`` returns.

    Attributes:
        lm: the language model.
        text_encoder: texts to embeddings.
        codec: codes to audio.
        checksum: sha256 of the language model's weights file.
        about: everything that its ``config.yaml`` says.
    """

    def __init__(
        self, lm: LanguageModel, text_encoder: TextEncoder, codec: Codec, checksum: str, about: Mapping[str, Any]
    ) -> None:
        self.lm, self.text_encoder, self.codec = lm, text_encoder, codec
        self.checksum, self.about = checksum, about

    @torch.no_grad()
    def conditions(self, prompts: Sequence[str]) -> Conditions:
        """B texts -> conditions of B rows; an empty text is the null condition."""
        embeddings, mask = self.text_encoder(prompts)
        return Conditions({"text": Condition(embeddings.to(self.lm.embedding.weight.dtype), mask)})

    def generate_codes(
        self,
        prompts: Sequence[str],
        duration: float = 10.0,
        *,
        guidance: float = 3.0,
        top_k: int = 250,
        temperature: float = 1.0,
        greedy: bool = False,
        seed: int = 0,
        ids: Sequence[str] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Tensor]:
        """Draws codes for each prompt.

        Args:
            prompts: one text a sample.
            duration: seconds of each sample.
            guidance: scale of classifier-free guidance; 1 means none.
            top_k: only the k likeliest entries are drawn from.
            temperature: divides the logits.
            greedy: take the likeliest entry instead of drawing.
            seed: of the whole call; a sample's own seed is a hash of it and the sample's id.
            ids: names of the samples, by default "0", "1", ...: a sample of one name, prompt and seed is the same in
                any batch.
            progress: called after each step with (steps done, steps in all).

        Returns:
            One [K, T] int64 a prompt.

        Raises:
            InputError: no prompts, a duration shorter than a frame, or sampling options out of range.
        """
        if not prompts:
            raise InputError("there is nothing to generate: no prompts were given")
        frames = ceil(duration * self.codec.frame_rate - 1e-6)
        if frames < 1:
            raise InputError(f"a duration of {duration} s is shorter than one frame ({1 / self.codec.frame_rate:g} s)")
        sampling = Sampling(top_k, temperature, guidance, greedy)
        names = ids if ids is not None else [str(number) for number in range(len(prompts))]
        seeds = [derived_seed(seed, name) for name in names]
        return list(generate_codes(self.lm, self.conditions(prompts), frames, seeds, sampling, progress))

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], duration: float = 10.0, **options: Any) -> list[Tensor]:
        """Like ``generate_codes``, decoded: one waveform [C, N] a prompt, exactly ``duration`` seconds long."""
        codes = torch.stack(self.generate_codes(prompts, duration, **options))
        samples = round(duration * self.codec.sample_rate)
        return [wav[:, :samples].cpu() for part in codes.split(8) for wav in self.codec.decode(part)]
