"""Going on by itself: whether a run's folder has a checkpoint to go on from."""

from pathlib import Path

from datamodules.errors import InputError
from experiments.callbacks.model_folder import RECORD
from experiments.cli import CHECKPOINTS, LAST, MODEL


def checkpoint_of(run: str | Path) -> Path | None:
    """The newest checkpoint of a run that has not come to its end; None where there is none yet.

    Raises:
        InputError: the run came to its end.
    """
    if is_finished(run):
        raise InputError(f"{run}: this run came to its end, {run}/{MODEL} is its model; another run: RUN= or SEED=")
    last = Path(run) / CHECKPOINTS / LAST
    return last if last.exists() else None


def is_finished(run: str | Path) -> bool:
    """Whether a run has written its model, the last that it does."""
    return (Path(run) / MODEL / RECORD).is_file()


def goes_on_from(checkpoint: Path) -> list[str]:
    """Arguments of ``mgl fit``."""
    return ["--ckpt_path", str(checkpoint), "--weights_only", "true"]
