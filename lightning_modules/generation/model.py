"""A whole model: conditioners, language model and codec, from prompts and melodies to waveforms.

Shape letters: B items, C channels, N samples, K codebooks, T frames.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.audio_io import read_audio
from datamodules.errors import InputError
from datamodules.sample_order import derived_seed
from lightning_modules.codec.contract import Codec
from lightning_modules.conditioning.conditioners import Conditioners
from lightning_modules.conditioning.conditions import Condition, Conditions
from lightning_modules.generation.decoder import Decoder
from lightning_modules.generation.engine import generate_codes
from lightning_modules.generation.guidance import Guidance, branches
from lightning_modules.generation.packed import require_int8
from lightning_modules.generation.sampling import Sampling
from lightning_modules.lm.model import LanguageModel

Melody = Tensor | str | Path | None


class MusicModel:
    """What ``load_model`` returns.

    Attributes:
        lm: the language model.
        conditioners: texts and melodies to embeddings.
        codec: codes to audio.
        checksum: sha256 of the language model's weights file.
        about: everything that its ``config.yaml`` says.
        int8: whether it generates in int8; ``lm`` itself stays as it is.
    """

    def __init__(
        self,
        lm: LanguageModel,
        conditioners: Conditioners,
        codec: Codec,
        checksum: str,
        about: Mapping[str, Any],
        int8: bool = False,
    ) -> None:
        if int8:
            require_int8(lm.heads.weight.device)
        self.lm, self.conditioners, self.codec = lm, conditioners, codec
        self.checksum, self.about, self.int8 = checksum, about, int8
        self._told = False
        self._decoder: tuple[list[tuple[int, int]], Decoder] | None = None

    @property
    def decoder(self) -> Decoder:
        """The language model laid out for decoding: made once, and anew after its weights have changed."""
        weights = [(parameter.data_ptr(), parameter._version) for parameter in self.lm.parameters()]
        if self._decoder is None or self._decoder[0] != weights:
            self._decoder = None  # not two of them at a time
            self._decoder = weights, Decoder(self.lm, int8=self.int8)
        return self._decoder[1]

    @torch.no_grad()
    def conditions(self, prompts: Sequence[str], melody: Melody | Sequence[Melody] = None) -> Conditions:
        """B texts, and melodies if the model hears any -> conditions of B rows.

        Args:
            prompts: texts; an empty one is the null condition. Of a model that hears no texts they are no more than the
                number of rows, which is said the first time.
            melody: one for all or one a prompt: a file, a waveform [C, N] at the codec's rate, or None.

        Raises:
            InputError: a melody for a model that hears none, one that cannot be read or has no melody in it, or
                another number of them than prompts.
        """
        if self.conditioners.text is None and not self._told and any(text.strip() for text in prompts):
            self._told = True
            warnings.warn("this model hears no texts; what the prompts say has no effect", stacklevel=3)
        classes = None
        if melody is not None:
            one = isinstance(melody, Tensor | str | Path)
            melodies: list[Any] = [melody] if one else list(melody)  # type: ignore[arg-type]
            if len(melodies) not in (1, len(prompts)):
                raise InputError(f"there are {len(melodies)} melodies; give one, or one for each prompt")
            classes = self._classes(melodies).expand(len(prompts), -1)
        return self.conditioners(prompts, classes)

    def _classes(self, melodies: Sequence[Melody]) -> Tensor:
        """Pitch classes [M, frames]."""
        encoder = self.conditioners.melody
        if encoder is None:
            raise InputError("this model hears no melody; leave it out, or take a melody model")
        rate = self.codec.sample_rate
        heard: dict[str, Tensor] = {}  # a file that several prompts follow is separated once
        rows = []
        for given in melodies:
            if not isinstance(given, str | Path):
                rows.append(encoder.classes([given], rate))
                continue
            if str(given) not in heard:
                wav = read_audio(given, sample_rate=rate, channels=1)
                try:
                    heard[str(given)] = encoder.classes([wav], rate)
                except InputError as error:
                    raise InputError(f"{given}: {error}") from error
            rows.append(heard[str(given)])
        return torch.cat(rows)

    def generate_codes(
        self,
        prompts: Sequence[str],
        duration: float = 10.0,
        *,
        melody: Melody | Sequence[Melody] = None,
        negative: str | Sequence[str] = "",
        guidance: Guidance = 3.0,
        top_k: int = 250,
        temperature: float = 1.0,
        top_p: float = 1.0,
        greedy: bool = False,
        seed: int = 0,
        ids: Sequence[str] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Tensor]:
        """Draws codes for each prompt.

        Args:
            prompts: one text a sample.
            duration: seconds of each sample.
            melody: for a melody model, as for ``conditions``.
            negative: what to guide away from, one text or one a prompt: it takes the place of the empty text.
            guidance: scale of classifier-free guidance, 1 means none; or one for each condition of the model,
                {"text": 3.0, "melody": 2.0}.
            top_k: only the k likeliest entries are drawn from.
            temperature: divides the logits.
            top_p: of these, only the likeliest that together have this probability.
            greedy: take the likeliest entry instead of drawing.
            seed: of the whole call; a sample's own seed is a hash of it and the sample's id.
            ids: names of the samples, by default "0", "1", ...: a sample of one name, prompt and seed is the same in
                any batch.
            progress: called after each step with (steps done, steps in all).

        Returns:
            One [K, T] int64 a prompt.

        Raises:
            InputError: no prompts, a duration shorter than a frame, or an option out of range.
        """
        if isinstance(prompts, str):
            raise InputError(f"prompts are a list of texts: [{prompts!r}]")
        if not prompts:
            raise InputError("there is nothing to generate: no prompts were given")
        if ids is not None and len(ids) != len(prompts):
            raise InputError(f"there are {len(ids)} ids for {len(prompts)} prompts; give one each")
        frames = ceil(duration * self.codec.frame_rate - 1e-6)
        if frames < 1:
            raise InputError(f"a duration of {duration} s is shorter than one frame ({1 / self.codec.frame_rate:g} s)")
        sampling = Sampling(top_k, temperature, greedy, top_p)
        names = ids if ids is not None else [str(number) for number in range(len(prompts))]
        seeds = [derived_seed(seed, name) for name in names]
        versions = branches(
            self.conditions(prompts, melody), self.lm.config.conditions, guidance, self._negative(negative)
        )
        groups = versions.groups() if self._padding_matters else [torch.arange(len(prompts))]
        made = [torch.empty(0)] * len(prompts)
        for number, items in enumerate(groups):
            part = versions.select(items) if self._padding_matters else versions
            told = _share(progress, number, len(groups))
            codes = generate_codes(self.decoder, part, frames, [seeds[item] for item in items.tolist()], sampling, told)
            for item, one in zip(items.tolist(), codes.clone(), strict=True):
                made[item] = one
        return made

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], duration: float = 10.0, **options: Any) -> list[Tensor]:
        """Like ``generate_codes``, decoded: one waveform [C, N] a prompt, exactly ``duration`` seconds long."""
        codes = torch.stack(self.generate_codes(prompts, duration, **options))
        samples = round(duration * self.codec.sample_rate)
        return [wav[:, :samples].cpu() for part in codes.split(8) for wav in self.codec.decode(part)]

    @property
    def _padding_matters(self) -> bool:
        """Whether an item's codes would depend on the lengths of its neighbours' texts: these share no batch then."""
        config = self.lm.config
        return "text" in config.prefix or ("text" in config.cross and not config.mask_padded_text)

    @torch.no_grad()
    def _negative(self, negative: str | Sequence[str]) -> Condition | None:
        """The negative prompts' condition; None where there are none."""
        texts = [negative] if isinstance(negative, str) else list(negative)
        if not any(text.strip() for text in texts):
            return None
        if self.conditioners.text is None:
            raise InputError("a negative prompt stands in place of the text, and this model hears none")
        return self.conditioners.text(texts)


def _share(progress: Callable[[int, int], None], number: int, groups: int) -> Callable[[int, int], None]:
    """``progress`` of one of several groups that are decoded one after the other."""
    return lambda done, total: progress(number * total + done, groups * total)
