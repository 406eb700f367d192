"""What a system costs: to train, by the planner, and to generate with, as it was measured."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.pairing import SYSTEM_FILE
from experiments.planning.gpus import find_gpu
from experiments.planning.links import machines
from experiments.planning.plan import plan
from experiments.planning.subject import Subject
from experiments.systems.contract import System
from experiments.training import GLOBAL_BATCH

UTILISATION, NETWORK = 0.4, 400.0  # what `mgl plan` assumes


def cost_record(system: System, clips: Path | None, gpu: str, gpus: int) -> dict[str, Any]:
    """Parameters, training by the paper's recipe, and the speed that stands beside clips.

    Args:
        system: whose.
        clips: folder of the clips that it made; None if it made none.
        gpu: that it would be trained on.
        gpus: how many.

    Returns:
        "system"; "parameters" by part and "training" (estimates of the planner), both None where the model is not
        known; "generation" (measured), None where nothing was.

    Raises:
        InputError: no such GPU, or not so many can share a batch.
    """
    counted = system.subject()
    record: dict[str, Any] = {"system": system.name, "source": system.source, "parameters": None, "training": None}
    if counted is not None:
        counts = counted.counts
        record["parameters"] = {"lm": counts.lm, "text_encoder": counts.text_encoder, "codec": counts.codec}
        record["training"] = _training(counted, gpu, gpus)
    return {**record, "generation": _generation(clips)}


def _training(counted: Subject, gpu: str, gpus: int) -> dict[str, Any]:
    kind = find_gpu(gpu)
    if not kind.bfloat16:
        counted = replace(counted, precision="16-mixed")
    made = plan(counted, machines(kind, gpus, 0, NETWORK), crops=GLOBAL_BATCH, utilisation=UTILISATION)
    best = made.best
    return {
        "gpu": kind.key,
        "gpus": gpus,
        "crops": made.crops,
        "steps": counted.max_steps,
        "flops": made.flops * counted.max_steps,
        "layout": best.name if best else None,
        "memory": best.memory.total if best else None,
        "gpu_hours": made.gpu_hours,
        "why": made.why,
    }


def _generation(clips: Path | None) -> dict[str, Any] | None:
    path = clips / SYSTEM_FILE if clips is not None else None
    speed = json.loads(path.read_text(encoding="utf-8")).get("speed") if path is not None and path.is_file() else None
    if not speed:
        return None
    hours = speed["audio_seconds_per_second"] * speed.get("processes", 1)
    return {**speed, "hours_per_hour": hours}
