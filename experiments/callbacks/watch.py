"""A process that hangs ends the run with its name, where torch would say only that some collective timed out."""

import json
import os
import socket
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch._C._distributed_c10d import Store
from torch.optim import Optimizer

from datamodules.errors import InputError
from lightning_modules.ranks import world_size

_BEAT = 5.0  # seconds between two signs of life, at most


class Watch(Callback):
    """Ends a distributed training in which nothing moves, and says which process the others wait for.

    In each process a thread writes, into the store that ``torch.distributed`` met through, how far the process is and
    that it is alive. Where it has not moved for some time, the thread looks at the others: the one that does not
    answer, or else the one that is behind all others, is it. Torch's own time-out, of 30 minutes, remains for what a
    thread cannot see.

    Args:
        minutes: how long nothing may move; more than a validation's longest batch or its samples take.
    """

    def __init__(self, minutes: float = 20.0) -> None:
        if minutes <= 0:
            raise InputError(f"watch.minutes is {minutes}; give more than 0")
        self.seconds = 60 * minutes
        self._count, self._place = 0, "starting"
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the thread, where there are several processes."""
        self._mark("starting")
        if world_size() > 1:
            self._ended.clear()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes how far it is."""
        self._mark(f"forward of micro-batch {batch_idx}")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Notes how far it is."""
        self._mark(f"backward in step {trainer.global_step + 1}")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Notes how far it is."""
        self._mark(f"optimiser in step {trainer.global_step + 1}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes how far it is."""
        self._mark(f"the next batch, after micro-batch {batch_idx}")

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Notes how far it is."""
        self._mark(f"validation, batch {batch_idx}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes how far it is."""
        self._mark("the end of validation")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing is waited for any more."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same."""
        self._stop()

    def _stop(self) -> None:
        # Waited for: a thread that is at the store while the interpreter goes aborts the process, its work all done.
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=_BEAT)
            self._thread = None

    def _mark(self, place: str) -> None:
        self._count, self._place = self._count + 1, place

    def _watch(self) -> None:
        rank, beat = dist.get_rank(), min(_BEAT, self.seconds / 4)
        # A connection of its own: the training's may itself be waiting.
        store = dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]
        store.set_timeout(timedelta(seconds=4 * beat))
        seen, moved, beats = -1, time.monotonic(), 0
        while not self._ended.wait(beat):
            if self._count != seen:
                seen, moved = self._count, time.monotonic()
            beats += 1
            try:
                store.set(_key(rank), json.dumps([self._count, beats, self._place, socket.gethostname()]))
                if time.monotonic() - moved > self.seconds and (said := self._verdict(store, beat)):
                    self._end(store, said)
            except RuntimeError as error:  # torch's errors of stores and networks
                if not self._ended.is_set():
                    self._end(store, f"process 0, whose store the others meet in, does not answer ({error})")

    def _verdict(self, store: Store, beat: float) -> str | None:
        """Which process the others wait for; None where things move after all."""
        before = _marks(store)
        store.set(_key(dist.get_rank()), json.dumps([self._count, -1, self._place, socket.gethostname()]))
        if self._ended.wait(3 * beat):
            return None
        after = _marks(store)
        counts = [count for count, *_ in after]
        if counts != [count for count, *_ in before]:
            return None
        silent = [rank for rank, (old, new) in enumerate(zip(before, after, strict=True)) if old[1] == new[1] != -1]
        rank = silent[0] if silent else counts.index(min(counts))
        _, _, place, host = after[rank]
        if silent:
            how = "does not answer"
        elif min(counts) == max(counts):
            return f"all {len(counts)} processes have been waiting in {place} for {self.seconds / 60:.3g} min"
        else:
            how = "is behind the others, which wait for it"
        return f"process {rank} on {host} hangs in {place}: it {how}, for {self.seconds / 60:.3g} min now"

    def _end(self, store: Store, said: str) -> None:
        try:
            first = store.add("watch/said", 1) == 1
        except RuntimeError:
            first = dist.get_rank() == 1
        if first:
            print(f"mgl: {said}; the run ends here, `make resume` goes on from its last checkpoint", file=sys.stderr)
            sys.stderr.flush()
        else:
            time.sleep(2)  # who says it must not be ended, as the rest of a job whose process failed, before it has
        os._exit(1)


def _key(rank: int) -> str:
    return f"watch/{rank}"


def _marks(store: Store) -> list[list[Any]]:
    """Of every process: how far it is, its signs of life, where, on which machine."""
    return [json.loads(mark) for mark in store.multi_get([_key(rank) for rank in range(world_size())])]
