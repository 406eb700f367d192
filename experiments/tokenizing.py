"""Runs the token writer over the devices of a machine or a cluster, and shows how far it is."""

import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import Progress

from datamodules.errors import InputError
from datamodules.tokens.writer import Summary, TokenWriter
from experiments.console import in_words, progress
from experiments.predicting import interrupts, predicting_trainer
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.tokenizing import CodecTokenizing, PieceDataModule


def write_store(
    codec: Codec,
    writer: TokenWriter,
    *,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    batch_size: int | None = None,
    workers: int = 2,
) -> tuple[Summary, float] | None:
    """Encodes what is not yet encoded and joins it to a store.

    Args:
        codec: with saved weights.
        writer: of the store.
        device: "cpu", "cuda", "cuda:N" or "auto".
        devices: processes a machine, one a device.
        nodes: machines.
        batch_size: full windows at once; by default 8 on a GPU and 1 on a CPU, where more bring nothing.
        workers: loader processes a device.

    Returns:
        In the process that joined it: what the store holds, and how many seconds of audio were encoded for it now. None
        in the others.

    Raises:
        InputError: wrong settings, too many tracks that cannot be read, or a full disk.
    """
    if workers < 0 or (batch_size is not None and batch_size < 1):
        raise InputError("batch_size must be at least 1, workers at least 0")
    trainer = predicting_trainer(device, devices, nodes, [_Hours()])
    data = PieceDataModule(writer, batch_size or (1 if trainer.strategy.root_device.type == "cpu" else 8), workers)
    with interrupts():
        trainer.predict(CodecTokenizing(codec, writer), data, return_predictions=False)
    # Every process waits here until all have written their shards.
    seconds = torch.tensor(data.seconds, dtype=torch.float32)
    encoded = float(trainer.strategy.reduce(seconds, reduce_op="sum"))
    return (writer.finish(), encoded) if trainer.is_global_zero else None


class _Hours(Callback):
    """A bar that counts hours of audio on a terminal, a line now and then in a log; of the first process's share."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = seconds
        self._bar: Progress | None = None
        self._done = 0.0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts bar and clock."""
        data: PieceDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self._total, self._begun = data.seconds, time.monotonic()
        self._said = self._begun
        self._share = f" (process 1 of {trainer.world_size})" if trainer.world_size > 1 else ""
        if trainer.is_global_zero and sys.stderr.isatty():
            self._bar = progress()
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Moves on by the seconds of audio that the step returned."""
        # Context is encoded twice, but counted once.
        self._done = min(self._total, self._done + outputs)
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=self._told())
        elif trainer.is_global_zero and now - self._said > self.seconds:
            self._said = now
            left = (now - self._begun) * (self._total / self._done - 1) if self._done else 0.0
            print(f"{self._told()}, {in_words(left)} left", file=sys.stderr, flush=True)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the bar as it is."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the terminal in order."""
        self._stop()

    def _told(self) -> str:
        return f"tokens: {self._done / 3600:.2f} of {self._total / 3600:.2f} h{self._share}"

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
