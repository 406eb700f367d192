"""Generation jobs: many prompts through one model into a folder that evaluation reads."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.audio_io import write_audio
from datamodules.errors import InputError
from datamodules.manifest import FILE_NAME, Track, write_manifest
from experiments.callbacks.model_folder import RECORD
from experiments.console import progress
from experiments.prompts import Prompt
from lightning_modules.generation.guidance import Guidance
from lightning_modules.generation.model import MusicModel
from lightning_modules.generation.sampling import Sampling

SYSTEM = "system.json"


@dataclass(frozen=True)
class Options:
    """How to draw, and how many clips at once."""

    guidance: Guidance = 3.0
    negative: str = ""
    top_k: int = 250
    temperature: float = 1.0
    batch_size: int = 16
    top_p: float = 1.0
    precision: str = "fp32"  # as the model was loaded


def generate_clips(model: MusicModel, prompts: list[Prompt], folder: Path, options: Options, name: str) -> None:
    """Generates every prompt into ``folder``: wave files, a manifest, and ``system.json`` about the model.

    Raises:
        InputError: a clip is shorter than one frame of the codec, or an option is out of range.
    """
    if options.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {options.batch_size}")
    Sampling(options.top_k, options.temperature, top_p=options.top_p)  # refuses now rather than under the progress bar
    frame = 1 / model.codec.frame_rate
    for prompt in prompts:
        if prompt.duration < frame:
            raise InputError(f"prompt {prompt.id!r}: {prompt.duration} s is shorter than one frame ({frame:g} s)")
    tracks: dict[str, Track] = {}
    watch = Stopwatch()
    with progress() as bar:
        task = bar.add_task("generate", total=sum(prompt.duration for prompt in prompts))
        for batch in batches(prompts, options.batch_size):
            clips = _generate(model, batch, options, watch, lambda share: bar.advance(task, share))
            for prompt, wav in zip(batch, clips, strict=True):
                tracks[prompt.id] = _write(folder, prompt, wav, model, options)
    write_manifest(folder / FILE_NAME, [tracks[prompt.id] for prompt in prompts])
    system = describe(model, name, watch)
    (folder / SYSTEM).write_text(json.dumps(system, indent=1), encoding="utf-8")


def batches(prompts: list[Prompt], size: int) -> list[list[Prompt]]:
    """Prompts of one duration and seed together, at most ``size`` at once."""

    def key(prompt: Prompt) -> tuple[float, int]:
        return prompt.duration, prompt.seed

    result = []
    for _, group in groupby(sorted(prompts, key=key), key=key):
        alike = list(group)
        result += [alike[start : start + size] for start in range(0, len(alike), size)]
    return result


@dataclass
class Stopwatch:
    """Seconds spent, steps decoded, and seconds of audio made."""

    seconds: float = 0.0
    steps: int = 0
    audio: float = 0.0


def _generate(
    model: MusicModel, batch: list[Prompt], options: Options, watch: Stopwatch, advance: Callable[[float], None]
) -> list[Tensor]:
    audio = sum(prompt.duration for prompt in batch)
    begun = time.monotonic()

    def step(done: int, total: int) -> None:
        watch.steps += 1
        advance(audio / total)

    clips = model.generate(
        [prompt.caption for prompt in batch],
        duration=batch[0].duration,
        seed=batch[0].seed,
        ids=[prompt.id for prompt in batch],
        melody=[prompt.melody for prompt in batch] if any(prompt.melody for prompt in batch) else None,
        negative=options.negative,
        guidance=options.guidance,
        top_k=options.top_k,
        temperature=options.temperature,
        top_p=options.top_p,
        progress=step,
    )
    watch.seconds += time.monotonic() - begun
    watch.audio += audio
    return clips


def _write(folder: Path, prompt: Prompt, wav: Tensor, model: MusicModel, options: Options) -> Track:
    path = folder / f"{prompt.id}.wav"
    rate = model.codec.sample_rate
    write_audio(path, wav, rate)
    facts = {"seed": prompt.seed, "model": model.checksum, **asdict(options)}
    if prompt.melody is not None:
        facts["melody"] = str(prompt.melody.resolve())
    return Track(prompt.id, path, wav.shape[-1] / rate, rate, prompt.caption, facts=facts)


def describe(model: MusicModel, name: str, watch: Stopwatch) -> dict[str, Any]:
    """What the report shows of a system: size, speed, and the records of training that lie in its folder."""
    folder = Path(name)
    record: dict[str, Any] = {
        "name": folder.parent.name if folder.name == "model" else folder.name,
        "model": name,
        "checksum": model.checksum,
        "parameters": {
            "lm": sum(parameter.numel() for parameter in model.lm.parameters()),
            "text_encoder": sum(parameter.numel() for parameter in model.conditioners.parameters()),
            "codec": sum(parameter.numel() for parameter in model.codec.parameters()),
        },
        "speed": {
            "steps_per_second": watch.steps / watch.seconds,
            "audio_seconds_per_second": watch.audio / watch.seconds,
            "device": str(model.lm.embedding.weight.device),
            "threads": torch.get_num_threads(),
        },
    }
    for key, file in (("training", RECORD), ("held_out", "held_out.json"), ("codec", f"codec/{RECORD}")):
        if (folder / file).is_file():
            record[key] = json.loads((folder / file).read_text(encoding="utf-8"))
    if "training" in record and "held_out" in record:
        record["training"]["validation"] = record.pop("held_out")
    if record.get("codec", {}).get("valid_metric") == "valid/mel_distance":
        curve = record["codec"].pop("curve")
        record["codec"] |= {"mel_distance_at_start": curve[0][2], "mel_distance": curve[-1][2]}
    return record
