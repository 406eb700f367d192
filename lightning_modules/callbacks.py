"""Callbacks of training: the average of the weights, and a checkpoint whenever a run ends early."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_modules.sharding import local


class WeightAverage(Callback):
    """Exponential moving average of the trained weights, used for validation and export.

    MusicGen updates it every 10 steps with a decay of 0.99.

    The average is unbiased: update i weighs (1 - decay) / (1 - decay^i), so it starts as the weights themselves and
    never remembers the initialisation. Where parameters are sharded so is the average, and each process looks after its
    own part.

    Args:
        decay: share of the old average that an update keeps.
        every: optimiser steps between updates.
    """

    def __init__(self, decay: float = 0.99, every: int = 10) -> None:
        self.decay, self.every = decay, every
        self.updates = 0
        self._seen_step = 0
        self._average: list[Tensor] = []
        self._swapped = False  # whether the module has the average, and this the weights in training

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins with the weights, or brings a restored average to the device."""
        parameters = _trained(pl_module)
        if self._average:
            self._average = [a.to(p.device) for a, p in zip(self._average, parameters, strict=True)]
        else:
            self._average = [p.detach().clone() for p in parameters]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remembers where this run begins: only now is a restored step known."""
        self._seen_step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Updates after every ``every``-th optimiser step."""
        step = trainer.global_step
        if step == self._seen_step or step % self.every:
            return
        self._seen_step = step
        self.updates += 1
        weight = (1 - self.decay) / (1 - self.decay**self.updates)
        ours, weights = [local(a) for a in self._average], [local(p.detach()) for p in _trained(pl_module)]
        torch._foreach_lerp_(ours, weights, weight)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validates the average."""
        if self.updates:
            self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes back to the weights in training."""
        if self.updates:
            self._swap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Goes back to the weights in training where a validation was interrupted: they are what a checkpoint holds."""
        if self._swapped:
            self._swap(pl_module)

    @contextmanager
    def applied(self, pl_module: LightningModule) -> Iterator[None]:
        """Within it the module has the averaged weights."""
        if self.updates:
            self._swap(pl_module)
        try:
            yield
        finally:
            if self.updates:
                self._swap(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The average, for the checkpoint."""
        return {"updates": self.updates, "average": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the average from a checkpoint."""
        self.updates, self._average = state_dict["updates"], state_dict["average"]

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        for average, parameter in zip(self._average, _trained(pl_module), strict=True):
            ours, weights = local(average), local(parameter.detach())
            held = weights.clone()
            weights.copy_(ours)
            ours.copy_(held)
        self._swapped = not self._swapped


def _trained(pl_module: LightningModule) -> list[torch.nn.Parameter]:
    return [parameter for parameter in pl_module.parameters() if parameter.requires_grad]


class SaveOnExit(Callback):
    """Leaves a checkpoint of the last finished optimiser step when a run is interrupted.

    Args:
        path: the checkpoint's file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remembers where this run began."""
        self._first_step = trainer.global_step

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves, unless not one step was finished since the checkpoint that this run began with."""
        if not isinstance(exception, KeyboardInterrupt) and type(exception).__name__ != "SIGTERMException":
            return
        if trainer.global_step == self._first_step:
            trainer.print("interrupted before the first optimiser step was finished: nothing to save")
            return
        trainer.save_checkpoint(self.path, False)  # False: with the optimiser's state
        trainer.print(f"interrupted: step {trainer.global_step} is saved as {self.path}; `make resume` goes on from it")

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Sets the loop's count of micro-batches to the end of the last whole optimiser step.

        Gradients gathered since then are not in a checkpoint, so a resumed run must gather them again: it begins a
        whole accumulation, at the sample where that accumulation began, whatever its size is now. The counts are those
        that Lightning itself saves at the end of a step.
        """
        steps = checkpoint["global_step"]
        if not steps:
            return
        loop = checkpoint["loops"]["fit_loop"]
        whole = steps * trainer.accumulate_grad_batches
        for counts in (loop["epoch_loop.batch_progress"]["current"], loop["epoch_loop.batch_progress"]["total"]):
            counts.update(ready=whole, started=whole, processed=whole, completed=whole - 1)
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - 1
