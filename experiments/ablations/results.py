"""What came of the rows: figures with intervals over seeds and clips, and whether the paper's order shows."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from evaluation.uncertainty import LEVEL
from experiments.ablations.grid import Cell
from experiments.ablations.rows import MEASURES, Pair

AGREES, DIFFERS, UNDECIDED = "agrees", "differs", "undecided"


class Figure(NamedTuple):
    """A value, and its bounds where there are any."""

    value: float
    low: float | None = None
    high: float | None = None


def read_figure(folder: Path, cell: Cell, steps: int, measure: str, part: str) -> Figure | None:
    """One measure of one cell, with its interval over clips.

    Args:
        folder: of the grid.
        cell: that has run.
        steps: of its training.
        measure: one of ``MEASURES``.
        part: of the results, as ``Row.part``.

    Returns:
        None where the measure has no value.
    """
    place = folder / cell.place(steps)
    if cell.memory:
        score = _read(place / "memory.json")["sides"][part or "train"].get(measure)
    elif measure == "melody":
        score = _read(place / f"{cell.name}-prompts.json")[part or "followed"].get(measure)
    elif part:
        return None
    elif measure in ("ce", "ppl"):
        return _cross_entropy(_read(place / "perplexity.json"), math.exp if measure == "ppl" else float)
    else:
        score = _read(place / f"{cell.name}.json")["metrics"].get(measure)
    if score is None or score["value"] is None:
        return None
    return Figure(score["value"], score.get("low"), score.get("high"))


def _cross_entropy(record: Mapping[str, Any], scale: Any) -> Figure:
    """Mean over codebooks, which are scored on the same tracks: the bounds' means are as wide as they can be."""
    rows = record["cross_entropy"]
    value = float(np.mean([row["value"] for row in rows]))
    if any(row["low"] is None for row in rows):
        return Figure(scale(value))
    low, high = (float(np.mean([row[side] for row in rows])) for side in ("low", "high"))
    return Figure(scale(value), scale(low), scale(high))


def over_seeds(figures: Sequence[Figure]) -> Figure:
    """Mean over seeds with an interval for both seeds and clips.

    Student's t over the seeds' values and the mean distance of the clips' bounds, as two independent errors: the clips
    of all seeds are of the same references, so that seeds do not average out which these were. Of one seed only the
    clips' interval is left. No bounds come of one seed without an interval over clips.

    Args:
        figures: one a seed, at least one.
    """
    values = np.array([one.value for one in figures])
    mean = float(values.mean())
    half = 0.0
    if len(values) > 1:
        half = float(student.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    bounded = [one for one in figures if one.low is not None and one.high is not None]
    if len(values) == 1 and not bounded:
        return Figure(mean)
    below = float(np.mean([one.value - one.low for one in bounded])) if bounded else 0.0  # type: ignore[operator]
    above = float(np.mean([one.high - one.value for one in bounded])) if bounded else 0.0  # type: ignore[operator]
    return Figure(mean, mean - math.hypot(half, below), mean + math.hypot(half, above))


def verdict(pair: Pair, better: Figure | None, worse: Figure | None) -> str:
    """Whether two rows stand as the paper has them.

    "undecided" where a row has no figure or the intervals overlap. Of rows that are expected to be alike, intervals
    that lie apart differ; that they overlap shows nothing, and is undecided.

    Args:
        pair: what is expected.
        better: of the row that is to be better.
        worse: of the other.
    """
    if better is None or worse is None:
        return UNDECIDED
    if better.low is None or better.high is None or worse.low is None or worse.high is None:
        return UNDECIDED
    if better.low <= worse.high and worse.low <= better.high:
        return UNDECIDED
    if pair.alike:
        return DIFFERS
    less = better.value < worse.value
    return AGREES if less == MEASURES[pair.measure][1] else DIFFERS


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
