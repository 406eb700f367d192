"""Results as text: numbers with their intervals, a table for the terminal, what could not run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table


@dataclass(frozen=True)
class MetricText:
    """How a metric is called and read: its key in results.json, its name, which way is better, and one line on it."""

    key: str
    name: str
    better: str
    meaning: str


RECALLS = (1, 5, 10)
_MOST_COLUMNS = 4  # of a table that is 80 wide


def recall_key(direction: str, k: int) -> str:
    """Key of R@k from "audio_to_text" or "text_to_audio"."""
    return f"{direction}_{k}"


METRICS = (
    MetricText(
        "fad", "FAD", "lower", "Frechet distance between the judge's embeddings of generated and reference music"
    ),
    MetricText("kad", "KAD", "lower", "kernel distance between the same embeddings, unbiased, a hundredfold"),
    MetricText("kld", "KL", "lower", "divergence of the judge's labels between a clip and its reference, in nats"),
    MetricText("clap", "CLAP", "higher", "cosine of a clip and its caption in the judge's space"),
    MetricText("chroma", "Chroma", "higher", "share of frames whose strongest pitch class is the reference's"),
    *(
        MetricText(recall_key(direction, k), f"{name} R@{k}", "higher", f"{meaning} among the {k} nearest of all")
        for direction, name, meaning in (
            ("audio_to_text", "Caption", "share of clips whose caption is"),
            ("text_to_audio", "Clip", "share of captions of which a clip is"),
        )
        for k in RECALLS
    ),
)
ARROWS = {"lower": "\N{DOWNWARDS ARROW}", "higher": "\N{UPWARDS ARROW}"}


def computed(results: Sequence[Mapping[str, Any]]) -> list[MetricText]:
    """Those of ``METRICS`` that results speak of; what runs on request is in none unless it was asked for."""
    return [metric for metric in METRICS if any(metric.key in one["metrics"] for one in results)]


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
    if len(set(told.values())) <= 1:
        return f"judge {next(iter(told.values()), 'none')}"
    return "judges: " + ", ".join(f"{metric.name} {told[metric.key]}" for metric in METRICS if metric.key in told)


def scores_table(results: Sequence[Mapping[str, Any]]) -> Group:
    """Systems and the rows to read them by, for the terminal: in several tables where one would be too wide."""
    protocol, metrics = results[0]["protocol"], computed(results)
    under = f"protocol {protocol['name']}, " if "name" in protocol else ""
    starts = range(0, len(metrics), _MOST_COLUMNS)
    tables = [_table(results, metrics[start : start + _MOST_COLUMNS]) for start in starts]
    tables[0].title = f"{under}{judges_text(protocol)}, 95 % intervals"
    return Group(*tables)


def _table(results: Sequence[Mapping[str, Any]], metrics: Sequence[MetricText]) -> Table:
    first = results[0]
    table = Table(title_justify="left")
    table.add_column("system")
    for metric in metrics:
        table.add_column(f"{metric.name} {ARROWS[metric.better]}", justify="right", no_wrap=True)
    table.add_column("clips", justify="right")
    for one in results:
        table.add_row(
            str(one["system"]["name"]), *(_cell(one["metrics"], metric.key) for metric in metrics), str(one["n"])
        )
    table.add_section()
    for row in first["context"].values():
        table.add_row(row["label"], *(_cell(row, metric.key) for metric in metrics), str(first["n"]), style="dim")
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
    for metric in computed([results]):
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
    yield from repeats_text(results["protocol"])


def repeats_text(protocol: Mapping[str, Any]) -> Iterator[str]:
    """A line for each side on which files of several ids are one and the same."""
    for side, count in (protocol.get("repeated") or {}).items():
        if count:
            yield f"{count} {side} files are the same as another id's; they count as clips of their own"
