"""Training, killed: ``mgl fit`` and ``mgl resume`` in a process, and ``mgl train`` under torchrun in two."""

import shlex
import zipfile
from pathlib import Path
from typing import Any

from experiments.benchmarks.kill_subject import Subject, differ, text_of
from experiments.benchmarks.sample_log import log_faults, log_of, logged_steps
from experiments.cli import CHECKPOINTS, LAST, MODEL
from lightning_modules.model_folders import CONFIG, WEIGHTS

_STEPS, _CHECKPOINT_STEPS = 40, 5


class Training(Subject):
    """``mgl fit`` on the token store, then ``mgl resume``, in ``processes``.

    Args:
        folder: for the runs.
        seed: of the run.
        tokens: whose undisturbed store and codec it trains on.
    """

    what, unit, total = "training", "steps", _STEPS
    weight = 2
    processes = 1

    def __init__(self, folder: Path, seed: int, tokens: Path) -> None:
        super().__init__(folder, seed)
        self.tokens = tokens

    def prepare(self) -> None:
        """The store is there already."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def command(self, out: Path) -> list[str]:
        """``fit`` until there is a checkpoint."""
        if (out / CHECKPOINTS / LAST).exists():
            return ["resume", "--run", str(out)]
        layers = ["lm", "size/nano", "conditioning/bytes", "cluster/cpu", "demo/lm"]
        options = {
            "--run": out,
            "--seed_everything": self.seed,
            "--data.init_args.seed": self.seed,
            "--data.init_args.store": self.tokens / "whole",
            "--model.init_args.codec": self.tokens / "codec",
            "--model.init_args.seed": self.seed,
            "--model.init_args.lm.entries": 64,
            "--trainer.val_check_interval": _STEPS // 2,
            **self.options(out),
        }
        return ["fit", *(word for layer in layers for word in ("-c", layer)), *_words(options)]

    def options(self, out: Path) -> dict[str, Any]:
        """Of ``mgl fit``, that make it a short run that tells of its steps."""
        return {
            "--data.init_args.seconds": 5.0,
            "--data.init_args.valid_items": 4,
            "--trainer.max_steps": _STEPS,
            "--checkpoint.every_n_train_steps": _CHECKPOINT_STEPS,
            "--trainer.callbacks+": "experiments.benchmarks.sample_log.SampleLog",
            "--trainer.callbacks.path": out.with_suffix(".log"),
        }

    def done(self, out: Path) -> dict[str, Any]:
        """Steps in the first process's log, and samples and losses of each."""
        return {str(step): made for step, made in logged_steps(text_of(out.with_suffix(".log")))}

    def lost(self, before: dict[str, Any], out: Path, said: str | None) -> list[str]:
        """Steps that a log leaves out, or that were made again of other samples or with another loss."""
        faults = []
        for rank in range(self.processes):
            log, undisturbed = (log_of(run.with_suffix(".log"), rank) for run in (out, out.with_name("whole")))
            faults += log_faults(text_of(log), undisturbed.read_text(encoding="ascii"))
        return faults if said is not None else [fault for fault in faults if not fault.endswith("is missing")]

    def half_written(self, out: Path, whole: Path) -> list[str]:
        """Checkpoints that cannot be read, and files of the model that are not those of the undisturbed run."""
        wrong = [path.name for path in (out / CHECKPOINTS).glob("*.ckpt") if not _loads(path)]
        files = [path.relative_to(out) for path in (out / MODEL).rglob(WEIGHTS)]
        return wrong + [str(name) for name in files if differ(out / name, whole / name)]

    def differing(self, out: Path, whole: Path) -> list[str]:
        """The model that training ends in, byte for byte."""
        names = [path.relative_to(whole) for name in (WEIGHTS, CONFIG) for path in (whole / MODEL).rglob(name)]
        assert names, f"{whole / MODEL} holds no model"
        return [str(name) for name in names if differ(out / name, whole / name)]


class TrainingOfTwo(Training):
    """``mgl train`` under torchrun: two processes that add up their gradients with gloo."""

    what, processes, relaunched = "torchrun", 2, True

    def command(self, out: Path) -> list[str]:
        """The same whether it begins or goes on; two micro-batches a step."""
        options = {
            "--trainer.devices": self.processes,
            "--trainer.strategy": "ddp",
            "--data.init_args.batch_size": 1,
            "--trainer.accumulate_grad_batches": 2,
            **self.options(out),
        }
        further = ["-c", "cluster/cpu", "-c", "demo/lm", "--model.init_args.lm.entries=64", *_words(options)]
        return [
            "train", "--cluster=torchrun", "--size=nano", "--text=bytes", f"--data={self.tokens / 'whole'}",
            f"--codec={self.tokens / 'codec'}", f"--seed={self.seed}", f"--run={out}", f"--args={shlex.join(further)}",
        ]  # fmt: skip


def _words(options: dict[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in options.items()]


def _loads(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes a zip, with a checksum for each of its files
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False
