"""Runs that lie in their folders: which checkpoints there are, and the model of one."""

import re
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule

from datamodules.errors import InputError
from experiments.cli import CHECKPOINTS, LAST, instantiated
from lightning_modules.callbacks import WeightAverage
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.sharding import META, read_sharded
from lightning_modules.whole_checkpoints import WholeCheckpoints

CONFIG = "config.yaml"


class Run:
    """A run's folder, from the outside; nothing in it is touched.

    Args:
        folder: the run's.

    Attributes:
        config: what it was composed of.

    Raises:
        InputError: the folder is no run's.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / CONFIG).is_file():
            raise InputError(f"{folder}: is no run ({CONFIG} is missing)")
        self.config: dict[str, Any] = yaml.safe_load((self.folder / CONFIG).read_text(encoding="utf-8"))

    @property
    def last(self) -> Path:
        """The newest checkpoint.

        Raises:
            InputError: there is none.
        """
        path = self.folder / CHECKPOINTS / LAST
        if not path.exists():
            raise InputError(f"{self.folder}: has no checkpoint yet ({CHECKPOINTS}/{LAST} is missing)")
        return path

    def checkpoints(self) -> dict[int, Path]:
        """All checkpoints by their optimiser step, in its order."""
        found: dict[int, Path] = {}
        for path in (self.folder / CHECKPOINTS).glob("*.ckpt"):
            named = re.search(r"step=(\d+)", path.name)
            file = path / META if path.is_dir() else path
            step = int(named[1]) if named else torch.load(file, "cpu", mmap=True, weights_only=True)["global_step"]
            found.setdefault(step, path)
        return dict(sorted(found.items()))

    def composed(self) -> tuple[LightningModule, list[Callback]]:
        """Module and callbacks as they were before the first step."""
        module, callbacks = instantiated(str(self.folder / CONFIG))
        if isinstance(module, LanguageModelTraining):  # in a run the data tell
            module.window = self.config["data"]["init_args"].get("seconds")
        return module, callbacks


def restore(module: LightningModule, callbacks: list[Callback], checkpoint: Path) -> tuple[int, WeightAverage]:
    """Gives a composed run the weights of a checkpoint, sharded or not.

    Returns:
        Its optimiser step, and the average of its weights, to be ``applied``.
    """
    if checkpoint.is_dir():
        state = read_sharded(checkpoint, module)
    else:
        state = WholeCheckpoints().load_checkpoint(checkpoint, lambda storage, _: storage, weights_only=True)
        module.load_state_dict(state["state_dict"])
    average = next(callback for callback in callbacks if isinstance(callback, WeightAverage))
    average.load_state_dict(state["callbacks"][average.state_key])
    return state["global_step"], average
