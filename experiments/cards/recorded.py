"""What a run's folder records of its training up to a checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datamodules.errors import InputError
from experiments.callbacks.model_folder import RECORD, ModelFolder
from experiments.cards.scalars import Scalars, read_scalars
from experiments.cli import MODEL
from experiments.environment import FILE
from experiments.runs import Run
from lightning_modules.sharding import META

VALID = "valid/"


@dataclass(frozen=True)
class Recorded:
    """A training; None is what is not recorded.

    Attributes:
        config: what it was composed of.
        starts: what ``environment.json`` says of each of its starts.
        step: optimiser steps of the checkpoint.
        samples: training samples that these consumed.
        seconds: of training, with all that happens within it.
        curve: of each validation (step, training value, validation value).
        valid: what was logged of validations, by name and step.
    """

    config: dict[str, Any]
    starts: list[dict[str, Any]]
    step: int
    samples: int | None
    seconds: float | None
    curve: list[tuple[int, float | None, float | None]]
    valid: Scalars

    @property
    def model(self) -> dict[str, Any]:
        """Arguments of the module."""
        return dict(self.config["model"]["init_args"])

    @property
    def data(self) -> dict[str, Any]:
        """Arguments of the datamodule."""
        return dict(self.config["data"]["init_args"])


def read_recorded(run: Run, checkpoint: Path) -> Recorded:
    """Reads what there is.

    Args:
        run: which run.
        checkpoint: one of its checkpoints; what the run did after it is left out.

    Raises:
        InputError: ``environment.json`` is something else than a run writes.
    """
    file = checkpoint / META if checkpoint.is_dir() else checkpoint
    state = torch.load(file, "cpu", mmap=True, weights_only=True)
    step = int(state["global_step"])
    training = _ended(run.folder, step) or state["callbacks"].get(ModelFolder.__name__, {})
    data = run.config["data"]["class_path"].rpartition(".")[2]
    valid = read_scalars(run.folder, VALID)
    return Recorded(
        config=run.config,
        starts=_starts(run.folder / FILE),
        step=step,
        samples=state.get(data, {}).get("consumed"),
        seconds=training.get("seconds") or None,
        curve=[(at, train, held) for at, train, held in training.get("curve", []) if at <= step],
        valid={name: {at: value for at, value in some.items() if at <= step} for name, some in valid.items()},
    )


def _ended(folder: Path, step: int) -> dict[str, Any]:
    """What a run wrote at its end, if that was at this step: a checkpoint of it may be of before its validation."""
    path = folder / MODEL / RECORD
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if found.get("steps") == step else {}


def _starts(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["starts"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not what a run writes there; move it away") from error
