"""The table on a codec's card, made of the results that ``mgl evaluate-codec`` wrote for each set of clips."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.tables import ARROWS, number
from experiments.codecs.comparison import perplexity_text
from experiments.codecs.evaluation import METRICS
from experiments.codecs.results import heard_line


def card_lines(results: Mapping[str, Path]) -> list[str]:
    """Markdown: a table for each set of clips, all systems on the same clips, means with 95 % intervals.

    Args:
        results: a title for each set's results.json, which holds several codecs.
    """
    lines: list[str] = []
    for title, path in results.items():
        lines += [*_table(title, json.loads(path.read_text(encoding="utf-8"))), ""]
    return lines[:-1]


def _table(title: str, results: Mapping[str, Any]) -> list[str]:
    systems = results["systems"]
    shown = [metric for metric in METRICS if any(one["metrics"][metric.key]["n"] for one in systems)]
    head = ["codec", "kbit/s", *(f"{metric.name} {ARROWS[metric.better]}" for metric in shown), "perplexity"]
    lines = [f"{title}: {heard_line({**systems[0], **results})}.", "", _row(head), _row(["---"] * len(head))]
    for one in systems:
        scores = [_score(one["metrics"][metric.key]) for metric in shown]
        lines.append(
            _row([_name(one), number(one["bitrate"]["measured"]["value"])[:-1], *scores, perplexity_text(one)])
        )
    return lines


def _name(system: Mapping[str, Any]) -> str:
    """A folder's checksum says more than where it lay."""
    checksum = system["codec"].get("checksum")
    return f"{Path(system['name']).name} `{checksum[:12]}`" if checksum else str(system["name"])


def _score(score: Mapping[str, Any]) -> str:
    bounds = "" if score["low"] is None else f" ({number(score['low'])} to {number(score['high'])})"
    return number(score["value"]) + bounds


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
