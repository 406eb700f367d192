"""What systems cost, beside what they are worth: sizes, training, speed, and who is on the Pareto front."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table

DASH = "\N{EN DASH}"
_MOST_COLUMNS = 4  # of a table that is 80 wide


@dataclass(frozen=True)
class Cost:
    """A system's cost; None is what is not known.

    Attributes:
        name: of the system.
        parameters: of the language model.
        memory: bytes of one GPU in training, estimated.
        flops: of its whole training, estimated.
        gpu_hours: of its whole training, estimated.
        gpus: on which, in words.
        steps_per_second: of decoding, measured.
        hours_per_hour: hours of music that an hour makes, measured.
        where: on what that was measured.
        perplexity: of held-out codes, averaged over codebooks.
        held_out: cross-entropy of each codebook, as ``mgl perplexity`` writes it.
    """

    name: str
    parameters: int | None = None
    memory: int | None = None
    flops: float | None = None
    gpu_hours: float | None = None
    gpus: str = ""
    steps_per_second: float | None = None
    hours_per_hour: float | None = None
    where: str = ""
    perplexity: float | None = None
    held_out: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class CostText:
    """A column of cost: its key in ``Cost``, its title, what stands small below it, and how a number is written."""

    key: str
    name: str
    note: str
    form: Callable[[float], str]


def short(value: float) -> str:
    """A number in three digits: 420 M, 3.26 B."""
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


COSTS = (
    CostText("parameters", "Parameters", "language model", short),
    CostText("steps_per_second", "Steps a second", "measured", lambda value: f"{value:.3g}"),
    CostText("hours_per_hour", "Hours of music an hour", "measured", lambda value: f"{value:.3g}"),
    CostText("perplexity", "Perplexity", "held-out codes", lambda value: f"{value:,.1f}"),
    CostText("memory", "Memory of a GPU", "training, estimate", lambda value: f"{value / 2**30:.1f} GiB"),
    CostText("flops", "Training FLOPs", "estimate", lambda value: f"{value:.2e}"),
    CostText(
        "gpu_hours",
        "GPU-hours",
        "training, estimate",
        lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.2g}",
    ),
)


def cost_of(system: Mapping[str, Any], record: Mapping[str, Any] | None) -> Cost:
    """A system's cost from what is known of it.

    Args:
        system: what results.json says of the system: name, parameters, speed, record of training.
        record: what ``mgl system-cost`` wrote, with "held_out" as ``mgl perplexity`` wrote it; None if there is none.
    """
    record = record or {}
    parameters = record.get("parameters") or system.get("parameters") or {}
    training, speed = record.get("training") or {}, record.get("generation") or system.get("speed") or {}
    held_out = record.get("held_out") or (system.get("training") or {}).get("validation")
    rate = speed.get("audio_seconds_per_second")
    return Cost(
        name=str(system["name"]),
        parameters=parameters.get("lm"),
        memory=training.get("memory"),
        flops=training.get("flops"),
        gpu_hours=training.get("gpu_hours"),
        gpus=f"{training['gpus']} x {training['gpu']}, {training['layout'] or 'fits nowhere'}" if training else "",
        steps_per_second=speed.get("steps_per_second"),
        hours_per_hour=rate * speed.get("processes", 1) if rate is not None else None,
        where=f"{speed['device']}, {speed['threads']} threads" if "device" in speed and "threads" in speed else "",
        perplexity=perplexity(held_out),
        held_out=held_out if held_out and held_out.get("cross_entropy") else None,
    )


def perplexity(held_out: Mapping[str, Any] | None) -> float | None:
    """The exponential of the cross-entropy in nats, averaged over codebooks, as audiocraft reports it."""
    books = (held_out or {}).get("cross_entropy")
    return math.exp(sum(one["value"] for one in books) / len(books)) if books else None


def known(costs: Sequence[Cost]) -> list[CostText]:
    """The columns in which anything stands."""
    return [column for column in COSTS if any(getattr(one, column.key) is not None for one in costs)]


def cost_text(cost: Cost, column: CostText) -> str:
    """A cell."""
    value = getattr(cost, column.key)
    return DASH if value is None else column.form(value)


def costs_table(costs: Sequence[Cost]) -> Group:
    """For the terminal: in two tables where one would be too wide."""
    columns = known(costs)
    starts = range(0, max(len(columns), 1), _MOST_COLUMNS)
    tables = [_table(costs, columns[start : start + _MOST_COLUMNS]) for start in starts]
    tables[0].title = "cost; of training the planner's estimates"
    return Group(*tables)


def _table(costs: Sequence[Cost], columns: Sequence[CostText]) -> Table:
    table = Table(title_justify="left")
    table.add_column("system")
    for column in columns:
        table.add_column(column.name, justify="right")
    for one in costs:
        table.add_row(one.name, *(cost_text(one, column) for column in columns))
    return table


def pareto_axis(costs: Sequence[Cost]) -> tuple[str, str] | None:
    """What quality is drawn against: computing time where all were measured in one place, else parameters.

    Returns:
        Field of ``Cost`` and title; None where fewer than two systems have either.
    """
    measured = [one for one in costs if one.hours_per_hour]
    if len(measured) > 1 and len(measured) == len(costs) and len({one.where for one in costs}) == 1:
        return "hours_per_hour", "seconds of computing a second of music"
    if sum(one.parameters is not None for one in costs) > 1:
        return "parameters", "parameters of the language model"
    return None


def pareto_front(points: Sequence[tuple[float, float]], lower_is_better: bool) -> list[int]:
    """Which (cost, quality) no other point beats: none is as cheap and as good, and better in one of them.

    Returns:
        Places of the points on the front, from the cheapest to the dearest.
    """
    sign = 1.0 if lower_is_better else -1.0
    ordered = sorted(range(len(points)), key=lambda place: (points[place][0], sign * points[place][1]))
    front: list[int] = []
    for place in ordered:
        if not front or sign * points[place][1] < sign * points[front[-1]][1] or points[place] == points[front[-1]]:
            front.append(place)
    return front
