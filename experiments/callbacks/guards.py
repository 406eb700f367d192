"""What a training does about numbers that are not finite, and when it is asked to stop: both at the end of a step."""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.optim import Optimizer

from datamodules.errors import InputError
from experiments.callbacks.scalars import gradient_norm
from experiments.callbacks.signals import STOPS, StopSignals, shield_workers
from lightning_modules.callbacks import SaveOnExit
from lightning_modules.ranks import world_size

# In the run's folder while its job is to be queued again; the job's script looks for it.
QUEUE_AGAIN = "queue-again"
_INTERRUPTED, _TERMINATED, _TIME_IS_UP = range(1, 1 + len(STOPS))
_NAMED = 8  # samples of a step that are named one by one


class Guards(Callback):
    """Leaves out steps whose loss or gradient is not finite, and ends a training that is asked to between two steps.

    A step that is left out changes neither weights nor the optimiser's state, and counts: the samples after it are
    those that they would have been. With scaled losses (16-mixed) a gradient that overflows is the scaler's affair, as
    long as the scale is above 1.

    Once an optimiser step, all processes agree on both by one sum of five numbers, and the host waits for it: it has
    to know whether to step. It is the only wait that this adds, and the one that Lightning has at every micro-batch of
    a distributed run, to ask for signals, is taken out.

    Args:
        patience: so many steps in a row that were left out end the run.

    Attributes:
        left_out: steps in a row so far.
    """

    def __init__(self, patience: int = 10) -> None:
        if patience < 1:
            raise InputError(f"guards.patience is {patience}; give at least 1")
        self.patience, self.left_out = patience, 0
        self.signals = StopSignals()
        self._samples: list[tuple[Any, list[str]]] = []  # numbers and tracks of the step's micro-batches
        self._bad: list[Tensor] = []  # whether their losses are not finite
        self._stop, self._stepped, self._skipped = 0, False, False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes SLURM's signal before the scheduler can have sent it, and keeps it from the loaders."""
        if stage == "fit":
            shield_workers(trainer.datamodule)  # type: ignore[attr-defined]
            self.signals.listen(*STOPS[2:], speaks=trainer.is_global_zero)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on there are steps to finish."""
        self.signals.listen(*STOPS[:2], speaks=trainer.is_global_zero)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        if trainer.is_global_zero:
            _marker(trainer).unlink(missing_ok=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes whose turn it is."""
        self._samples.append((getattr(batch, "numbers", None), getattr(batch, "tracks", [])))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Looks at the loss, on its device."""
        self._bad.append(~loss.detach().isfinite().all())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Takes the gradients away from an optimiser that must not step; it then does nothing."""
        self._stepped = True
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        bad_gradient = ~gradient_norm(parameters).isfinite()
        bad_loss = torch.stack(self._bad).any() if self._bad else torch.zeros_like(bad_gradient)
        asked = [torch.full_like(bad_loss, self.signals.asked == one, dtype=torch.float32) for one in (1, 2, 3)]
        found = torch.stack([bad_loss.float(), bad_gradient.to(bad_loss.device).float(), *asked])
        if world_size() > 1:
            dist.all_reduce(found)
        loss, gradient, *stops = found.tolist()
        self._stop = max((one for one, count in enumerate(stops, 1) if count), default=self._stop)
        if not loss and not gradient:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if not loss and scaler is not None and scaler.get_scale() >= 1:
            return
        self._skipped = True
        optimizer.zero_grad(set_to_none=True)
        self._tell(trainer, "loss" if loss else "gradient")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """At the end of a step, which is complete for every other callback: ends the run if there is a reason.

        Raises:
            InputError: too many steps in a row were left out.
        """
        if not self._stepped:
            return
        self.left_out = self.left_out + 1 if self._skipped else 0
        self._stepped = self._skipped = False
        self._samples.clear()
        self._bad.clear()
        if self.left_out >= self.patience:
            raise InputError(self._gave_up(trainer))
        if self._stop == _INTERRUPTED:
            raise KeyboardInterrupt
        if self._stop:
            raise SIGTERMException(0 if self._stop == _TIME_IS_UP else 143)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """After the checkpoint is written, this being the last callback: has the job's script queue it again."""
        if self._stop == _TIME_IS_UP and isinstance(exception, SIGTERMException) and trainer.is_global_zero:
            _marker(trainer).touch()
            print("time is up: the job's script queues it again", flush=True)

    def _tell(self, trainer: Trainer, what: str) -> None:
        """Says which samples it was; every process must come here."""
        bad = [bool(flag) for flag in self._bad] or [False] * len(self._samples)
        heard = [sample for sample, flag in zip(self._samples, bad, strict=False) if flag or what == "gradient"]
        mine = [(int(n), t) for numbers, tracks in heard if numbers is not None for n, t in zip(numbers, tracks)]  # noqa: B905
        everyone: list[Any] = [mine]
        if world_size() > 1:
            everyone = [None] * world_size()
            dist.all_gather_object(everyone, mine)
        samples = sorted(one for some in everyone for one in some)
        if trainer.is_global_zero:
            print(
                f"step {trainer.global_step + 1}: the {what} is not finite; the step is left out "
                f"({self.left_out + 1} in a row, {self.patience} end the run). {_named(samples)}",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    def _gave_up(self, trainer: Trainer) -> str:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        places = [callback.path for callback in callbacks if isinstance(callback, SaveOnExit)]
        good = next((str(path) for path in places if path.exists()), "")
        return (
            f"{self.left_out} steps in a row had a loss or gradient that is not finite, and were left out; "
            + (f"the last good checkpoint is {good}" if good else "there is no checkpoint yet")
            + "; look at the samples named above (`mgl show-sample`), or train with a smaller learning rate"
        )


def _marker(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / QUEUE_AGAIN


def _named(samples: list[tuple[int, str]]) -> str:
    """Numbers and tracks of some samples."""
    if not samples:
        return "Its samples have no names"
    first = ", ".join(f"{number} ({track})" for number, track in samples[:_NAMED])
    if len(samples) <= _NAMED:
        return f"Samples: {first}"
    return f"{len(samples)} samples, {samples[0][0]} to {samples[-1][0]}: {first}, ..."
