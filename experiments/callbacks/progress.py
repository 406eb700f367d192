"""What a training says while it runs: a bar on a terminal, a line now and then in a log."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import BatchesProcessedColumn
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from experiments.callbacks.speed import speed_of
from experiments.console import in_words
from lightning_modules.lm.training import LanguageModelTraining

_PAUSE = 0.5  # seconds between two looks at the losses, each of which waits for the GPU


class TrainingBar(RichProgressBar):
    """Lightning's bar, in optimiser steps, with the cross-entropy of each codebook, tokens/s, MFU and the time left."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=4, console_kwargs={"stderr": True})
        self._looked = 0.0

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """The bar, how many steps of how many, and for how long; Lightning adds ``get_metrics`` to them."""
        return [TextColumn("{task.description}"), BarColumn(20), BatchesProcessedColumn(""), TimeElapsedColumn()]

    @property
    def total_train_batches(self) -> int | float:
        """Optimiser steps of the run; Lightning would count micro-batches, which have no end here."""
        return self.trainer.max_steps if self.trainer.max_steps > 0 else float("inf")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar."""
        if self.is_enabled and self.train_progress_bar_id is None:
            self._initialize_train_progress_bar_id()  # a run that was resumed
        self._update(self.train_progress_bar_id, trainer.global_step)
        if time.monotonic() - self._looked > _PAUSE:
            self._looked = time.monotonic()
            self._update_metrics(trainer, pl_module)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What is said beside the bar, by headings."""
        other = {} if isinstance(pl_module, LanguageModelTraining) else super().get_metrics(trainer, pl_module)
        other.pop("v_num", None)
        # A narrow terminal breaks between headings, not within.
        return {**other, **{name: text.replace(" ", "\u00a0") for name, text in said(trainer).items()}}

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"


class LineProgress(Callback):
    """Says what the first micro-batch gave and how long a step will take; then, in a log, a line now and then.

    Args:
        seconds: at least so long between two lines.
    """

    def __init__(self, seconds: float = 15.0) -> None:
        self.seconds = seconds
        self._said = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints when it is time to."""
        now = time.monotonic()
        if not trainer.is_global_zero or (self._said and now - self._said < self.seconds):
            return
        self._said = now
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        total = f" of {trainer.max_steps}" if trainer.max_steps > 0 else ""
        micro = ""
        if trainer.accumulate_grad_batches > 1:
            place = batch_idx % trainer.accumulate_grad_batches + 1
            micro = f", micro-batch {place} of {trainer.accumulate_grad_batches}"
        more = "".join(f", {name} {text}" for name, text in said(trainer).items())
        print(f"step {trainer.global_step}{total}{micro}: loss {loss:.4f}{more}", flush=True)


def said(trainer: Trainer) -> dict[str, str]:
    """How the training goes, by headings: ``ce`` of each codebook, ``tokens/s``, ``MFU``, ``a step``, ``left``.

    Those of them that there are. Losses are of the last micro-batch.
    """
    values, found = trainer.callback_metrics, {}
    books = sorted((name for name in values if name.startswith("train/ce_")), key=lambda name: int(name[9:]))
    if books:
        found["ce"] = " ".join(f"{float(values[name]):.2f}" for name in books)
    speed = speed_of(trainer)
    figures = speed.figures(trainer) if speed is not None else {}
    if "tokens_per_second" in figures:
        found["tokens/s"] = f"{figures['tokens_per_second']:,.0f}"
    if "mfu" in figures:
        found["MFU"] = f"{100 * figures['mfu']:.1f} %"
    if "seconds_per_step" in figures:
        found["a step"] = in_words(figures["seconds_per_step"])
        if trainer.max_steps > 0:
            found["left"] = in_words(figures["seconds_per_step"] * (trainer.max_steps - trainer.global_step))
    return found
