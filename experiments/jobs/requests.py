"""What one clip of a job is made of, and the key that tells whether a finished one is still what is asked for."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.audio_io import audio_length
from datamodules.errors import InputError
from datamodules.features.stems import load_separator
from experiments.jobs.sound import FORMATS
from experiments.prompts import Prompt
from lightning_modules.generation.guidance import Guidance
from lightning_modules.generation.model import MusicModel
from lightning_modules.generation.sampling import Sampling

# Raise when a request makes another clip than before: what lies in a folder is then made anew.
REVISION = 1
FULL_MIX = "full mix"
_PLACES = ("melody", "continuation")  # where files lie; their content counts, not their place


@dataclass(frozen=True)
class Options:
    """How to draw, how to write, and how many clips at once.

    Attributes:
        guidance: scale of classifier-free guidance, or one for each condition.
        negative: text to guide away from.
        top_k: entries that are drawn from.
        temperature: divides the logits.
        batch_size: clips at once; a clip does not depend on it.
        top_p: probability that the entries drawn from have together.
        precision: as the model was loaded.
        format: of the files: "wav", "flac" or "ogg".
        loudness: LUFS of every clip; None leaves them as they were decoded.
        stride: seconds by which the windows of a clip move on that is longer than the model was trained on; None for
            the model's own.

    Raises:
        InputError: one of them is out of range.
    """

    guidance: Guidance = 3.0
    negative: str = ""
    top_k: int = 250
    temperature: float = 1.0
    batch_size: int = 16
    top_p: float = 1.0
    precision: str = "fp32"
    format: str = "wav"
    loudness: float | None = None
    stride: float | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.format not in FORMATS:
            raise InputError(f"there is no format {self.format!r}; choose from {', '.join(FORMATS)}")
        if self.loudness is not None and not -70 < self.loudness <= 0:
            raise InputError(f"a loudness of {self.loudness:g} LUFS cannot be had; audiocraft writes -14")
        Sampling(self.top_k, self.temperature, top_p=self.top_p)

    def settings(self) -> dict[str, Any]:
        """Those that a clip depends on."""
        return {name: value for name, value in asdict(self).items() if name != "batch_size"}


@dataclass(frozen=True)
class Request:
    """One clip of a job.

    Attributes:
        prompt: what to generate.
        name: of its file.
        facts: what the manifest says of how it is made.
        key: hash of all that the clip depends on.
    """

    prompt: Prompt
    name: str
    facts: Mapping[str, Any]
    key: str


def make_requests(model: MusicModel, prompts: Sequence[Prompt], options: Options) -> list[Request]:
    """One request a prompt, in the same order.

    The key covers the weights of language model, text encoder and codec, the prompt, the content of its melody and
    every setting; not the batch, the device or the number of processes, on which a clip does not depend by intent.

    Raises:
        InputError: a clip is shorter than a frame of the codec, a melody is no audio file, or the model hears none.
    """
    frame = 1 / model.codec.frame_rate
    text = model.conditioners.text
    shared = {"model": model.checksum, "codec": model.codec.checksum, **options.settings()}
    hidden = {
        "revision": REVISION,
        "lm": asdict(model.lm.config),
        "text_encoder": text.checksum if text is not None else None,
    }
    # Each file is read once for its checksum, however many prompts hear it.
    sounds: dict[tuple[Path | None, Path | None], dict[str, str]] = {}
    for prompt in prompts:
        if prompt.sounds not in sounds:
            sounds[prompt.sounds] = _sound_facts(model, prompt)
    requests = []
    for prompt in prompts:
        if prompt.duration < frame:
            raise InputError(f"prompt {prompt.id!r}: {prompt.duration} s is shorter than one frame ({frame:g} s)")
        facts = {"seed": prompt.seed, **shared, **sounds[prompt.sounds]}
        heard = {name: value for name, value in facts.items() if name not in _PLACES}
        content = [hidden, prompt.id, prompt.caption, prompt.duration, heard]
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        requests.append(Request(prompt, f"{prompt.id}.{options.format}", facts, key))
    return requests


def _sound_facts(model: MusicModel, prompt: Prompt) -> dict[str, str]:
    """What the manifest says of the files that a prompt hears."""
    facts: dict[str, str] = {}
    for name, path in zip(_PLACES, prompt.sounds, strict=True):
        if path is not None:
            audio_length(path)  # refuses what is no audio now rather than hours later
            facts |= {name: str(path.resolve()), f"{name}_sha256": file_sha256(path)}
    if prompt.melody is not None:
        encoder = model.conditioners.melody
        if encoder is None:
            raise InputError(
                f"prompt {prompt.id!r} has a melody and this model hears none; take a melody model, or --melody ''"
            )
        facts["melody_stems"] = encoder.config.stems or FULL_MIX
    return facts


def settle_stems(model: MusicModel) -> str | None:
    """Lets a model that would part melodies into stems hear them in the full mix where Demucs cannot be had.

    Returns:
        Why, if it does so now.
    """
    encoder = model.conditioners.melody
    if encoder is None or not encoder.config.stems:
        return None
    try:
        load_separator(encoder.config.stems, sample_rate=model.codec.sample_rate)
    except InputError as error:
        encoder.config = replace(encoder.config, stems="")
        return str(error)
    return None


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
