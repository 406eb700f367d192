"""Lightning's ``predict`` over the devices of a machine or a cluster, and stopped in good order."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

from datamodules.errors import InputError, Terminated
from experiments.console import pick_device, quiet_prediction

# How long a process waits for the others at the end: their last batches may be long ones.
_PATIENCE = timedelta(days=7)


def predicting_trainer(
    device: str = "auto", devices: int = 1, nodes: int = 1, callbacks: Sequence[Callback] = ()
) -> Trainer:
    """A trainer that predicts on these devices; its strategy's ``root_device`` is this process's.

    Its processes do not share out what they predict: each is to take its own part.

    Args:
        device: "cpu", "cuda", "cuda:N" or "auto".
        devices: processes a machine, one a device.
        nodes: machines.
        callbacks: of the trainer.

    Raises:
        InputError: no such device, or not so many.
    """
    kind, _, number = pick_device(device).partition(":")
    if min(devices, nodes) < 1:
        raise InputError(f"devices and nodes must be at least 1, got {devices} and {nodes}")
    if number and devices > 1:
        raise InputError(f"{device!r} is one device; give --device {kind} for {devices} of them")
    if kind == "cuda" and (there := torch.cuda.device_count()) < max(devices, int(number or 0) + 1):
        raise InputError(f"--device {device} --devices {devices}: this machine has {there} GPUs")
    quiet_prediction()
    # What they say to each other is a few words at the end, for which no GPU is needed.
    together = DDPStrategy(process_group_backend="gloo", timeout=_PATIENCE)
    return Trainer(
        accelerator="gpu" if kind == "cuda" else kind,
        devices=[int(number)] if number else devices,
        num_nodes=nodes,
        strategy=together if devices * nodes > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[_EndsWhenTold(), *callbacks],
    )


class _EndsWhenTold(Callback):
    """Ctrl-C and SIGTERM end a prediction at once: files are whole or not there, so nothing is lost by it.

    Of SIGTERM Lightning's own handler makes a note that only a training reads. What is raised in a function that C
    calls, as libsndfile does, is lost; then it ends before the next batch. Lightning puts back who had the signals.
    """

    def __init__(self) -> None:
        self._told: type[KeyboardInterrupt] | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._heard)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._told is not None:
            raise self._told

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self._told = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        raise self._told


@contextmanager
def interrupts() -> Iterator[None]:
    """Ctrl-C in Lightning is Ctrl-C here: it ends an interrupted run with exit code 1, as if that had failed.

    Raises:
        KeyboardInterrupt: somebody has interrupted what runs inside; ``Terminated`` if by SIGTERM.
    """
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise type(stop.__context__) from stop
        raise
