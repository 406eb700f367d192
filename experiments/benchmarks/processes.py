"""``mgl bench processes``: what two processes train beside what one does, with copies of the model and with shards.

The same store, seed and batch, halved between two processes that add up with gloo; ``mgl fit`` as a user has it, with
gradients clipped by their norm and an average of the weights, on one thread each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from safetensors.torch import load_file

from experiments.benchmarks.kill_processes import Run
from experiments.benchmarks.measuring import Row
from experiments.benchmarks.sample_log import log_of, logged_steps
from experiments.benchmarks.train_runs import write_material
from experiments.cli import MODEL
from lightning_modules.model_folders import WEIGHTS

STEPS, _QUICK, _CROPS, _SECONDS = 20, 3, 4, 2.0
_CODEBOOKS, _ENTRIES, _FRAME_RATE = 4, 1024, 50
# name: (processes, layer of the cluster, what else is asked for)
LAYOUTS: Mapping[str, tuple[int, str, Mapping[str, Any]]] = {
    "one process": (1, "cluster/cpu", {}),
    "two with copies (DDP)": (2, "cluster/cpu", {"--trainer.devices": 2, "--trainer.strategy": "ddp"}),
    "two with shards (FSDP2)": (2, "cluster/sharded_cpu", {}),
}


@dataclass(frozen=True)
class Trained:
    """What a run has done.

    Attributes:
        samples: numbers of the samples of each step, of all processes.
        losses: of each step, the mean of the processes'.
        weights: the averaged ones that it ends in, by name.
    """

    samples: list[list[int]]
    losses: list[float]
    weights: Mapping[str, Any]


def process_rows(folder: Path, quick: bool = False, say: Callable[[str], object] = lambda text: None) -> list[Row]:
    """Trains in every layout and compares.

    Args:
        folder: for the runs, some 100 MB; empty.
        quick: 3 steps in place of 20.
        say: is told what is being done.
    """
    steps = _QUICK if quick else STEPS
    write_material(folder, frames=round(_SECONDS * _FRAME_RATE), codebooks=_CODEBOOKS, entries=_ENTRIES)
    made = {}
    for number, layout in enumerate(LAYOUTS):
        say(f"processes: {layout}, {steps} steps")
        made[layout] = _trained(folder, f"run{number}", layout, steps)
    (_, one), *others = made.items()
    return [row for layout, two in others for row in rows_of(layout, one, two)]


def rows_of(layout: str, one: Trained, two: Trained) -> list[Row]:
    """Two processes beside one."""
    same = sum(sorted(ours) == sorted(theirs) for ours, theirs in zip(two.samples, one.samples, strict=True))
    losses = max(abs(ours - theirs) for ours, theirs in zip(two.losses, one.losses, strict=True))
    assert two.weights.keys() == one.weights.keys(), "the models have other tensors"
    apart = max(float((two.weights[name] - tensor).abs().max()) for name, tensor in one.weights.items())
    count = len(one.samples)
    return [
        Row(f"{layout}: steps of the same samples, of {count}", "steps", same, wanted=f"{count}"),
        Row("their losses, largest difference", "1e-6 nats", 1e6 * losses, wanted="< 10", small_is_good=True),
        Row("averaged weights at the end, largest difference", "1e-6", 1e6 * apart, small_is_good=True),
    ]


def _trained(folder: Path, name: str, layout: str, steps: int) -> Trained:
    processes, cluster, more = LAYOUTS[layout]
    run, log = folder / name, folder / f"{name}.log"
    layers = ["lm", "size/nano", "pattern/delay", "conditioning/bytes", cluster]
    options = {
        "--run": run,
        "--data.init_args.store": folder / "tokens",
        "--data.init_args.seconds": _SECONDS,
        "--data.init_args.batch_size": _CROPS // processes,
        "--model.init_args.codec": folder / "codec",
        "--model.init_args.lm.entries": _ENTRIES,
        "--trainer.max_steps": steps,
        "--trainer.limit_val_batches": 0,
        "--trainer.num_sanity_val_steps": 0,
        "--model.init_args.optim.warmup_steps": 0,
        "--average.every": 1,
        "--average.decay": 0.5,
        "--trainer.callbacks+": "experiments.benchmarks.sample_log.SampleLog",
        "--trainer.callbacks.path": log,
        **more,
    }
    words = [word for layer in layers for word in ("-c", layer)]
    Run(["fit", *words, *(f"{option}={value}" for option, value in options.items())]).finish()
    logs = [dict(logged_steps(log_of(log, rank).read_text("ascii"))) for rank in range(processes)]
    parts = [[one[step].split("|") for one in logs] for step in sorted(logs[0])]
    return Trained(
        [[int(number) for samples, _ in ranks for number in samples.split()] for ranks in parts],
        [fmean(float.fromhex(loss) for _, losses in ranks for loss in losses.split()) for ranks in parts],
        load_file(run / MODEL / WEIGHTS),
    )
