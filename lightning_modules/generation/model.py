"""A whole model: conditioners, language model and codec, from prompts and melodies to waveforms.

Shape letters: B items, C channels, N samples, K codebooks, T frames.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.features.chroma import ChromaExtractor
from lightning_modules.codec.contract import Codec
from lightning_modules.conditioning.conditioners import MELODY, TEXT, Conditioners
from lightning_modules.conditioning.conditions import Condition, Conditions
from lightning_modules.conditioning.melody import MelodyConfig
from lightning_modules.generation.decoder import Decoder
from lightning_modules.generation.engine import Progress, silent
from lightning_modules.generation.guidance import Branches, Guidance, branches
from lightning_modules.generation.long_form import Asked, Heard, draw_all, draw_streamed
from lightning_modules.generation.melodies import HeardMelodies
from lightning_modules.generation.packed import require_int8
from lightning_modules.generation.requests import Audio, each, samples
from lightning_modules.generation.sampling import Sampling
from lightning_modules.generation.streaming import audio_chunks
from lightning_modules.generation.windows import Window, window_and_stride, windows
from lightning_modules.lm.model import LanguageModel

Melody = Audio
_WINDOW = 30.0  # seconds of the published models' training
_AT_ONCE = 16  # clips of 30 s take some GB in the codec


class MusicModel:
    """What ``load_model`` returns.

    Attributes:
        lm: the language model.
        conditioners: texts and melodies to embeddings.
        codec: codes to audio.
        checksum: sha256 of the language model's weights file.
        about: everything that its ``config.yaml`` says.
        int8: whether it generates in int8; ``lm`` itself stays as it is, unless it is to do nothing else.
        parameters: of the language model.
        window: seconds that are drawn at once: those that the model was trained on, as far as can be told.
    """

    def __init__(
        self,
        lm: LanguageModel,
        conditioners: Conditioners,
        codec: Codec,
        checksum: str,
        about: Mapping[str, Any],
        int8: bool = False,
        alone: bool = False,
    ) -> None:
        if int8:
            require_int8(lm.heads.weight.device)
        self.lm, self.conditioners, self.codec = lm, conditioners, codec
        self.checksum, self.about, self.int8 = checksum, about, int8
        self.parameters = sum(parameter.numel() for parameter in lm.parameters())
        heard = conditioners.melody.config if conditioners.melody is not None else None
        self.window = trained_window(about, heard, codec.sample_rate) or _WINDOW
        self._told, self._alone = False, alone
        self._melodies = HeardMelodies()
        self._decoder: tuple[list[tuple[int, int]], Decoder] | None = None

    @property
    def decoder(self) -> Decoder:
        """The language model laid out for decoding: made once, and anew after its weights have changed."""
        if self._alone and self._decoder is not None:
            return self._decoder[1]
        weights = [(parameter.data_ptr(), parameter._version) for parameter in self.lm.parameters()]
        if self._decoder is None or self._decoder[0] != weights:
            self._decoder = None  # not two of them at a time
            self._decoder = weights, Decoder(self.lm, int8=self.int8, alone=self._alone)
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
        melodies = each(melody, len(prompts), "melodies")
        classes = self._classes(melodies, [0] * len(prompts)) if melody is not None else None
        rows = []
        for first in range(0, len(prompts), self._at_once):
            some = slice(first, first + self._at_once)
            rows.append(self.conditioners(prompts[some], None if classes is None else classes[some]))
        return reduce(Conditions.followed_by, rows)

    @property
    def _at_once(self) -> int:
        """Texts and clips that encoder and codec are given at a time.

        On a CPU one, for the sums of a batch are added up in another order, which would change their last bits. On a
        GPU those are not promised, and one at a time takes longer than the language model.
        """
        return 1 if self.lm.embedding.weight.device.type == "cpu" else _AT_ONCE

    def _classes(self, melodies: Sequence[Melody], starts: Sequence[int]) -> Tensor:
        """Pitch classes [B, frames] of melodies, from these samples on and then from their beginning again."""
        encoder = self.conditioners.melody
        if encoder is None:
            raise InputError("this model hears no melody; leave it out, or take a melody model")
        return self._melodies.classes(encoder, melodies, starts, self.codec.sample_rate)

    def ask(
        self,
        prompts: Sequence[str],
        duration: float | Sequence[float] = 10.0,
        *,
        melody: Melody | Sequence[Melody] = None,
        negative: str | Sequence[str] = "",
        guidance: Guidance = 3.0,
        top_k: int = 250,
        temperature: float = 1.0,
        top_p: float = 1.0,
        greedy: bool = False,
        seed: int | Sequence[int] = 0,
        ids: Sequence[str] | None = None,
        continuation: Audio | Sequence[Audio] = None,
        window: float | None = None,
        stride: float | None = None,
        progress: Progress = silent,
    ) -> Asked:
        """Reads and checks what ``generate``, ``generate_codes`` and ``stream`` are asked for; draws nothing.

        A sample is the same alone and in any batch: samples are drawn side by side as far as that changes none of them
        and memory suffices, and a batch that has to be split for memory is announced by a warning.

        Args:
            prompts: one text a sample.
            duration: seconds, of all samples or of each.
            melody: for a melody model, as for ``conditions``.
            negative: what to guide away from, one text or one a prompt: it takes the place of the empty text.
            guidance: scale of classifier-free guidance, 1 means none; or one for each condition of the model,
                {"text": 3.0, "melody": 2.0}.
            top_k: only the k likeliest entries are drawn from.
            temperature: divides the logits.
            top_p: of these, only the likeliest that together have this probability.
            greedy: take the likeliest entry instead of drawing.
            seed: of the whole call or of each prompt; a sample's own seed is a hash of it and the sample's id.
            ids: names of the samples, by default "0", "1", ...: a sample of one name, prompt and seed is the same in
                any batch.
            continuation: audio that samples begin with, of all or of each: a file, a waveform [C, N] at the codec's
                rate, or None. ``duration`` counts it.
            window: seconds that are drawn at once, by default what the model was trained on (``self.window``). Longer
                samples are drawn in windows, each of which begins with the end of the one before; a melody goes on
                from one to the next, and begins again where it ends.
            stride: seconds by which windows move on, by default three fifths of them.
            progress: called after each step with (steps done, steps in all).

        Raises:
            InputError: no prompts, an option out of range (``requests.samples``, ``windows.window_and_stride``), or
                audio or a melody that cannot be read.
        """
        if isinstance(prompts, str):
            raise InputError(f"prompts are a list of texts: [{prompts!r}]")
        if not prompts:
            raise InputError("there is nothing to generate: no prompts were given")
        sampling = Sampling(top_k, temperature, greedy, top_p)
        asked = samples(self.codec, len(prompts), duration, seed, ids, continuation)
        frames, moved = window_and_stride(self.codec.frame_rate, self.window if window is None else window, stride)
        plans = [windows(one.frames, one.given.shape[1], frames, moved) for one in asked]
        return Asked(asked, plans, self._heard(prompts, melody, negative, guidance), sampling, progress)

    def generate_codes(
        self, prompts: Sequence[str], duration: float | Sequence[float] = 10.0, **options: Any
    ) -> list[Tensor]:
        """Draws codes for each prompt; the options are those of ``ask``.

        Returns:
            One [K, T] int64 a prompt.

        Raises:
            InputError: as ``ask``; or a sample that memory does not suffice for.
        """
        return [codes.clone() for codes in draw_all(self.decoder, self.ask(prompts, duration, **options))]

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], duration: float | Sequence[float] = 10.0, **options: Any
    ) -> list[Tensor]:
        """Like ``generate_codes``, decoded: one waveform [C, N] a prompt, exactly ``duration`` seconds long.

        What is continued is at its beginning, as the codec reconstructs it.
        """
        codes = self.generate_codes(prompts, duration, **options)
        lengths = [round(seconds * self.codec.sample_rate) for seconds in each(duration, len(codes), "durations")]
        alike: dict[int, list[int]] = {}
        for number, one in enumerate(codes):
            alike.setdefault(one.shape[1], []).append(number)
        made = [torch.empty(0)] * len(codes)
        for numbers in alike.values():
            for first in range(0, len(numbers), self._at_once):
                some = numbers[first : first + self._at_once]
                decoded = self.codec.decode(torch.stack([codes[number] for number in some])).cpu()
                for number, wav in zip(some, decoded, strict=True):
                    made[number] = wav[:, : lengths[number]]
        return made

    def stream(
        self, prompt: str, duration: float = 10.0, *, chunk: float = 1.0, ahead: float = 0.3, **options: Any
    ) -> Iterator[Tensor]:
        """Yields the audio of one sample while its codes are drawn.

        The codes are those that ``generate_codes([prompt], ...)`` draws, and the chunks in a row are what it decodes to
        but for rounding, exactly ``duration`` seconds long. The first comes when ``chunk`` and ``ahead`` seconds are
        drawn (with pattern ``coarse_first`` only when all of codebook 1 is).

        Args:
            prompt: the text.
            duration: seconds.
            chunk: seconds of each chunk but the last.
            ahead: seconds that are drawn beyond a chunk before it is decoded; the codec hears them.
            options: those of ``generate_codes``.

        Yields:
            [C, n] on the CPU.

        Raises:
            InputError: as ``generate_codes``, at once; or a chunk or look-ahead that is too short.
        """
        if not isinstance(prompt, str):
            raise InputError("a stream is of one prompt; give one text")
        asked = self.ask([prompt], duration, **options)
        one, drawn = asked.samples[0], draw_streamed(self.decoder, asked)
        return audio_chunks(self.codec, drawn, one.frames, one.length, chunk, ahead)

    def _heard(
        self,
        prompts: Sequence[str],
        melody: Melody | Sequence[Melody],
        negative: str | Sequence[str],
        guidance: Guidance,
    ) -> Heard:
        """What every window hears: texts stay, melodies go on."""
        conditions, unlike = self.conditions(prompts, melody), self._negative(negative)
        melodies = each(melody, len(prompts), "melodies")

        def branches_of(windows: Sequence[Window | None]) -> Branches:
            starts = [window.start * self.codec.hop if window is not None else 0 for window in windows]
            given = conditions
            if self.conditioners.melody is not None and melody is not None and any(starts):
                drawn = [one if window is not None else None for one, window in zip(melodies, windows, strict=True)]
                given = given.replace(MELODY, self.conditioners.melody(self._classes(drawn, starts)))
            return branches(given, self.lm.config.conditions, guidance, unlike)

        return branches_of

    @torch.no_grad()
    def _negative(self, negative: str | Sequence[str]) -> Condition | None:
        """The negative prompts' condition; None where there are none."""
        texts = [negative] if isinstance(negative, str) else list(negative)
        if not any(text.strip() for text in texts):
            return None
        if self.conditioners.text is None:
            raise InputError("a negative prompt stands in place of the text, and this model hears none")
        rows = [Conditions({TEXT: self.conditioners.text([text])}) for text in texts]
        return reduce(Conditions.followed_by, rows)[TEXT]


def trained_window(about: Mapping[str, Any], melody: MelodyConfig | None, sample_rate: int) -> float | None:
    """Seconds of the crops that a model was trained on; None where that cannot be told.

    Args:
        about: what its ``config.yaml`` says: its ``window``.
        melody: how it hears melodies, whose frames cover a crop.
        sample_rate: of its codec, in Hz.

    Raises:
        InputError: a window that is no number of seconds.
    """
    if "window" in about:
        if not isinstance(about["window"], int | float) or not about["window"] > 0:
            raise InputError(f"config.yaml: window is {about['window']!r}; it is the seconds of a training crop")
        return float(about["window"])
    if melody is None:
        return None
    covered = melody.frames * ChromaExtractor(sample_rate).hop / sample_rate
    return float(int(covered)) or covered  # its last frame was only begun: 235 frames, 30.08 s, are of 30 s
