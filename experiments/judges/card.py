"""The tables on a judge's card, made of what ``mgl evaluate-judge`` and ``mgl evaluate`` wrote."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any

from evaluation.tables import METRICS, number
from experiments.pipeline import Stage
from experiments.recipes import JUDGED_SETS, degradations

# What must get worse with each kind, by the metric's key.
AFFECTED = {
    "noise": ("fad", "kld", "clap", "chroma"),
    "low-pass": ("fad", "kld", "clap"),
    "codec": ("fad", "kld", "clap", "chroma"),
    "captions": ("clap",),
    "transpose": ("chroma",),
}


def card_lines(folder: Path, stages: Sequence[Stage]) -> list[str]:
    """Markdown: accuracy, distances, and a table of behaviour for each set of clips.

    Args:
        folder: of the pipeline.
        stages: those that have run.
    """
    results = {stage.name: json.loads((folder / stage.result).read_text("utf-8")) for stage in stages if _read(stage)}
    heard = {name.partition(" ")[2]: one for name, one in results.items() if name.startswith("accuracy ")}
    lines = [*accuracy_lines(heard), ""]
    for title in JUDGED_SETS:
        rows = {name: one for name, one in results.items() if name.startswith(f"evaluate {title} ")}
        if rows:
            lines += [*_behaviour(title, rows), ""]
    return lines[:-1]


def accuracy_lines(heard: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table: a row a figure, a column for each set of clips."""
    first = next(iter(heard.values()))
    lines = [_row(["", *heard]), _row(["---"] * (len(heard) + 1))]
    for name, path in (
        ("instrument families, F1", ("f1", "family")),
        ("drums, F1", ("f1", "drums")),
        ("drums, accuracy", ("accuracy", "drums")),
        ("single instruments, F1", ("f1", "instrument")),
        ("tempo class, accuracy", ("accuracy", "tempo")),
        ("collection, accuracy", ("accuracy", "collection")),
        ("caption to clip, R@1 of 32", ("recall",)),
        ("the same of an oracle", ("oracle",)),
    ):
        if _at(first, path) is not None:
            lines.append(_row([name, *(_score(_at(one, path)) for one in heard.values())]))
    for kind, key in (("FAD", ""), ("FAD without end of tracks", "_at_infinity")):
        fads = [one["fad"] for one in heard.values()]
        lines.append(_row([f"{kind}, two halves of the tracks", *(number(fad[f"halves{key}"]) for fad in fads)]))
        for title, of in (("nearest", min), ("median", median_low), ("farthest", max)):
            cells = [_between(fad[f"collections{key}"], of) for fad in fads]
            lines.append(_row([f"{kind}, two collections: the {title}", *cells]))
    lines.append(_row(["clips, tracks", *(f"{one['n']}, {one['tracks']}" for one in heard.values())]))
    return lines


def _behaviour(title: str, results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One table: a row for each kind and amount, and after each kind what moved the wrong way."""
    first = next(iter(results.values()))
    yield f"{title[0].upper()}{title[1:]}: {first['n']} clips of {first['protocol']['seconds']['longest']:g} s."
    yield ""
    yield _row(["", *(metric.name for metric in METRICS if metric.key in first["metrics"]), "in order"])
    yield _row(["---"] * (len(first["metrics"]) + 2))
    for kind, many in degradations().items():
        rows = [results[f"evaluate {title} {how.name}"] for how in many]
        for place, (how, one) in enumerate(zip(many, rows, strict=True)):
            scores = [number(one["metrics"][metric.key]["value"]) for metric in METRICS if metric.key in one["metrics"]]
            yield _row([how.name, *scores, _verdict(kind, rows) if place == len(many) - 1 else ""])


def out_of_order(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the metrics that should get worse from row to row and do not."""
    wrong = []
    for metric in METRICS:
        if metric.key not in AFFECTED[kind]:
            continue
        values = [one["metrics"][metric.key]["value"] for one in rows]
        worse = 1 if metric.better == "lower" else -1
        if None in values or not all(worse * (b - a) > 0 for a, b in pairwise(values)):
            wrong.append(metric.name)
    return wrong


def _verdict(kind: str, rows: Sequence[Mapping[str, Any]]) -> str:
    wrong = out_of_order(kind, rows)
    right = [metric.name for metric in METRICS if metric.key in AFFECTED[kind] and metric.name not in wrong]
    said = [", ".join(right) + ": yes"] if right else []
    return "; ".join([*said, *([", ".join(wrong) + ": no"] if wrong else [])])


def _read(stage: Stage) -> bool:
    return stage.name.startswith(("accuracy ", "evaluate "))


def _at(results: Mapping[str, Any], path: Sequence[str]) -> Any:
    for key in path:
        results = results.get(key) or {}
    return results or None


def _between(collections: Mapping[str, float], of: Callable[[Sequence[float]], float]) -> str:
    if not collections:
        return number(None)
    value = of(list(collections.values()))
    return f"{number(value)} ({next(name for name, one in collections.items() if one == value)})"


def _score(score: Mapping[str, Any]) -> str:
    return f"{number(score['value'])} ({number(score['low'])} to {number(score['high'])})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
