"""Numbers that others published: each under its own protocol, with source and certainty, never beside ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evaluation.tables import ARROWS, METRICS

_FILE = Path(__file__).parent / "templates" / "published.yaml"
CERTAINTIES = ("certain", "likely")
_NAMES = {
    **{metric.key: f"{metric.name} {ARROWS[metric.better]}" for metric in METRICS},
    "fad_openl3": f"FD of OpenL3 {ARROWS['lower']}",
    "chroma_cosine": f"Chroma cosine {ARROWS['higher']}",
    "perplexity": f"Perplexity {ARROWS['lower']}",
    "ovl": f"OVL {ARROWS['higher']}",
    "rel": f"REL {ARROWS['higher']}",
}


@dataclass(frozen=True)
class PublishedTable:
    """The rows of one protocol.

    Attributes:
        title: the set and who made the table.
        meaning: what the numbers depend on.
        metrics: keys and titles of its columns.
        rows: "system", "source", "certainty", "values" by key, and "cells", the same as text.
    """

    title: str
    meaning: str
    metrics: dict[str, str]
    rows: list[dict[str, Any]]


def published_tables() -> list[PublishedTable]:
    """All of them, a table for each protocol."""
    content = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return [
        PublishedTable(
            said["title"],
            said["meaning"],
            {key: _NAMES[key] for key in said["metrics"]},
            _with_cells([row for row in content["rows"] if row["protocol"] == name], said["metrics"]),
        )
        for name, said in content["protocols"].items()
    ]


def _with_cells(rows: list[dict[str, Any]], metrics: list[str]) -> list[dict[str, Any]]:
    """The rows with their values as text, all of a column with as many decimals."""
    given = {key: [row["values"][key] for row in rows if key in row["values"]] for key in metrics}
    decimals = {key: max(len(str(value).partition(".")[2]) for value in values) for key, values in given.items()}
    return [
        {**row, "cells": {key: f"{value:.{decimals[key]}f}" for key, value in row["values"].items()}} for row in rows
    ]
