"""Where a run's scalars, sound and pictures go: the layers ``logger/tensorboard``, ``logger/csv``, ``logger/wandb``."""

import csv
import os
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from datamodules.errors import InputError

Kind = Literal["tensorboard", "csv", "wandb"]
_REMEDY = {
    "tensorboard": "install tensorboard (`make setup EXTRAS=train` does), or log with -c logger/csv",
    "wandb": "pip install wandb, or leave -c logger/wandb out",
}
_ID = "wandb-id"


def run_logger(run: str | Path, kind: Kind) -> Logger:
    """The logger of a run: what it keeps on this machine lies in the run's folder, and a resumed run goes on there.

    Args:
        run: the run's folder.
        kind: TensorBoard's event files, ``metrics.csv``, or Weights & Biases (project WANDB_PROJECT, by default
            musicgen-lightning; WANDB_MODE=offline without a network).

    Raises:
        InputError: the package that it needs is missing.
    """
    if kind in _REMEDY and not find_spec(kind):
        raise InputError(f"--logger {kind}: the package is not installed; {_REMEDY[kind]}")
    if kind == "tensorboard":
        return TensorBoardLogger(run, name="", version="")
    if kind == "csv":
        return AppendingCSVLogger(run, name="", version="", flush_logs_every_n_steps=1)
    project = os.environ.get("WANDB_PROJECT", "musicgen-lightning")
    return WandbLogger(name=Path(run).name, save_dir=run, project=project, id=_wandb_id(Path(run)))


class AppendingCSVLogger(CSVLogger):
    """Lightning's, which would begin with deleting the ``metrics.csv`` that is there."""

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer of ``metrics.csv``."""
        if self._experiment is None:
            self._experiment = _AppendingWriter(self.log_dir)
        return self._experiment  # type: ignore[return-value]


class _AppendingWriter(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        if Path(self.metrics_file_path).is_file():
            with Path(self.metrics_file_path).open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])


def _wandb_id(run: Path) -> str:
    """The run's id there, drawn once: the same after a requeue."""
    path = run / _ID
    if not path.is_file():
        _draw(path)
    return path.read_text(encoding="utf-8") if path.is_file() else ""  # others than process 0 log nothing


@rank_zero_only
def _draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(secrets.token_hex(4), encoding="utf-8")
