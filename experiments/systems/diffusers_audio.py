"""Text-to-music pipelines of diffusers: AudioLDM, AudioLDM 2, Stable Audio, and what is called as they are."""

import hashlib
import inspect
import json
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
from lightning_modules.converting.huggingface_files import one_line, silent_transformers

INDEX = "model_index.json"
_FILES = (INDEX, "*/*.json", "*/*.safetensors", "*/*.txt", "*/*.model")
_PICKLED = {".bin", ".ckpt", ".pt", ".pth"}
# Of the arguments of a pipeline, the one that asks for a length in seconds.
_LENGTHS = ("audio_length_in_s", "audio_end_in_s")
_WITH_STEPS = re.compile(r"(.+)@([1-9][0-9]*)")
_LIBRARIES = ("diffusers", "transformers")


class DiffusersAudio:
    """A folder that diffusers saved, or a name of the hub, which is fetched when it is first needed.

    The noise of a clip comes from a hash of its seed and id: who is beside it in a batch changes it by rounding alone.

    Args:
        name: in reports.
        source: folder or name of the hub; ``@`` and a number after it are the steps of denoising, else the pipeline's
            own default.

    Raises:
        InputError: diffusers is not installed, there is no such pipeline, it makes no sound of a given length from
            text, or its weights are pickled.
    """

    missing = ""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, f"diffusers:{source}"
        place, self._steps = split_steps(source)
        _require_diffusers()
        self._folder = Path(place) if Path(place).is_dir() else fetch(place, list(_FILES))
        self._kind = _read_kind(self._folder)

    def checksum(self) -> str:
        """Of its files' names, sizes and dates, and of the steps."""
        files = listing_checksum(self._folder, [path for path in self._folder.rglob("*") if path.is_file()])
        return hashlib.sha256(f"{files} {self._steps}".encode()).hexdigest()

    def subject(self) -> Subject | None:
        """None: the planner knows no diffusion."""
        return None

    def clips(self, prompts: Sequence[Prompt], out: Path, options: Options, device: str) -> Made:
        """Denoises them; guidance is one number, and a negative text is what it leads away from.

        Raises:
            InputError: an option that a pipeline has not, a length that it does not make, a melody, or files that are
                missing or damaged.
        """
        _check(self.source, prompts, options)
        checksum, journal = self.checksum(), Journal(out, options)
        keys = {prompt.id: _key(checksum, prompt, options) for prompt in prompts}
        todo = [prompt for prompt in prompts if not journal.holds(prompt, keys[prompt.id])]
        facts: dict[str, Any] = {"checksum": checksum}
        if todo:
            runner = _Runner(self._folder, self._kind, self._steps, pick_device(device))
            facts["parameters"] = runner.parameters
            with progress() as bar:
                batches = batches_of_one_length(todo, options.batch_size if runner.batches else 1)
                for batch in bar.track(batches, description=f"generate with {self.source}"):
                    begun = time.monotonic()
                    wavs, steps = runner.draw(batch, options)
                    spent = time.monotonic() - begun, steps
                    journal.add(batch, [keys[prompt.id] for prompt in batch], wavs, runner.rate, spent)
        journal.write_manifest(prompts)
        made = Made(len(prompts), len(prompts))
        write_record(out, self, made, {**facts, **journal.speed(device)})
        return made


class _Runner:
    """The pipeline, loaded.

    Attributes:
        rate: Hz.
        parameters: of each part.
        batches: whether clips can be drawn together without changing each other.
    """

    def __init__(self, folder: Path, kind: Any, steps: int | None, device: str) -> None:
        def load(name: str, _: bool) -> Any:
            return kind.from_pretrained(name, local_files_only=True, use_safetensors=True)

        with _silent():
            try:
                self._pipeline = local_first(load, str(folder), kind.__name__, "").to(device)
            except ImportError as error:  # a scheduler that wants a further package
                raise InputError(f"{folder}: {one_line(error)}") from error
        self._pipeline.set_progress_bar_config(disable=True)
        parts = self._pipeline.components
        sounding = parts["vocoder"] if "vocoder" in parts else parts["vae"]
        self.rate = int(sounding.config.sampling_rate)
        self.parameters = {name: _size(part) for name, part in parts.items() if isinstance(part, torch.nn.Module)}
        # AudioLDM 2 lets a language model continue the texts, padding and all: of a clip beside a longer text it
        # makes another one.
        self.batches = "language_model" not in parts
        self._settings = {} if steps is None else {"num_inference_steps": steps}
        self._length = next(name for name in _LENGTHS if name in _arguments(kind))

    @torch.no_grad()
    def draw(self, batch: Sequence[Prompt], options: Options) -> tuple[list[Tensor], int]:
        """Waveforms [C, N] of prompts of one length, and the steps that it took."""
        seconds = batch[0].duration
        try:
            with _silent():
                made = self._pipeline(
                    prompt=[prompt.caption for prompt in batch],
                    negative_prompt=[options.negative] * len(batch) if options.negative else None,
                    guidance_scale=options.guidance,
                    # Of the CPU on every device: the same noise everywhere.
                    generator=[torch.Generator().manual_seed(derived_seed(one.seed, one.id)) for one in batch],
                    output_type="pt",
                    **{self._length: seconds},
                    **self._settings,
                ).audios
        except ValueError as error:
            raise InputError(f"{seconds:g} s cannot be made: {one_line(error)}") from error
        except (AttributeError, TypeError) as error:  # what diffusers calls in transformers has changed
            raise InputError(
                f"{type(self._pipeline).__name__} does not run with these versions of diffusers and transformers "
                f"({one_line(error)}); take others, or a folder of clips made elsewhere"
            ) from error
        wavs = torch.as_tensor(made).float().cpu()
        wavs = wavs if wavs.dim() == 3 else wavs[:, None]
        return list(wavs[..., : round(seconds * self.rate)]), len(self._pipeline.scheduler.timesteps)


def split_steps(source: str) -> tuple[str, int | None]:
    """``PLACE@STEPS`` -> place and steps; None where it does not say, or a folder is called so."""
    found = _WITH_STEPS.fullmatch(source)
    return (source, None) if found is None or Path(source).is_dir() else (found[1], int(found[2]))


def _require_diffusers() -> None:
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise InputError("diffusers is not installed; pip install 'musicgen-lightning[diffusers]'") from error


def _read_kind(folder: Path) -> Any:
    """The pipeline's class, with everything that its folder names seen to be diffusers' or transformers' own."""
    import diffusers

    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        name, parts = index["_class_name"], {key: part for key, part in index.items() if isinstance(part, list)}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder}: not a folder of diffusers ({INDEX} is missing or unreadable)") from error
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline) and _is_text_to_sound(kind)):
        raise InputError(
            f"{folder}: {name} is no pipeline of diffusers that makes sound of a given length from text, as "
            "AudioLDM2Pipeline and StableAudioPipeline do"
        )
    for part, (library, *_) in parts.items():
        if library is not None and library not in _LIBRARIES and not hasattr(diffusers.pipelines, library):
            raise InputError(f"{folder / INDEX}: {part} is of {library!r}; no code but diffusers' own is run")
        files = {path.suffix for path in (folder / part).glob("*")}
        if files & _PICKLED and ".safetensors" not in files:
            raise InputError(
                f"{folder / part}: has pickled weights alone, and they are not read; load it with diffusers and "
                "save_pretrained it again, which writes safetensors"
            )
    return kind


def _arguments(kind: Any) -> set[str]:
    return set(inspect.signature(kind.__call__).parameters)


def _is_text_to_sound(kind: Any) -> bool:
    named = _arguments(kind)
    return {"prompt", "negative_prompt", "guidance_scale", "generator"} <= named and not named.isdisjoint(_LENGTHS)


def _check(source: str, prompts: Sequence[Prompt], options: Options) -> None:
    if isinstance(options.guidance, dict):
        raise InputError("diffusers has one guidance; give a number")
    # As the defaults: compare-sizes hands one set of options to all systems.
    if (options.top_k, options.temperature, options.top_p) != (250, 1.0, 1.0):
        warnings.warn(f"{source} draws no codes: top_k, temperature and top_p have no effect on it", stacklevel=3)
    for prompt in prompts:
        if not prompt.duration > 0:
            raise InputError(f"prompt {prompt.id!r}: {prompt.duration:g} s; give more than 0")
        if prompt.continuation is not None:
            raise InputError(f"prompt {prompt.id!r}: continuations are not tried with diffusers here")
        if prompt.melody is not None:
            raise InputError(f"prompt {prompt.id!r} has a melody and {source} hears none; give --melody ''")


def _key(checksum: str, prompt: Prompt, options: Options) -> str:
    said = [checksum, options.guidance, options.negative, options.format, options.loudness, repr(prompt)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def _silent() -> Iterator[None]:
    """Without the bars and warnings of both libraries: of them no user of ours can act on any."""
    from diffusers.utils import logging

    shown, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with silent_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(shown)
        if bars:
            logging.enable_progress_bar()
