"""The model folder that a training ends with."""

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.whole_files import write_whole
from lightning_modules.callbacks import WeightAverage
from lightning_modules.lm.training import LanguageModelTraining

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
        if trainer.interrupted:
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        average = next(callback for callback in callbacks if isinstance(callback, WeightAverage))
        with average.applied(pl_module):
            # What is sharded all processes bring together.
            whole = pl_module.whole() if isinstance(pl_module, LanguageModelTraining) else pl_module
            if not trainer.is_global_zero:
                return
            whole.export(self.folder)  # type: ignore[union-attr, operator]
        for measured in self.folder.glob("held_out*.json"):  # the figures of the weights before these
            measured.unlink()
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
