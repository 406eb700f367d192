"""MusicGen as transformers runs it: mono and stereo, of every size, and the melody model."""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.audio_io import read_audio
from datamodules.errors import InputError
from datamodules.hub import fetch, local_first
from datamodules.sample_order import derived_seed
from experiments.console import pick_device, progress
from experiments.jobs import Options
from experiments.planning.subject import Subject
from experiments.prompts import Prompt
from experiments.systems.contract import Made, write_record
from experiments.systems.folder import listing_checksum
from experiments.systems.journal import Journal, batches_of_one_length
from experiments.systems.sizes import huggingface_subject
from lightning_modules.converting.huggingface_files import LANGUAGE_MODELS, read_config, silent_transformers
from lightning_modules.converting.lm_huggingface import MELODY_KIND, checked_config

_FILES = ("*.json", "*.safetensors", "spiece.model")
_LONGEST = 30.0  # seconds: what the published models were trained on; transformers generates no windows


class HuggingFaceMusicGen:
    """A folder that transformers saved, or a name of the hub, which is fetched when it is first needed.

    Clips are sampled batch by batch, prompts in their order. A batch is drawn from a hash of the seeds and ids in it:
    unlike those of our own models, a clip depends on who is beside it.

    Args:
        name: in reports.
        source: folder or name of the hub.
    """

    missing = ""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, f"hf:{source}"
        self._folder = Path(source) if Path(source).is_dir() else fetch(source, list(_FILES))
        fields = read_config(self._folder)
        if fields["model_type"] not in LANGUAGE_MODELS:
            raise InputError(f"{source}: is of model_type {fields['model_type']!r}, and generates no music")
        self._config = checked_config(self._folder, fields)

    @property
    def _melody(self) -> bool:
        return bool(self._config.model_type == MELODY_KIND)

    def checksum(self) -> str:
        """Of its files' names, sizes and dates."""
        return listing_checksum(self._folder, [path for path in self._folder.iterdir() if path.is_file()])

    def subject(self) -> Subject:
        """Its shape in the paper's recipe."""
        return huggingface_subject(self._config, self.source)

    def clips(self, prompts: Sequence[Prompt], out: Path, options: Options, device: str) -> Made:
        """Samples them; guidance is one number, top-k and temperature as they are.

        Raises:
            InputError: an option that transformers has not, a clip that is too long for it, or a melody that the model
                cannot hear.
        """
        self._check(prompts, options)
        batches = batches_of_one_length(prompts, options.batch_size)
        keys = [self._key(batch, options) for batch in batches]
        journal = Journal(out, options)
        drawn = list(zip(batches, keys, strict=True))
        todo = [(batch, key) for batch, key in drawn if not all(journal.holds(one, key) for one in batch)]
        if todo:
            runner = _Runner(self._folder, self._melody, pick_device(device))
            with progress() as bar:
                for batch, key in bar.track(todo, description=f"generate with {self.source}"):
                    begun = time.monotonic()
                    wavs, steps = runner.draw(batch, options)
                    spent = time.monotonic() - begun, steps
                    journal.add(batch, [key] * len(batch), wavs, runner.rate, spent)
        journal.write_manifest(prompts)
        made = Made(len(prompts), len(prompts))
        write_record(out, self, made, self._facts(journal, device))
        return made

    def _check(self, prompts: Sequence[Prompt], options: Options) -> None:
        if isinstance(options.guidance, dict):
            raise InputError("transformers has one guidance for all conditions; give a number")
        if options.negative or options.top_p < 1:
            raise InputError("negative texts and top_p are not tried with transformers here; leave them out")
        for prompt in prompts:
            if prompt.duration > _LONGEST:
                raise InputError(
                    f"prompt {prompt.id!r}: {prompt.duration:g} s; transformers makes {_LONGEST:g} at most"
                )
            if prompt.continuation is not None:
                raise InputError(f"prompt {prompt.id!r}: continuations are not tried with transformers here")
            if prompt.melody is not None and not self._melody:
                raise InputError(f"prompt {prompt.id!r} has a melody and {self.source} hears none; give --melody ''")

    def _key(self, batch: Sequence[Prompt], options: Options) -> str:
        said = [self.checksum(), options.settings(), [repr(prompt) for prompt in batch]]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def _facts(self, journal: Journal, device: str) -> dict[str, Any]:
        counts = self.subject().counts
        return {
            "checksum": self.checksum(),
            "parameters": {"lm": counts.lm, "text_encoder": counts.text_encoder, "codec": counts.codec},
            **journal.speed(device),
        }


class _Runner:
    """The model of transformers, loaded."""

    def __init__(self, folder: Path, melody: bool, device: str) -> None:
        import transformers as hf

        kind = hf.MusicgenMelodyForConditionalGeneration if melody else hf.MusicgenForConditionalGeneration

        def read(part: Any) -> Any:
            with silent_transformers():
                return local_first(
                    lambda name, _: part.from_pretrained(name, local_files_only=True), str(folder), "MusicGen", ""
                )

        self._model, self._tokens = read(kind).eval().to(device), read(hf.AutoTokenizer)
        self._features = read(hf.AutoFeatureExtractor) if melody else None
        audio = self._model.config.audio_encoder
        self.rate, self._frames, self._device = int(audio.sampling_rate), float(audio.frame_rate), device
        self._melody = melody

    @torch.no_grad()
    def draw(self, batch: Sequence[Prompt], options: Options) -> tuple[list[Tensor], int]:
        """Waveforms [C, N] of prompts of one length, and the steps that were decoded."""
        decoder = self._model.config.decoder
        delays = decoder.num_codebooks // decoder.audio_channels
        frames = round(batch[0].duration * self._frames)
        given = self._tokens([prompt.caption for prompt in batch], padding=True, return_tensors="pt")
        if batch[0].melody is not None:
            heard = [self._heard(prompt.melody) for prompt in batch if prompt.melody is not None]
            assert self._features is not None, "melodies were refused before"
            given["input_features"] = self._features(heard, sampling_rate=self.rate, return_tensors="pt")[
                "input_features"
            ]
        torch.manual_seed(derived_seed(*(part for prompt in batch for part in (prompt.seed, prompt.id))))
        made = self._model.generate(
            **given.to(self._device),
            do_sample=True,
            guidance_scale=options.guidance,
            top_k=options.top_k,
            temperature=options.temperature,
            max_new_tokens=frames + delays - 1,
        )
        length = round(batch[0].duration * self.rate)
        return [wav[:, :length].float().cpu() for wav in made], frames + delays - 1

    def _heard(self, melody: Path) -> Any:
        return read_audio(melody, sample_rate=self.rate, channels=1)[0].numpy()
