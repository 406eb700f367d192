"""Results as text: numbers with their intervals, a table for the terminal, what could not run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class MetricText:
    """How a metric is called and read: its key in results.json, its name, which way is better, and one line on it."""

    key: str
    name: str
    better: str
    meaning: str


METRICS = (
    MetricText(
        "fad", "FAD", "lower", "Frechet distance between the judge's embeddings of generated and reference music"
    ),
    MetricText("kld", "KL", "lower", "divergence of the judge's labels between a clip and its reference, in nats"),
    MetricText("clap", "CLAP", "higher", "cosine of a clip and its caption in the judge's space"),
    MetricText("chroma", "Chroma", "higher", "share of frames whose strongest pitch class is the reference's"),
)
ARROWS = {"lower": "\N{DOWNWARDS ARROW}", "higher": "\N{UPWARDS ARROW}"}


def number(value: float | None) -> str:
    """A score for people: three decimals, a dash for none, never a negative zero."""
    if value is None:
        return "\N{EN DASH}"
    text = f"{value:.3f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def interval(score: Mapping[str, Any]) -> str:
    """The bounds of a score, or nothing."""
    if score.get("low") is None:
        return ""
    return f"{number(score['low'])} to {number(score['high'])}"


def judges_text(protocol: Mapping[str, Any]) -> str:
    """Who heard: "judge embedded 1f3a...", or one for each metric."""
    told = {metric: f"{judge['name']} {judge['checksum'][:12]}" for metric, judge in protocol["judges"].items()}
    if len(set(told.values())) == 1:
        return f"judge {told['fad']}"
    return "judges: " + ", ".join(f"{metric.name} {told[metric.key]}" for metric in METRICS if metric.key in told)


def scores_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Systems and the rows to read them by, for the terminal."""
    first = results[0]
    table = Table(title=f"{judges_text(first['protocol'])}, 95 % intervals", title_justify="left")
    table.add_column("system")
    for metric in METRICS:
        table.add_column(f"{metric.name} {ARROWS[metric.better]}", justify="right", no_wrap=True)
    table.add_column("clips", justify="right")
    for one in results:
        table.add_row(
            str(one["system"]["name"]), *(_cell(one["metrics"], metric.key) for metric in METRICS), str(one["n"])
        )
    table.add_section()
    for row in first["context"].values():
        table.add_row(row["label"], *(_cell(row, metric.key) for metric in METRICS), str(first["n"]), style="dim")
    return table


def _cell(scores: Mapping[str, Any], key: str) -> str:
    if key not in scores:
        return ""
    score = scores[key]
    bounds = "" if score.get("low") is None else f"\n{number(score['low'])}..{number(score['high'])}"
    return number(score["value"]) + bounds


def infinity_text(score: Mapping[str, Any]) -> str:
    """FAD-infinity in words; nothing where there is none."""
    infinity = score.get("infinity") or {}
    if infinity.get("value") is None:
        return ""
    bounds = f" ({interval(infinity)})" if interval(infinity) else ""
    return f"{number(infinity['value'])}{bounds} extrapolated to any number of windows, R2 {infinity['r2']:.2f}"


def failures_text(results: Mapping[str, Any]) -> Iterator[str]:
    """One line for each thing that could not run, and why, or that a number alone does not tell."""
    for metric in METRICS:
        score = results["metrics"][metric.key]
        if score["value"] is None:
            yield f"{metric.name}: not computed: {score['interval']}"
        elif score["low"] is None:
            yield f"{metric.name}: no interval: {score['interval']}"
        if score.get("note"):
            yield f"{metric.name}: {score['note']}"
        if said := infinity_text(score):
            yield f"{metric.name}: {said}"
    for failure in results["failed"]:
        yield f"{failure['id']}: left out: {failure['reason']}"
    if results["not_generated"]:
        yield f"{results['not_generated']} references have no generated clip and were not used"
