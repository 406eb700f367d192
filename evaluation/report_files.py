"""What a report says as CSV, a number a line, and as Markdown tables."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.whole_files import write_whole
from evaluation.compare import Difference, Results
from evaluation.costs import COSTS, Cost, cost_text, known
from evaluation.tables import ARROWS, MetricText, computed, interval, judges_text, number

_HEAD = ("kind", "system", "against", "metric", "value", "low", "high", "n", "note")
_Row = tuple[str, str, str, str, float | None, float | None, float | None, int | None, str]


def write_files(
    out: Path, systems: Sequence[Results], found: Sequence[Difference], costs: Sequence[Cost], summary: str
) -> None:
    """Writes ``out`` with the suffixes .csv and .md.

    Args:
        out: the page.
        systems: what it compares.
        found: differences from the first one.
        costs: of these systems, and of others that made nothing.
        summary: the page's first sentence.
    """
    rows = [*_scores(systems), *_differences(found), *_cost_rows(costs)]
    write_whole(out.with_suffix(".csv"), _csv(rows))
    lines = [summary, "", *_score_lines(systems), "", *_cost_lines(costs)]
    write_whole(out.with_suffix(".md"), ("\n".join(lines).rstrip() + "\n").encode())


def write_costs(costs: Sequence[Cost], out: Path) -> list[Path]:
    """Writes OUT.csv and OUT.md, where there is nothing but costs."""
    paths = [out.with_suffix(".csv"), out.with_suffix(".md")]
    write_whole(paths[0], _csv(list(_cost_rows(costs))))
    write_whole(paths[1], ("\n".join(_cost_lines(costs)) + "\n").encode())
    return paths


def clips_text(data: Mapping[str, Any]) -> str:
    """How many clips were scored, "6 of 8" where the system made fewer than it was asked for."""
    asked = (data["system"].get("clips") or {}).get("asked", data["n"])
    return str(data["n"]) if asked == data["n"] else f"{data['n']} of {asked}"


def _scores(systems: Sequence[Results]) -> Iterator[_Row]:
    context = [("context", row["label"], row, None) for row in systems[0].data["context"].values()]
    given = [("score", one.name, one.data["metrics"], one.data["n"]) for one in systems]
    for kind, name, scores, n in [*given, *context]:
        for metric in computed([one.data for one in systems]):
            score = scores.get(metric.key) or {}
            bounds = score.get("low"), score.get("high")
            yield kind, name, "", metric.key, score.get("value"), *bounds, n, str(score.get("interval") or "")


def _differences(found: Sequence[Difference]) -> Iterator[_Row]:
    for one in found:
        value = (None, None, None) if one.difference is None else tuple(one.difference)
        yield "difference", one.first, one.second, one.metric, value[0], value[1], value[2], one.n, one.reason


def _cost_rows(costs: Sequence[Cost]) -> Iterator[_Row]:
    notes = {"memory": "gpus", "flops": "gpus", "gpu_hours": "gpus", "steps_per_second": "where"}
    notes["hours_per_hour"] = "where"
    for one in costs:
        for column in COSTS:
            note = getattr(one, notes[column.key]) if column.key in notes else ""
            yield "cost", one.name, "", column.key, getattr(one, column.key), None, None, None, note


def _csv(rows: Sequence[_Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEAD)
    writer.writerows(rows)
    return text.getvalue().encode()


def _score_lines(systems: Sequence[Results]) -> Iterator[str]:
    metrics = computed([one.data for one in systems])
    yield from _table_head("System", [f"{one.name} {ARROWS[one.better]}" for one in metrics] + ["Clips"])
    for one in systems:
        yield _line(one.name, [*_cells(one.data["metrics"], metrics), clips_text(one.data)])
    for row in systems[0].data["context"].values():
        yield _line(f"*{row['label']}*", [*_cells(row, metrics), ""])
    yield ""
    yield f"Heard by {judges_text(systems[0].data['protocol'])}; 95 % intervals in brackets."


def _cells(scores: Mapping[str, Any], metrics: Sequence[MetricText]) -> Iterator[str]:
    for metric in metrics:
        score = scores.get(metric.key) or {}
        bounds = f" ({interval(score)})" if interval(score) else ""
        yield number(score.get("value")) + bounds


def _cost_lines(costs: Sequence[Cost]) -> Iterator[str]:
    columns = known(costs)
    if columns:
        yield from _table_head("System", [f"{one.name} ({one.note})" for one in columns])
        yield from (_line(one.name, [cost_text(one, column) for column in columns]) for one in costs)


def _table_head(first: str, columns: Sequence[str]) -> Iterator[str]:
    yield _line(first, columns)
    yield "|---|" + "---:|" * len(columns)


def _line(first: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in (first, *cells)) + " |"
