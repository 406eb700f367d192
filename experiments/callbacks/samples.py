"""Fixed prompts at a fixed seed through the averaged weights, every so many steps: heard, seen and scored."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from datamodules.audio_io import read_audio
from datamodules.errors import InputError
from datamodules.manifest import Track, manifest_path, read_manifest
from experiments.callbacks.speed import speed_of
from experiments.console import require_folder
from experiments.jobs import Options, generate_clips
from experiments.pictures import PICTURE_RATE, chromagrams
from experiments.prompts import Prompt, read_prompts
from lightning_modules.callbacks import WeightAverage
from lightning_modules.codec.listening import spectrograms
from lightning_modules.generation.model import MusicModel
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.media_log import log_audio, log_picture, media_folder

SAMPLES = "samples"
RESULTS = "results.json"


class Samples(Callback):
    """Generates the prompts of an evaluation set, and scores them against its recordings as ``mgl evaluate`` does.

    Clips go into ``RUN/samples/step-N/``, with ``manifest.jsonl``, ``system.json`` and ``results.json``. The loggers
    get ``score/fad``, ``score/kld``, ``score/clap``, ``score/chroma`` and what else the protocol has, and of the first
    few prompts the sound, a spectrogram and a chromagram, each beside the recording's (left).

    The training does not notice: it has the same losses, to the last bit, as without. What cannot be generated or
    scored in mid-run is warned of. Process 0 does all of it and the others wait. Weights that are sharded it leaves
    alone, and says so; ``mgl score-run`` does the same from the outside, from checkpoints.

    Args:
        prompts: the evaluation set: a manifest as ``mgl eval-set`` writes it, or the folder it lies in. None for no
            samples.
        every: optimiser steps from one time to the next.
        duration: seconds of each clip.
        seed: of the clips, and of the intervals in ``results.json``.
        guidance: scale of classifier-free guidance, as for ``mgl generate``.
        protocol: what is measured and how, as for ``mgl evaluate``.
        judge: who listens in place of the protocol's judges, as for ``mgl evaluate``.
        shown: how many of the prompts the loggers get to hear and to see.
        batch_size: clips at once.
    """

    def __init__(
        self,
        prompts: str | None = None,
        every: int = 5000,
        duration: float = 10.0,
        seed: int = 0,
        guidance: float | dict[str, float] = 3.0,
        protocol: str = "default",
        judge: str | dict[str, str] | None = None,
        shown: int = 4,
        batch_size: int = 16,
    ) -> None:
        if every < 1 or shown < 0:
            raise InputError(f"samples: every={every}, shown={shown}; give 1 or more, and 0 or more")
        self.prompts, self.every, self.duration, self.seed = prompts, every, duration, seed
        self.protocol, self.judge, self.shown = protocol, judge, shown
        self.options = Options(guidance=guidance, batch_size=batch_size)
        self._seen_step = 0
        self._sharded = False
        self._references_are_there = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses before any work what would fail after the first ``every`` steps.

        Raises:
            InputError: the module is no language model, there is no such evaluation set, or no such judge.
        """
        if stage != "fit" or self.prompts is None:
            return
        if not isinstance(pl_module, LanguageModelTraining):
            raise InputError(f"samples: {type(pl_module).__name__} generates nothing; leave samples.prompts out")
        with isolate_rng():  # a judge draws its weights before it reads them
            self.check()

    def check(self) -> list[Prompt]:
        """The prompts.

        Raises:
            InputError: there is no such evaluation set, no such protocol, or no such judge.
        """
        from evaluation.judges.panel import name_judges, resolve_panel
        from evaluation.protocol import load_protocol

        if self.prompts is None:
            raise InputError("no prompts: name an evaluation set (`mgl eval-set` writes one)")
        read_manifest(self.prompts)  # with the recordings that the clips are scored against
        resolve_panel(name_judges(self.judge, load_protocol(self.protocol).judges))
        return read_prompts(manifest_path(self.prompts), self.duration, self.seed)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remembers where this run begins, and looks whether the weights are whole."""
        self._seen_step = trainer.global_step
        sharded = any(isinstance(parameter, DTensor) for parameter in pl_module.parameters())
        self._sharded = sharded or isinstance(trainer.strategy, FSDPStrategy)
        if self._sharded and self.prompts is not None and trainer.is_global_zero:
            outside = f"mgl score-run {_run(trainer)} --watch true"
            print(f"samples       none in this run, whose weights are sharded; beside it: {outside}", flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Samples after every ``every``-th optimiser step."""
        step = trainer.global_step
        if step == self._seen_step or step % self.every:
            return
        self._seen_step = step
        if self.prompts is None or self._sharded or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, LanguageModelTraining)
        with _training_set_aside(trainer, pl_module):
            try:
                self.make(pl_module.music_model(f"{_run(trainer).name}@{step}"), step, _run(trainer), trainer.loggers)
            except (InputError, torch.OutOfMemoryError) as error:
                rank_zero_warn(f"samples of step {step}: {error}; the training goes on without them")

    def make(self, model: MusicModel, step: int, run: Path, loggers: Sequence[Logger]) -> dict[str, float]:
        """Generates, scores and logs.

        Args:
            model: with the weights of ``step``.
            step: optimiser steps.
            run: the run's folder.
            loggers: where to log.

        Returns:
            The scores.

        Raises:
            InputError: a prompt that cannot be generated, or not one clip that could be scored.
        """
        from evaluation.runner import evaluate

        assert self.prompts is not None
        prompts = read_prompts(manifest_path(self.prompts), self.duration, self.seed)
        if model.conditioners.melody is None:
            prompts = [replace(prompt, melody=None) for prompt in prompts]
        folder = require_folder(run / SAMPLES / f"step-{step}")
        (folder / RESULTS).unlink(missing_ok=True)
        generate_clips(model, prompts, folder, self.options, str(run))
        self._show(folder, step, loggers)
        device = str(model.lm.embedding.weight.device)
        results = evaluate(
            folder, self.prompts, self.judge, folder / RESULTS, self.seed, protocol=self.protocol, device=device
        )
        metrics = results["metrics"].items()
        scores = {name: float(score["value"]) for name, score in metrics if score.get("value") is not None}
        for logger in loggers:
            logger.log_metrics({f"score/{name}": value for name, value in scores.items()}, step)
            logger.save()
        said = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        failed = f"; {len(results['failed'])} clips could not be scored" if results["failed"] else ""
        media = media_folder(loggers)
        also = f", sound and pictures of {self.shown} in {media}" if media is not None and self.shown else ""
        print(f"samples       step {step}: {said}{failed} ({folder}{also})", flush=True)
        return scores

    def _show(self, folder: Path, step: int, loggers: Sequence[Logger]) -> None:
        """Sound and pictures of the first few prompts."""
        assert self.prompts is not None
        recordings = {track.id: track for track in read_manifest(self.prompts)}
        for _, made in zip(range(self.shown), read_manifest(folder), strict=False):
            name, real = f"{SAMPLES}/{made.id}", recordings[made.id]
            pair = [_mono(track, made.duration) for track in (real, made)]
            if not self._references_are_there:
                log_audio(loggers, f"{name}/reference", pair[0][None], PICTURE_RATE, step)
            log_audio(loggers, f"{name}/generated", pair[1][None], PICTURE_RATE, step)
            log_picture(loggers, f"{name}/spectrogram", spectrograms(pair[0], pair[1], PICTURE_RATE), step)
            log_picture(loggers, f"{name}/chromagram", chromagrams(pair[0], pair[1]), step)
        self._references_are_there = True


def _mono(track: Track, seconds: float) -> Tensor:
    return read_audio(track.path, sample_rate=PICTURE_RATE, channels=1, duration=seconds)[0]


def _run(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir)


@contextmanager
def _training_set_aside(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Within it the module has its averaged weights and is in evaluation mode; afterwards all is as it was."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    average = next(callback for callback in callbacks if isinstance(callback, WeightAverage))
    speed = speed_of(trainer)
    paused = speed.paused() if speed is not None else nullcontext()
    with paused, _no_bar(trainer), isolate_rng(), _evaluating(module), average.applied(module):
        yield


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def _no_bar(trainer: Trainer) -> Iterator[None]:
    """Generating has a bar of its own."""
    bar = trainer.progress_bar_callback
    progress = bar.progress if isinstance(bar, RichProgressBar) and bar.is_enabled else None
    if progress is not None:
        progress.stop()
    try:
        yield
    finally:
        if progress is not None:
            progress.start()
