"""What systems share that draw clips with somebody else's library: batches, files, and which of them are finished."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

from datamodules.manifest import Track
from datamodules.whole_files import write_whole
from experiments.console import pick_device
from experiments.jobs import Options
from experiments.jobs.sound import encode, level
from experiments.prompts import Prompt
from experiments.systems.contract import write_clips_manifest

_JOURNAL = "journal.json"


class Journal:
    """The clips of a folder, as what each was made, and what they took.

    Args:
        out: the folder.
        options: how clips are written.
    """

    def __init__(self, out: Path, options: Options) -> None:
        self._out, self._options, self._path = out, options, out / _JOURNAL
        before = json.loads(self._path.read_text(encoding="utf-8")) if self._path.is_file() else {}
        self._made: dict[str, str] = before.get("made", {})
        self._spent: dict[str, float] = before.get("spent", {"seconds": 0.0, "steps": 0, "audio": 0.0})

    def holds(self, prompt: Prompt, key: str) -> bool:
        """Whether the prompt's clip is there and was made as what ``key`` stands for."""
        file = self._file(prompt)
        return self._made.get(file.name) == key and file.is_file()

    def add(
        self, batch: Sequence[Prompt], keys: Sequence[str], wavs: Sequence[Tensor], rate: int, spent: tuple[float, int]
    ) -> None:
        """Writes clips that were drawn together.

        Args:
            batch: their prompts.
            keys: that stand for all that each depends on.
            wavs: [C, N] each.
            rate: Hz.
            spent: seconds, and steps of the model, for all of them.
        """
        for prompt, key, wav in zip(batch, keys, wavs, strict=True):
            wav, _ = level(wav, rate, self._options.loudness)
            write_whole(self._file(prompt), encode(wav, rate, self._options.format))
            self._made[self._file(prompt).name] = key
        audio = sum(prompt.duration for prompt in batch)
        for name, value in zip(("seconds", "steps", "audio"), (*spent, audio), strict=True):
            self._spent[name] += value
        write_whole(self._path, json.dumps({"made": self._made, "spent": self._spent}, indent=1).encode())

    def write_manifest(self, prompts: Sequence[Prompt]) -> None:
        """The manifest of clips that are all there."""
        write_clips_manifest(self._out, [self._track(prompt) for prompt in prompts])

    def speed(self, device: str) -> dict[str, Any]:
        """What ``system.json`` says of speed; nothing where nothing was drawn."""
        seconds = self._spent["seconds"]
        if not seconds:
            return {}
        speed = {
            "steps_per_second": self._spent["steps"] / seconds,
            "audio_seconds_per_second": self._spent["audio"] / seconds,
            "device": pick_device(device),
            "threads": torch.get_num_threads(),
            "processes": 1,
        }
        return {"speed": speed}

    def _file(self, prompt: Prompt) -> Path:
        return self._out / f"{prompt.id}.{self._options.format}"

    def _track(self, prompt: Prompt) -> Track:
        path = self._file(prompt)
        found = soundfile.info(path)
        return Track(prompt.id, path, found.duration, found.samplerate, prompt.caption, facts={"seed": prompt.seed})


def batches_of_one_length(prompts: Sequence[Prompt], size: int) -> list[list[Prompt]]:
    """Prompts of one length, with a melody or without, in their order; at most ``size`` together."""
    groups: dict[tuple[float, bool], list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault((prompt.duration, prompt.melody is not None), []).append(prompt)
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]
