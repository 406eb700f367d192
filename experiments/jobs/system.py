"""``system.json``: what evaluation and its report say of the model that made a folder of clips."""

import json
from pathlib import Path
from typing import Any

import torch

from datamodules.whole_files import write_whole
from experiments.callbacks.model_folder import RECORD
from experiments.jobs.journal import Stopwatch
from lightning_modules.generation.model import MusicModel

FILE_NAME = "system.json"


def write_system(folder: Path, model: MusicModel, name: str, watch: Stopwatch, processes: int) -> None:
    """Writes what the report shows of a system; where nothing was made, the speed stays that of the last time."""
    system = describe(model, name)
    if watch.seconds > 0:
        system["speed"] = {
            "steps_per_second": watch.steps / watch.seconds,
            "audio_seconds_per_second": watch.audio / watch.seconds,
            "device": str(model.lm.embedding.weight.device),
            "threads": torch.get_num_threads(),
            "processes": processes,  # the speed is that of one
        }
    else:
        before = _read(folder / FILE_NAME)
        if before.get("checksum") == model.checksum and "speed" in before:
            system["speed"] = before["speed"]
    write_whole(folder / FILE_NAME, json.dumps(system, indent=1).encode())


def describe(model: MusicModel, name: str) -> dict[str, Any]:
    """Name, size, and the records of training that lie in the model's folder."""
    folder = Path(name)
    record: dict[str, Any] = {
        "name": folder.parent.name if folder.name == "model" else folder.name,
        "model": name,
        "checksum": model.checksum,
        "parameters": {
            "lm": model.parameters,
            "text_encoder": sum(parameter.numel() for parameter in model.conditioners.parameters()),
            "codec": sum(parameter.numel() for parameter in model.codec.parameters()),
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


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
