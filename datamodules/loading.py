"""What the datamodules share: numbered samples, sharded by rank, and an exact, elastic resume."""

import multiprocessing
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.sample_order import NumberSampler


class NumberedDataModule(LightningDataModule):
    """A datamodule whose training samples are numbered 0, 1, 2, ... without end.

    The n-th sample is a pure function of (seed, n), so the whole state of the loader is one integer: how many samples
    the finished optimiser steps have consumed. A resumed run goes on at the next one, with any number of workers,
    ranks, and any batch size.

    Args:
        batch_size: items a micro-batch and device.
        workers: loader processes a device; 0 loads in the training process.
        seed: the run's seed for everything drawn here.
        valid_items: fixed validation samples, drawn once for all.
    """

    def __init__(self, batch_size: int, workers: int, seed: int, valid_items: int) -> None:
        super().__init__()
        self.batch_size, self.workers, self.seed, self.valid_items = batch_size, workers, seed, valid_items
        self._start_sample = 0
        self._start_step = 0

    @abstractmethod
    def samples(self, split: str, seed: int) -> Dataset[Any]:
        """The numbered samples of a split: a map-style dataset that takes any non-negative number."""

    @property
    @abstractmethod
    def collate(self) -> Callable[[list[Any]], Any]:
        """Joins samples into a batch."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Endless; begins at the first sample that no finished optimiser step has seen."""
        trainer = self._trainer()
        self._start_step = trainer.global_step
        sampler = NumberSampler(self._start_sample, trainer.global_rank, trainer.world_size)
        return self._loader(self.samples("train", self.seed), sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        """The same ``valid_items`` samples at every validation, dealt out over ranks."""
        trainer = self._trainer()
        numbers = range(trainer.global_rank, self.valid_items, trainer.world_size)
        # A seed of its own, fixed: two runs with different seeds are validated on the same samples.
        return self._loader(self.samples("valid", 0), numbers)

    def state_dict(self) -> dict[str, int]:
        """How many samples the finished optimiser steps have consumed, over all ranks."""
        trainer = self._trainer()
        steps = trainer.global_step - self._start_step
        per_step = self.batch_size * trainer.accumulate_grad_batches * trainer.world_size
        return {"consumed": self._start_sample + steps * per_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on after ``consumed`` samples."""
        self._start_sample = state_dict["consumed"]

    def _trainer(self) -> Any:
        assert self.trainer is not None, "a datamodule gives loaders only to a trainer"
        return self.trainer

    def _loader(self, dataset: Dataset[Any], numbers: NumberSampler | Sequence[int]) -> DataLoader[Any]:
        context = None
        if self.workers:
            context = multiprocessing.get_context("forkserver")
            # Imported once in the server that workers are forked from, not once a worker.
            context.set_forkserver_preload([type(self).__module__])
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=numbers,
            num_workers=self.workers,
            collate_fn=self.collate,
            persistent_workers=self.workers > 0,
            multiprocessing_context=context,
        )
