"""Samples and scores of a run from the outside, checkpoint by checkpoint."""

import json
import time
from pathlib import Path

from lightning.pytorch.loggers import Logger

from datamodules.errors import InputError
from experiments.callbacks.model_folder import RECORD
from experiments.callbacks.samples import RESULTS, SAMPLES, Samples
from experiments.cli import MODEL
from experiments.loggers import run_logger
from experiments.runs import Run, restore
from lightning_modules.checkpoints import load_model
from lightning_modules.generation.model import MusicModel
from lightning_modules.lm.training import LanguageModelTraining


class RunScoring:
    """Does for a run what ``Samples`` does within it.

    Args:
        run: its folder.
        prompts: evaluation set; "" for the run's own.
        judge: who listens; None for the run's own.
        device: where to generate and to listen.

    Raises:
        InputError: no run, one of no language model, no evaluation set, or no judge.
    """

    def __init__(self, run: str | Path, prompts: str, judge: str | dict[str, str] | None, device: str) -> None:
        self.run, self.device = Run(run), device
        module, self._callbacks = self.run.composed()
        if not isinstance(module, LanguageModelTraining):
            raise InputError(f"{run}: is the run of a {type(module).__name__}, which generates nothing")
        self._module = module
        self.samples = next(callback for callback in self._callbacks if isinstance(callback, Samples))
        self.samples.prompts = prompts or self.samples.prompts
        self.samples.judge = judge or self.samples.judge
        self.samples.check()
        self._loggers: list[Logger] = []

    @property
    def ended(self) -> bool:
        """Whether the run has its model."""
        return (self._model / RECORD).is_file()

    @property
    def quiet_hours(self) -> float:
        """Hours since anything was written into the run's folder, its samples apart."""
        samples = self.run.folder / SAMPLES
        files = (file for file in self.run.folder.rglob("*") if samples not in file.parents and file.is_file())
        return (time.time() - max(file.stat().st_mtime for file in files)) / 3600

    @property
    def _model(self) -> Path:
        return self.run.folder / MODEL

    def score(self) -> list[int]:
        """Scores what is new; the steps."""
        scored = []
        for step, checkpoint in self.run.checkpoints().items():
            if self._is_scored(step):
                continue
            try:
                _, average = restore(self._module, self._callbacks, checkpoint)
            except FileNotFoundError:
                continue  # pruned meanwhile: a newer one is there
            self._module.to(self.device).eval()
            self._module.conditioners.to(self.device).eval()
            with average.applied(self._module):
                self._make(step, self._module.music_model(f"{self.run.folder.name}@{step}"))
            scored.append(step)
        if self.ended:
            step = json.loads((self._model / RECORD).read_text(encoding="utf-8"))["steps"]
            if not self._is_scored(step):
                self._make(step, load_model(self._model, self.device))
                scored.append(step)
        return scored

    def _is_scored(self, step: int) -> bool:
        return (self.run.folder / SAMPLES / f"step-{step}" / RESULTS).is_file()

    def _make(self, step: int, model: MusicModel) -> None:
        if not self._loggers:  # not before there is something to log
            self._loggers = [run_logger(self.run.folder / SAMPLES, self.run.config.get("logger", "tensorboard"))]
        self.samples.make(model, step, self.run.folder, self._loggers)
