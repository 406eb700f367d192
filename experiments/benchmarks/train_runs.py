"""Steps of ``mgl fit`` as a user has them: a token store, a log, an average of the weights and a checkpoint."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.tokens.format import write_index
from datamodules.tokens.store import TokenStore
from experiments.benchmarks.made_up import write_store
from experiments.benchmarks.train_step import Work
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.folder import codec_checksum, save_codec

_TRACKS = 400


@dataclass(frozen=True)
class Rate:
    """How fast a run went.

    Attributes:
        crops: a second, with everything that happens at steps but checkpoints, the first quarter of the steps left out.
        checkpoint: seconds that writing one took.
    """

    crops: float
    checkpoint: float


class StepClock(Callback):
    """Writes down when each micro-batch was done.

    Args:
        path: file for the moments, in seconds.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.moments: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the moment; the run's guards wait for the device at every optimiser step."""
        self.moments.append(time.monotonic())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes."""
        self.path.write_text(json.dumps(self.moments), encoding="ascii")


def run_rate(work: Work, steps: int, device: torch.device) -> Rate:
    """Trains a few steps with ``mgl fit``, in this process, in a folder that is gone afterwards.

    The recipe's layers but for a byte-level text encoder that learns along, no validation, and one device without DDP.

    Args:
        work: size, micro-batches, and whether blocks are compiled.
        steps: of the optimiser, 8 or more.
        device: where.
    """
    from experiments.__main__ import run

    with TemporaryDirectory(prefix="mgl-bench-") as folder:
        lm = work.planned.lm
        write_material(Path(folder), frames=work.planned.frames, codebooks=lm.codebooks, entries=lm.entries)
        saved = steps * 3 // 4
        name, *arguments = fit_command(Path(folder), work, steps, saved, device)
        run(name, arguments)
        moments = json.loads((Path(folder) / "moments.json").read_text(encoding="ascii"))
    return rate(moments, work, saved)


def rate(moments: list[float], work: Work, saved: int) -> Rate:
    """Of the moments at which micro-batches were done, a checkpoint being written after step ``saved``."""
    taken = np.diff(moments)
    place, first = saved * work.deal.accumulate - 1, len(moments) // 4
    usual = float(np.delete(taken, place)[first:].mean())
    return Rate(work.deal.batch / usual, float(taken[place]) - usual)


def write_material(folder: Path, *, frames: int, codebooks: int, entries: int) -> None:
    """Writes a codec of random weights and a store of random tokens that says they are its, for crops of ``frames``."""
    codec = EnCodec(CodecConfig(filters=4, dim=8, lstm_layers=0, codebooks=codebooks, entries=entries))
    save_codec(folder / "codec", codec)
    lengths = np.random.default_rng(0).integers(frames, 3 * frames, _TRACKS)
    write_store(folder / "tokens", lengths, shards=2)
    header = TokenStore(folder / "tokens").header
    write_index(folder / "tokens", replace(header, codec=codec_checksum(str(folder / "codec")), entries=entries))


def fit_command(folder: Path, work: Work, steps: int, saved: int, device: torch.device) -> list[str]:
    """What follows ``mgl``."""
    cuda = device.type == "cuda"
    layers = ["lm", f"size/{work.size}", "pattern/delay", "conditioning/bytes", "captions/paper", "cluster/gpus"]
    options = {
        "--run": folder / "run",
        "--data.init_args.store": folder / "tokens",
        "--data.init_args.seconds": work.planned.frames / work.planned.codec.frame_rate,
        "--data.init_args.batch_size": work.deal.batch,
        "--data.init_args.workers": 4 if cuda else 0,
        "--model.init_args.codec": folder / "codec",
        "--model.init_args.compiled": str(work.compiled).lower(),
        "--trainer.accelerator": "gpu" if cuda else "cpu",
        "--trainer.devices": 1,
        "--trainer.strategy": "auto",
        "--trainer.max_steps": steps,
        "--trainer.accumulate_grad_batches": work.deal.accumulate,
        "--trainer.num_sanity_val_steps": 0,
        "--trainer.limit_val_batches": 0,
        "--checkpoint.every_n_train_steps": saved,
        "--checkpoint.save_top_k": 0,
        "--trainer.callbacks+": "experiments.benchmarks.train_runs.StepClock",
        "--trainer.callbacks.path": folder / "moments.json",
    }
    named = [word for layer in layers for word in ("-c", layer)]
    return ["fit", *named, *(f"{name}={value}" for name, value in options.items())]
