"""What a run's loggers kept in its folder: ``metrics.csv``, or TensorBoard's event files."""

import csv
from importlib.util import find_spec
from pathlib import Path

# Lightning writes the number of the step that was made last, counted from 0.
_TO_COUNT = 1

Scalars = dict[str, dict[int, float]]


def read_scalars(run: Path, prefix: str) -> Scalars:
    """By name the values at each optimiser step, of a step that was made twice the later; empty where nothing is kept.

    Args:
        run: the run's folder.
        prefix: how the names begin, "valid/" say.
    """
    table = run / "metrics.csv"
    if table.is_file():
        return _of_csv(table, prefix)
    if find_spec("tensorboard") and any(run.glob("events.out.tfevents.*")):
        return _of_events(run, prefix)
    return {}


def _of_csv(table: Path, prefix: str) -> Scalars:
    found: Scalars = {}
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name and name.startswith(prefix) and value:
                    found.setdefault(name, {})[int(row["step"]) + _TO_COUNT] = float(value)
    return found


def _of_events(run: Path, prefix: str) -> Scalars:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # 0 keeps all: of sound and pictures, which a log may be full of, one each.
    kept = {"scalars": 0, "audio": 1, "images": 1, "histograms": 1, "tensors": 1}
    events = EventAccumulator(str(run), size_guidance=kept).Reload()
    names = [name for name in events.Tags()["scalars"] if name.startswith(prefix)]
    return {name: {one.step + _TO_COUNT: one.value for one in events.Scalars(name)} for name in names}
