"""Runs a generation job over the devices of a machine or a cluster, by Lightning's ``predict``."""

import errno
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from datamodules.errors import InputError, Terminated
from experiments.jobs.display import Display
from experiments.jobs.job import NO_SPACE, Job
from experiments.jobs.requests import Request
from experiments.predicting import interrupts


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


def run_job(trainer: Trainer, job: Job, name: str, say: Callable[[str], None] = print) -> None:
    """Makes what is not finished; the first process writes the manifest when all are done.

    Args:
        trainer: of ``predicting_trainer``.
        job: of this process.
        name: of the model.
        say: takes the line at the end.

    Raises:
        InputError: a file that cannot be written, or prompts that cannot be generated.
        KeyboardInterrupt: somebody has interrupted it, or by ``Terminated`` told it to end; what is finished stays.
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
            with interrupts():
                trainer.predict(module, return_predictions=False)
        except KeyboardInterrupt as stop:
            if not trainer.is_global_zero:
                raise SystemExit(143 if isinstance(stop, Terminated) else 130) from stop
            display.say(f"{job.progress()} are finished and stay; the same command goes on")
            raise
        finally:
            job.journal.close()
    return _gathered(job.failed, module.stopped, trainer.world_size)


def _gathered(
    failed: dict[str, str], stopped: InputError | None, world: int
) -> tuple[dict[str, str], InputError | None]:
    """The same of all processes, each of which waits here until all have closed their journals."""
    if world == 1:
        return failed, stopped
    cause = stopped.__cause__ if stopped is not None else None
    full = isinstance(cause, OSError) and cause.errno in NO_SPACE
    all_of_them: list[Any] = [None] * world
    torch.distributed.all_gather_object(all_of_them, (failed, None if stopped is None else str(stopped), full))
    reasons = {name: reason for one, _, _ in all_of_them for name, reason in one.items()}
    for _, message, full in all_of_them:
        if message is not None:
            error = InputError(message)
            error.__cause__ = OSError(errno.ENOSPC, message) if full else None
            return reasons, error
    return reasons, None
