"""One self-contained page: scores with intervals, curves, and clips to listen to, side by side.

The page needs no network and no other file: styles, plots, pictures and audio are inside it.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from datamodules.whole_files import write_whole
from evaluation import plots
from evaluation.compare import Difference, Results, differences, leaves, read_results
from evaluation.costs import Cost, cost_of, cost_text, known, pareto_axis, pareto_front
from evaluation.published import published_tables
from evaluation.report_clips import Clips, extreme_rows, shared_ids
from evaluation.report_files import clips_text, write_files
from evaluation.report_melody import melody_rows
from evaluation.report_notes import comparison_notes
from evaluation.report_room import LARGEST_PAGE, find_room
from evaluation.summary import summary_sentence
from evaluation.tables import (
    ARROWS,
    MetricText,
    computed,
    interval,
    judges_text,
    number,
)

TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    results: Sequence[str | Path],
    out: str | Path,
    *,
    clips: int = 12,
    costs: Sequence[Mapping[str, Any]] = (),
    largest: int = LARGEST_PAGE,
) -> Path:
    """Writes the report of one or more systems, and its tables beside it with the suffixes .csv and .md.

    Args:
        results: results.json files, made with one protocol; the first system is the one the others are held against.
        out: the page to write.
        clips: prompts to listen to, at most. They are chosen by a hash of their ids, not by how they sound.
        costs: what ``mgl system-cost`` wrote of systems, these and others, with "held_out" as ``mgl perplexity`` did.
        largest: bytes of the page. Sound becomes plainer where it would be larger, and where that is not enough the
            last prompts are shown without players, which the page says.

    Returns:
        The page's path.

    Raises:
        InputError: results that cannot be compared, or a number of clips below one.
    """
    if clips < 1:
        raise InputError(f"a report of {clips} clips has nothing to listen to; ask for at least 1")
    systems = read_results(results)
    found, spent = differences(systems), _costs(systems, costs)
    summary = summary_sentence(systems, found)
    ids = shared_ids(systems)
    context = {
        "summary": summary,
        "differences": _difference_rows(found),
        **_systems_context(systems),
        **_costs_context(systems, spent),
        **_melody(systems, ids),
    }
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, _render(systems, ids, clips, context, largest).encode())
    write_files(out, systems, found, spent, summary)
    return out


def _render(
    systems: Sequence[Results], ids: Sequence[str], clips: int, context: Mapping[str, Any], largest: int
) -> str:
    """The page: first without a clip, to know what room is left for them."""
    import jinja2

    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("report.html.j2")
    none = {"grid": [], "extremes": [], "total": len(ids), "playable": 0, "quality": 0, "largest": largest / 1e6}
    room = find_room(systems, ids[:clips], largest - len(template.render(**context, **none).encode()))
    shown = Clips(systems, ids[: room.prompts], room.quality)
    return template.render(**context, **none | {
        "grid": shown.grid(ids[room.prompts : clips]),
        "extremes": extreme_rows(shown, room.extremes),
        "playable": room.prompts,
        "quality": room.quality.name,
    })  # fmt: skip


def _systems_context(systems: Sequence[Results]) -> dict[str, Any]:
    """What the template shows of scores and protocol."""
    protocol = systems[0].data["protocol"]
    metrics = computed([one.data for one in systems])
    return {
        "title": _title(systems),
        "metrics": metrics,
        "arrows": ARROWS,
        "number": number,
        "interval": interval,
        "colour": plots.colour,
        "systems": [_system(one, index) for index, one in enumerate(systems)],
        "context": list(systems[0].data["context"].values()),
        "protocol": protocol,
        "protocol_rows": [(key.replace(".", ", ").replace("_", " "), value) for key, value in leaves(protocol)],
        "judges": judges_text(protocol),
        "how": _arguments(protocol),
        "metric_plots": _metric_plots(systems, metrics),
        "published": published_tables(),
        "curves": _curves(systems),
        "notes": comparison_notes(systems),
    }


def _costs_context(systems: Sequence[Results], spent: Sequence[Cost]) -> dict[str, Any]:
    """What the template shows of training and cost."""
    return {
        "codebooks": _codebooks(spent),
        "costs": _cost_rows(spent, systems),
        "cost_columns": known(spent),
        "pareto": _pareto(systems, spent, computed([one.data for one in systems])),
    }


def _melody(systems: Sequence[Results], ids: Sequence[str]) -> dict[str, Any]:
    """Chromagrams, or why there are none."""
    try:
        return {"melodies": melody_rows(systems, ids), "no_melodies": ""}
    except InputError as error:
        return {"melodies": [], "no_melodies": str(error)}


def _arguments(protocol: Mapping[str, Any]) -> str:
    """Protocol, judges and statistics as ``mgl evaluate`` was given them."""
    given = {}
    if "name" in protocol:
        given["--protocol"] = protocol["source"]
    sources = {metric: judge["source"] for metric, judge in protocol["judges"].items()}
    if len(set(sources.values())) == 1:
        given["--judge"] = next(iter(sources.values()))
    elif sources:
        given["--judge"] = "{" + ", ".join(f"{key}: {value}" for key, value in sources.items()) + "}"
    if protocol.get("statistics"):
        given["--reference_statistics"] = protocol["statistics"]["source"]
    return " ".join(f"{name} {shlex.quote(value)}" for name, value in given.items())


def _title(systems: Sequence[Results]) -> str:
    names = [one.name for one in systems]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _system(one: Results, index: int) -> dict[str, Any]:
    """What the template shows of a system beside its clips."""
    system = one.data["system"]
    parameters = system.get("parameters") or {}
    return {
        "name": one.name,
        "index": index,
        "metrics": one.data["metrics"],
        "n": clips_text(one.data),
        "failed": one.data["failed"],
        "file": one.path.name,
        "generate": _generate(one.name, system),
        "facts": _facts(system, parameters),
    }


def _generate(name: str, system: Mapping[str, Any]) -> str:
    """The command that makes its clips, up to the prompts."""
    model = system.get("model") or "MODEL"
    return (
        f"mgl system-clips {shlex.quote(f'{name}={model}')}" if "clips" in system else f"mgl generate --model {model}"
    )


def _facts(system: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, str]:
    """Parameters, speed, training and codec as label -> text; what system.json does not say is left out."""
    called = {"lm": "language model", "text_encoder": "text encoder"}
    facts = {f"Parameters, {called.get(name, name)}": f"{count:,}" for name, count in parameters.items()}
    speed, training = system.get("speed") or {}, system.get("training") or {}
    codec = system.get("codec") or {}
    for key, label, form in (
        ("steps_per_second", "Decoding steps a second", "{:,.0f}"),
        ("audio_seconds_per_second", "Seconds of audio a second", "{:.2f}"),
        ("device", "Device", "{}"),
        ("threads", "Threads", "{}"),
    ):
        if speed.get(key) is not None:
            facts[label] = form.format(speed[key])
    for key, label, form in (
        ("steps", "Training steps", "{:,}"),
        ("seconds", "Training time", "{:,.0f} s"),
        ("train_tokens", "Training tokens", "{:,}"),
    ):
        if training.get(key) is not None:
            facts[label] = form.format(training[key])
    for key, value in codec.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            facts[f"Codec, {key.replace('_', ' ')}"] = f"{value:,.4g}"
    return facts


def _metric_plots(systems: Sequence[Results], metrics: Sequence[MetricText]) -> dict[str, str]:
    drawn = {}
    for metric in metrics:
        rows: list[tuple[str, Mapping[str, Any] | None, int | None]] = [
            (one.name, one.data["metrics"].get(metric.key), index) for index, one in enumerate(systems)
        ]
        rows += [(row["label"], row.get(metric.key), None) for row in systems[0].data["context"].values()]
        if any(score and score["value"] is not None for _, score, _ in rows):
            drawn[metric.key] = plots.metric_plot(rows, metric.better == "lower")
    return drawn


def _difference_rows(found: Sequence[Difference]) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in found:
        row = rows.setdefault((one.first, one.second), {"first": one.first, "second": one.second, "cells": {}})
        cell: dict[str, Any] = {"reason": one.reason, "clear": one.clear, "n": one.n}
        if one.difference is not None:
            cell |= {"value": number(one.difference.value), "interval": interval(one.difference._asdict())}
        row["cells"][one.metric] = cell
    return list(rows.values())


def _codebooks(costs: Sequence[Cost]) -> dict[str, Any] | None:
    """Cross-entropy of held-out music by codebook, as a plot and as rows of a table."""
    rows = [(one.name, one.held_out["cross_entropy"], one.held_out.get("n")) for one in costs if one.held_out]
    if not rows:
        return None
    plot = plots.codebook_plot([(name, codebooks) for name, codebooks, _ in rows])
    return {"plot": plot, "rows": rows, "books": [one["codebook"] for one in rows[0][1]]}


def _costs(systems: Sequence[Results], records: Sequence[Mapping[str, Any]]) -> list[Cost]:
    """Of the systems in their order, then of those that are only known by their cost."""
    by_name = {record["system"]: record for record in records}
    names = [one.name for one in systems]
    spent = [cost_of(one.data["system"], by_name.get(one.name)) for one in systems]
    return spent + [cost_of({"name": name}, record) for name, record in by_name.items() if name not in names]


def _cost_rows(costs: Sequence[Cost], systems: Sequence[Results]) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "index": index if index < len(systems) else None,
            "cells": [cost_text(one, column) for column in known(costs)],
            "notes": ", ".join(note for note in (one.where, one.gpus) if note),
        }
        for index, one in enumerate(costs)
    ]


def _pareto(systems: Sequence[Results], costs: Sequence[Cost], metrics: Sequence[MetricText]) -> dict[str, str]:
    """A plot of quality over cost for each metric that two systems or more have."""
    spent = costs[: len(systems)]
    axis = pareto_axis(spent)
    if axis is None:
        return {}
    field, title = axis
    drawn = {}
    for metric in metrics:
        rows = []
        for index, (one, cost) in enumerate(zip(systems, spent, strict=True)):
            score, value = one.data["metrics"].get(metric.key) or {}, getattr(cost, field)
            if value and score.get("value") is not None:
                rows.append((one.name, 1 / value if field == "hours_per_hour" else value, score, index))
        if len(rows) > 1:
            lower = metric.better == "lower"
            front = pareto_front([(place, score["value"]) for _, place, score, _ in rows], lower)
            drawn[metric.key] = plots.pareto_plot(rows, front, title, lower)
    return drawn


def _curves(systems: Sequence[Results]) -> str | None:
    rows = [(one.name, (one.data["system"].get("training") or {}).get("curve")) for one in systems]
    drawn = [(name, curve) for name, curve in rows if curve]
    return plots.curve_plot(drawn) if drawn else None
