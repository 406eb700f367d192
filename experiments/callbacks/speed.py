"""How fast a training goes: codes a second, seconds a step, and how much of the GPU's peak the model makes use of."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.batches import TokenBatch
from experiments.flops import COUNTING, peak_flops, training_flops
from experiments.planning.adapters import adapter_flops
from lightning_modules.lm.training import LanguageModelTraining

_WINDOW = 100  # micro-batches that the figures are a mean over


class Work(NamedTuple):
    """What was done until a moment: seconds of training, micro-batches, codes and FLOPs of all processes."""

    seconds: float = 0.0
    batches: int = 0
    codes: int = 0
    flops: float = 0.0


class Speed(Callback):
    """Measures over the last hundred micro-batches, all that training does included but validation and samples.

    It logs, every ``log_every_n_steps`` steps,

    - ``speed/seconds_per_step``;
    - ``speed/tokens_per_second``: codes, K of them a frame, padded ones too, over all devices;
    - ``speed/mfu``: the model's FLOPs (``experiments.flops``) over those that the devices could do at their dense
      bfloat16 peak. None on a CPU, and on a GPU whose peak is not known, which is said at the start.

    The last two are of language models alone.

    Attributes:
        peak: of one device, in FLOP/s; None where it is not known.
    """

    def __init__(self) -> None:
        self.peak: float | None = None
        self._done: deque[Work] = deque(maxlen=_WINDOW + 1)
        self._paused = self._validation = 0.0

    @property
    def last(self) -> Work:
        """What was done in the window; nothing yet where no micro-batch was."""
        if len(self._done) < 2:
            return Work()
        old, new = self._done[0], self._done[-1]
        return Work(new.seconds - old.seconds, new.batches - old.batches, new.codes - old.codes, new.flops - old.flops)

    def figures(self, trainer: Trainer) -> dict[str, float]:
        """What is logged, by its name without ``speed/``; empty before the first micro-batch."""
        work = self.last
        if not work.seconds:
            return {}
        found = {"seconds_per_step": work.seconds / work.batches * trainer.accumulate_grad_batches}
        if work.codes:
            found["tokens_per_second"] = work.codes / work.seconds
            if self.peak is not None:
                found["mfu"] = work.flops / work.seconds / (self.peak * trainer.world_size)
        return found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens within is no training."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - begun

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock, and says what MFU will mean."""
        self._paused = 0.0
        self._done.clear()
        self._done.append(Work(time.monotonic()))
        if pl_module.device.type != "cuda" or not isinstance(pl_module, LanguageModelTraining):
            return
        name = torch.cuda.get_device_name(pl_module.device)
        self.peak = peak_flops(name)
        if trainer.is_global_zero and self.peak is None:
            print(f"MFU           none: experiments/planning/gpus.py has no bfloat16 peak of a {name}", flush=True)
        elif trainer.is_global_zero and self.peak is not None:
            print(f"MFU           {COUNTING}, of {self.peak / 1e12:g} TFLOP/s ({name}, dense bfloat16)", flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the micro-batch, and logs when it is time to."""
        codes, flops = 0, 0.0
        if isinstance(batch, TokenBatch) and isinstance(pl_module, LanguageModelTraining):
            crops, _, frames = batch.codes.shape
            shape, dims = pl_module.lm.config, pl_module.conditioners.dims
            codes = batch.codes.numel() * trainer.world_size
            places, sizes = pl_module.condition_places, {"crops": crops, "frames": frames}
            if pl_module.lora is not None:
                flops = adapter_flops(shape, dims, places, pl_module.lora.rank, **sizes).total
            else:
                flops = training_flops(shape, dims, places, **sizes).total
        last = self._done[-1]
        self._done.append(
            Work(
                time.monotonic() - self._paused,
                last.batches + 1,
                last.codes + codes,
                last.flops + flops * trainer.world_size,
            )
        )
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if pl_module.automatic_optimization and whole and trainer.global_step % every == 0:
            found = self.figures(trainer)
            pl_module.log_dict({f"speed/{name}": value for name, value in found.items()}, batch_size=1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self._validation = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on."""
        self._paused += time.monotonic() - self._validation


def speed_of(trainer: Trainer) -> Speed | None:
    """The run's own, if it measures."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, Speed)), None)
