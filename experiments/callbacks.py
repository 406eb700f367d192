"""Callbacks that tie training to the rest: the model folder at the end, and lines for those who watch a log."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.whole_files import write_whole
from lightning_modules.callbacks import WeightAverage

RECORD = "training.json"


class ModelFolder(Callback):
    """Exports the model, with its averaged weights, when training ends, and a record of the training beside it.

    The module's ``export(folder)`` writes the model; ``training.json`` holds steps, seconds and the curve
    ([step, training value, validation value]).

    Args:
        folder: where the model goes.
        train_metric: logged value of training for the curve.
        valid_metric: logged value of validation for the curve.
    """

    def __init__(self, folder: str, train_metric: str = "train/loss", valid_metric: str = "valid/loss") -> None:
        self.folder, self.train_metric, self.valid_metric = Path(folder), train_metric, valid_metric
        self.curve: list[tuple[int, float | None, float | None]] = []
        self.seconds = 0.0
        self._started = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.monotonic() - self.seconds

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds a point to the curve."""
        if trainer.sanity_checking and self.curve:
            return  # a resumed run has its first point already
        values = trainer.callback_metrics
        point = [float(values[name]) if name in values else None for name in (self.train_metric, self.valid_metric)]
        self.curve.append((trainer.global_step, point[0], point[1]))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the folder, once the run came to its end."""
        if trainer.interrupted or not trainer.is_global_zero:
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        average = next(callback for callback in callbacks if isinstance(callback, WeightAverage))
        with average.applied(pl_module):
            pl_module.export(self.folder)  # type: ignore[operator]
        record = {
            "steps": trainer.global_step,
            "seconds": round(time.monotonic() - self._started, 1),
            "train_metric": self.train_metric,
            "valid_metric": self.valid_metric,
            "curve": self.curve,
        }
        # Whole or not at all: this file says that the run came to its end.
        write_whole(self.folder / RECORD, json.dumps(record).encode())
        print(f"model: {self.folder}")

    def state_dict(self) -> dict[str, Any]:
        """Curve and clock, so that a resumed run's record is whole."""
        return {"curve": self.curve, "seconds": time.monotonic() - self._started if self._started else 0.0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the curve and the clock of a checkpoint."""
        self.curve, self.seconds = state_dict["curve"], state_dict["seconds"]


class LineProgress(Callback):
    """Says what the first micro-batch gave and how long a step will take; then, in a log, a line now and then.

    On a terminal Lightning's bar shows the rest.

    Args:
        seconds: at least so long between two lines.
    """

    def __init__(self, seconds: float = 15.0) -> None:
        self.seconds = seconds
        self._begun = self._said = 0.0
        self._batches = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._begun = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints when it is time to."""
        self._batches += 1
        now = time.monotonic()
        first = self._batches == 1
        if not trainer.is_global_zero or not (first or (now - self._said > self.seconds and not sys.stderr.isatty())):
            return
        self._said = now
        per_step = (now - self._begun) / self._batches * trainer.accumulate_grad_batches
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        total = f" of {trainer.max_steps}" if trainer.max_steps > 0 else ""
        micro = ""
        if trainer.accumulate_grad_batches > 1:
            micro = (
                f", micro-batch {batch_idx % trainer.accumulate_grad_batches + 1} of {trainer.accumulate_grad_batches}"
            )
        print(f"step {trainer.global_step}{total}{micro}: loss {loss:.4f}, {in_words(per_step)} a step", flush=True)


def in_words(seconds: float) -> str:
    """A duration as one would say it: 0.84 s, 12 min, 3.7 h, 25 days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
