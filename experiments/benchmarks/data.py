"""``mgl bench data``: crops, token windows, scale, and training that waits for its data or does not.

Shape letters: B items, C channels, N samples, K codebooks, T frames.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from itertools import count, cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample

from datamodules.audio_io import read_audio
from datamodules.batches import TokenBatch
from datamodules.sample_order import uniform
from datamodules.tokens import Collate, TokenDataModule, TokenDataset
from datamodules.tokens.store import TokenStore
from experiments.benchmarks.borders import border_rows
from experiments.benchmarks.made_up import FRAME_RATE, RATE, write_store, write_tracks
from experiments.benchmarks.measuring import Row, rates
from experiments.benchmarks.scale import mapped_slices, memory_rows, scale_rows

SECONDS = 30  # of a crop and of a window
_RATE = 32000  # Hz of a crop
_FORMATS = {"mp3": "MP3", "ogg": "Vorbis", "flac": "FLAC"}
_WANTED = {"mp3": "ratio >= 6", "ogg": "ratio >= 8", "flac": "ratio >= 8"}
_BATCH = 6


def data_rows(repeats: int, quick: bool = False, say: Callable[[str], object] = lambda text: None) -> list[Row]:
    """Everything `mgl bench data` measures.

    Args:
        repeats: turns of the interleaved functions.
        quick: a tenth of the work: the figures mean little.
        say: is told what is being done.
    """
    rows = []
    with TemporaryDirectory(prefix="mgl-bench-") as made:
        folder = Path(made)
        say("crops: writing tracks")
        long, middle = (60, 40) if quick else (600, 240)
        write_tracks(folder / "tracks", (long, middle, SECONDS), list(_FORMATS))
        for seconds in (long, middle):
            say(f"crops of {seconds} s tracks")
            rows += crop_rows(folder / "tracks", seconds, repeats)
        say("token windows")
        lengths = np.random.default_rng(0).integers(6000, 18000, 500 if quick else 5000)
        write_store(folder / "store", lengths, shards=8)
        rows += window_rows(folder / "store", repeats, 240 if quick else 2400)
        rows += memory_rows(folder / "store", 4000 if quick else 40_000)
        say("scale")
        rows += scale_rows(folder / "scale", repeats, quick)
        say("training")
        rows += training_rows(folder / "store", *((40, 10) if quick else (500, 50)))
        say("borders")
        rows += border_rows(quick, say=say)
    return rows


def crop_rows(folder: Path, seconds: int, repeats: int) -> list[Row]:
    """Random crops of ``<seconds>.<suffix>``, a second of one core: as mono at 32 kHz.

    The peer decodes the whole track, then crops, mixes and resamples the crop. The floor decodes a file that is just as
    long as the crop, mixes and resamples it.
    """
    rows, resample = [], Resample(RATE, _RATE)
    for suffix, name in _FORMATS.items():
        track, short = folder / f"{seconds}.{suffix}", folder / f"{SECONDS}.{suffix}"
        measured = rates(
            {
                "ours": _each(seconds, lambda start, track=track: _ranged(track, start)),
                "peer": _each(seconds, lambda start, track=track: whole_then_crop(track, start, resample)),
                "floor": _each(SECONDS, lambda start, short=short: whole_then_crop(short, start, resample)),
            },
            repeats,
        )
        wanted = _WANTED[suffix] if seconds >= 600 else ""
        what = f"{SECONDS} s crops of {seconds} s {name}"
        rows.append(Row(what, "crops/core s", measured["ours"], measured["peer"], measured["floor"], wanted))
    return rows


def _ranged(path: Path, start: float) -> Tensor:
    return read_audio(path, sample_rate=_RATE, channels=1, start=start, duration=SECONDS)


def whole_then_crop(path: Path, start: float, resample: Resample) -> Tensor:
    """A crop [1, N], by way of all samples of the track."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    begin = round(start * rate)
    return resample(torch.from_numpy(samples[begin : begin + SECONDS * rate].T).mean(0, keepdim=True))


def _each(seconds: int, read: Callable[..., Tensor]) -> Callable[[], int]:
    """One random crop a call; the same ones for everybody."""
    numbers = count()

    def once() -> int:
        start = round(uniform(0, next(numbers), "bench") * (seconds - SECONDS), 2)
        assert read(start).shape == (1, SECONDS * _RATE)
        return 1

    return once


def window_rows(store: Path, repeats: int, windows: int) -> list[Row]:
    """Random windows in batches, a second of one core; the floor copies them from mapped shards, places known."""
    opened = TokenStore(str(store))
    frames = round(SECONDS * FRAME_RATE)
    dataset = TokenDataset(opened, "train", frames, seed=0)
    collate = Collate(frames, opened.header.chroma_frames(frames))
    slices = mapped_slices(dataset, range(windows))

    def ours() -> int:
        for first in range(0, windows, _BATCH):
            collate([dataset[number] for number in range(first, first + _BATCH)])
        return windows

    def floor() -> int:
        for codes in slices:
            codes.astype(np.int64)
        return windows

    measured = rates({"ours": ours, "floor": floor}, repeats)
    name = f"{SECONDS} s token windows, in batches of {_BATCH}"
    return [Row(name, "windows/core s", measured["ours"], floor=measured["floor"], wanted=">= 5,000")]


def training_rows(store: Path, steps: int, chunk: int) -> list[Row]:
    """Optimiser steps on a store, with and without loader processes, and on the same batches kept in memory.

    Three models take turns of ``chunk`` steps, in seconds of the clock; all are trained on the same samples, so their
    losses must be equal.

    Args:
        store: a store of the demo's shape.
        steps: of each model.
        chunk: steps a turn.
    """
    total = steps + chunk  # the first turn warms up
    with warnings.catch_warnings():
        # Lightning's, that there is no trainer to log to.
        warnings.simplefilter("ignore")
        kept = [batch for _, batch in zip(range(total), _batches(store, 0), strict=False)]
        runs = {
            "memory": Training(cycle(kept), total),
            "0 workers": Training(_batches(store, 0), total),
            "2 workers": Training(_batches(store, 2), total),
        }
        turns: dict[str, Callable[[], int]] = {
            name: lambda run=run: run.steps(chunk)  # type: ignore[misc]
            for name, run in runs.items()
        }
        measured = rates(turns, steps // chunk, time.perf_counter)
    assert len({tuple(run.losses) for run in runs.values()}) == 1, "the same batches gave different losses"
    return [
        Row(
            f"{steps} training steps on a store, {name}; peer: the same batches in memory",
            "steps/s",
            measured[name],
            measured["memory"],
            wanted="ratio >= 0.95",
        )
        for name in ("0 workers", "2 workers")
    ]


class Training:
    """The demo's smallest language model in training.

    Attributes:
        losses: of every step so far.
    """

    def __init__(self, batches: Iterator[TokenBatch], max_steps: int) -> None:
        from experiments.compose import merged
        from lightning_modules.conditioning.text import TextEncoderConfig
        from lightning_modules.lm.model import LanguageModelConfig
        from lightning_modules.lm.training import LanguageModelTraining
        from lightning_modules.optim import OptimConfig, scheduled

        layers = ["lm", "size/nano", "pattern/delay", "conditioning/bytes", "demo/lm"]
        options = merged(layers)["model"]["init_args"]
        optim = OptimConfig(**options["optim"])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.module = LanguageModelTraining(
                lm=LanguageModelConfig(**options["lm"]),
                text=TextEncoderConfig(**options["text"]),
                optim=optim,
                condition_dropout=options["condition_dropout"],
            )
        made = scheduled(self.module.parameters(), optim, max_steps)
        self.optimizer, self.schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
        self.batches = batches
        self.losses: list[float] = []

    def steps(self, number: int) -> int:
        """Does so many optimiser steps."""
        for _ in range(number):
            loss = self.module.training_step(next(self.batches), 0)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.losses.append(loss.item())
        return number


def _batches(store: Path, workers: int) -> Iterator[TokenBatch]:
    """The training batches of the demo: windows of 5 s, 4 a batch."""
    module = TokenDataModule(str(store), seconds=5.0, batch_size=4, workers=workers)
    trainer: Any = SimpleNamespace(global_step=0, global_rank=0, world_size=1)
    module.trainer = trainer
    return iter(module.train_dataloader())
