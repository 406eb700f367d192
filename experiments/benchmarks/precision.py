r"""Losses of one training in several precisions, side by side: the paper found bfloat16 unstable (section 3.1).

A run for each precision, all with the same seed on the same tokens, each a process of its own::

    for P in 32-true bf16-mixed 16-mixed; do
        mgl fit -c lm -c size/nano -c conditioning/bytes -c cluster/gpus -c demo/lm -c logger/csv \
            --run runs/precision/$P --trainer.precision $P --trainer.max_steps 2000 \
            --data.init_args.store data/tokens --model.init_args.codec embedded &
    done; wait
    python -m experiments.benchmarks.precision runs/precision/* --out precision

``precision.json`` then has the curves, and ``precision.png`` shows them.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import InputError
from datamodules.whole_files import write_whole

# What is read of a log, and what it is called in the picture.
_SCALARS = {"train/ce": "cross-entropy, nats a code", "grad/all": "norm of the gradient, before clipping"}
_SCALE = "optim/loss_scale"
_LOG, _CONFIG = "metrics.csv", "config.yaml"

Curves = dict[str, dict[str, list[tuple[int, float]]]]


def precision(runs: list[str], out: str = "precision") -> None:
    """Puts the curves of runs side by side: ``[step, value]``, null where a value is not finite.

    Args:
        runs: folders of runs that logged with ``logger/csv``, each of another precision.
        out: the files' name without its end.

    Raises:
        InputError: a folder is no run's or has no curves in its log, or two are of one precision.
    """
    curves: Curves = {}
    for run in runs:
        name = run_precision(Path(run))
        if name in curves:
            raise InputError(f"{run}: is a second run in {name}; give one of each precision")
        curves[name] = read_curves(Path(run) / _LOG)
    found = differences(curves)
    record = {"runs": runs, "curves": _finite(curves), "differences": _finite(found)}
    write_whole(Path(f"{out}.json"), (json.dumps(record, allow_nan=False) + "\n").encode())
    draw(curves, Path(f"{out}.png"))
    for name, figures in found.items():
        print(f"{name}: " + ", ".join(f"{what} {value:.5g}" for what, value in figures.items()))
    print(f"wrote {out}.json and {out}.png")


def run_precision(run: Path) -> str:
    """Of a run's trainer.

    Raises:
        InputError: the folder is no run's.
    """
    if not (run / _CONFIG).is_file():
        raise InputError(f"{run}: is no run ({_CONFIG} is missing)")
    config = yaml.safe_load((run / _CONFIG).read_text(encoding="utf-8"))
    return str(config["trainer"].get("precision") or "32-true")


def read_curves(log: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars of a ``metrics.csv``: (step, value) in the order of steps; a value that is not finite is one too.

    Raises:
        InputError: there is no such file, or it has no losses.
    """
    if not log.is_file():
        raise InputError(f"{log}: is not there; log with -c logger/csv")
    found: dict[str, list[tuple[int, float]]] = {}
    with log.open(newline="") as file:
        for row in csv.DictReader(file):
            for name in (*_SCALARS, _SCALE):
                if row.get(name):
                    found.setdefault(name, []).append((int(row["step"]) + 1, float(row[name])))
    if not set(_SCALARS) <= set(found):
        raise InputError(f"{log}: has no losses and gradient norms yet; wait for the first steps of a language model")
    return found


def differences(curves: Curves) -> dict[str, dict[str, float]]:
    """Of each: mean cross-entropy of the last tenth of its curve, the same less 32-true's, and the largest gradient."""
    last = {name: _last(curve["train/ce"]) for name, curve in curves.items()}
    base = last.get("32-true")
    return {
        name: {
            "ce": last[name],
            **({"ce over 32-true": last[name] - base} if base is not None else {}),
            "largest gradient": max(value for _, value in curve["grad/all"]),
        }
        for name, curve in curves.items()
    }


def draw(curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], path: Path) -> None:
    """The curves, losses above gradients."""
    from matplotlib.figure import Figure  # no pyplot: no window system, nothing global

    figure = Figure(figsize=(8, 7), layout="constrained")
    panels: Any = figure.subplots(len(_SCALARS), sharex=True)
    for axes, (scalar, title) in zip(panels, _SCALARS.items(), strict=True):
        for name, curve in curves.items():
            axes.plot(*zip(*curve[scalar], strict=True), label=name, linewidth=0.9)
        axes.set_ylabel(title)
        axes.grid(color="#dddddd", linewidth=0.6)
    panels[0].legend(frameon=False)
    panels[1].set_yscale("log")
    panels[1].set_xlabel("optimiser step")
    figure.savefig(path, dpi=120)


def _finite(value: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return value if isfinite(value) else None


def _last(curve: Sequence[tuple[int, float]]) -> float:
    part = [value for _, value in curve[-max(1, len(curve) // 10) :]]
    return sum(part) / len(part)


if __name__ == "__main__":
    import sys

    from experiments.call import call

    call(precision, "precision", sys.argv[1:])
