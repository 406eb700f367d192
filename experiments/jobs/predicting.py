"""Runs a generation job over the devices of a machine or a cluster, by Lightning's ``predict``."""

import errno
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from datamodules.errors import InputError
from experiments.console import pick_device, quiet_prediction
from experiments.jobs.display import Display
from experiments.jobs.job import Job
from experiments.jobs.requests import Request

# How long a process waits for the others at the end: their last batches may be long ones.
_PATIENCE = timedelta(days=7)


class ClipGeneration(LightningModule):
    """Makes the batches that are this process's share.

    Args:
        job: of this process.
        batches: its share.
        display: how far it is.
    """

    def __init__(self, job: Job, batches: list[list[Request]], display: Display) -> None:
        super().__init__()
        # With more processes than batches some have nothing to do.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.job, self.batches, self.display = job, batches, display
        self.stopped: InputError | None = None

    def predict_dataloader(self) -> DataLoader[int]:
        """Numbers of the batches."""
        return DataLoader(range(len(self.batches)), batch_size=None)  # type: ignore[arg-type]

    def predict_step(self, number: int, batch_index: int) -> int:
        """Makes one; when one has failed none any more, so that the job ends in good order in every process."""
        if self.stopped is None:
            try:
                self.job.make(self.batches[number], self.display)
            except InputError as error:
                self.stopped = error
        return number


def job_trainer(device: str = "auto", devices: int = 1, nodes: int = 1) -> Trainer:
    """A trainer that predicts on these devices; its strategy's ``root_device`` is this process's.

    Args:
        device: "cpu", "cuda", "cuda:N" or "auto".
        devices: processes a machine, one a device.
        nodes: machines.

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
    )


def run_job(trainer: Trainer, job: Job, name: str, say: Callable[[str], None] = print) -> None:
    """Makes what is not finished; the first process writes the manifest when all are done.

    Args:
        trainer: of ``job_trainer``.
        job: of this process.
        name: of the model.
        say: takes the line at the end.

    Raises:
        InputError: no space left, or prompts that cannot be generated.
        KeyboardInterrupt: somebody has interrupted it; what is finished stays.
    """
    first, world = trainer.is_global_zero, trainer.world_size
    failed, stopped = _made(trainer, job) if job.pending else ({}, None)
    if not first:
        return
    if stopped is not None:
        raise stopped
    job.finish(name, world, failed)
    before = len(job.requests) - len(job.pending)
    say(f"clips: {len(job.requests):,} in {job.folder}" + (f" ({before:,} were finished before)" if before else ""))


def _made(trainer: Trainer, job: Job) -> tuple[dict[str, str], InputError | None]:
    """Makes the clips; in every process the prompts that could not be generated, and what has stopped one of them."""
    batches = job.share(trainer.global_rank, trainer.world_size)
    with job.display(batches, trainer.world_size, shown=trainer.is_global_zero) as display:
        module = ClipGeneration(job, batches, display)
        try:
            trainer.predict(module, return_predictions=False)
        except SystemExit as stop:
            # Lightning ends an interrupted run with exit code 1, as if it had failed.
            if not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            if not trainer.is_global_zero:
                raise SystemExit(130) from stop
            display.say(f"{job.progress()} are finished and stay; the same command goes on")
            raise KeyboardInterrupt from stop
        finally:
            job.journal.close()
    return _gathered(job.failed, module.stopped, trainer.world_size)


def _gathered(
    failed: dict[str, str], stopped: InputError | None, world: int
) -> tuple[dict[str, str], InputError | None]:
    """The same of all processes, each of which waits here until all have closed their journals."""
    if world == 1:
        return failed, stopped
    full = stopped is not None and isinstance(stopped.__cause__, OSError)
    all_of_them: list[Any] = [None] * world
    torch.distributed.all_gather_object(all_of_them, (failed, None if stopped is None else str(stopped), full))
    reasons = {name: reason for one, _, _ in all_of_them for name, reason in one.items()}
    for _, message, full in all_of_them:
        if message is not None:
            error = InputError(message)
            error.__cause__ = OSError(errno.ENOSPC, message) if full else None
            return reasons, error
    return reasons, None
