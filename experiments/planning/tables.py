"""A plan for the terminal and for a file."""

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from datamodules.whole_files import write_whole
from experiments.console import in_words
from experiments.flops import COUNTING
from experiments.planning.memory import FREE, Memory
from experiments.planning.plan import NAMES, Layout, Plan

_GIB = 2**30
_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimiser": "optimiser state",
    "average": "averaged weights",
    "copies": "weights at work",
    "activations": "activations",
    "loss": "logits",
    "text_encoder": "text encoder",
    "codec": "codec",
    "scratch": "optimiser's scratch",
}


def report(plan: Plan) -> Group:
    """The plan in three tables and a recommendation."""
    return Group(_facts(plan), _memory(plan), _time(plan), *conclusion(plan))


def conclusion(plan: Plan) -> Iterator[str]:
    """What to do, and when it will be done."""
    best = plan.best
    if best is None:
        yield f"recommended   none: {plan.why}"
        return
    yield f"recommended   {best.name}, {best.deal} micro-batches: {plan.why}"
    yield f"to the end    {to_the_end(plan)}"


def to_the_end(plan: Plan) -> str:
    """Duration of the run and what it takes of the devices, in words."""
    assert plan.best is not None, "nothing fits, so nothing ends"
    assert plan.days is not None
    assert plan.gpu_hours is not None
    return (
        f"{plan.subject.max_steps:,} steps of {plan.best.seconds:.3g} s: {in_words(plan.days * 86400)}, "
        f"{plan.gpu_hours:,.0f} GPU-hours on {plan.machines.count} x {plan.machines.gpu.key} at "
        f"{plan.utilisation:.0%} of their peak (estimate)"
    )


def record(plan: Plan) -> dict[str, Any]:
    """The plan as JSON has it: bytes, seconds and FLOPs."""
    subject, where = plan.subject, plan.machines
    return {
        "counting": COUNTING,
        "machines": {**asdict(where), "nodes": where.nodes},
        "subject": {
            "lm": asdict(subject.lm),
            "text_encoder": subject.text_name,
            "codec": asdict(subject.codec),
            "places": dict(subject.places),
            "frames": subject.frames,
            "steps": subject.steps,
            "precision": subject.precision,
            "optimiser": subject.algorithm,
            "lora": subject.lora,
        },
        "parameters": asdict(plan.counts),
        "step": {"crops": plan.crops, "codes": plan.codes, "flops": plan.flops, "utilisation": plan.utilisation},
        "layouts": [_layout(one) for one in plan.layouts],
        "recommended": plan.layouts.index(plan.best) if plan.best else None,
        "why": plan.why,
        "max_steps": subject.max_steps,
        "days": plan.days,
        "gpu_hours": plan.gpu_hours,
    }


def write(plan: Plan, path: Path) -> None:
    """Writes the record, whole or not at all."""
    write_whole(path, (json.dumps(record(plan), indent=1, allow_nan=False) + "\n").encode())


def _layout(one: Layout) -> dict[str, Any]:
    return {**asdict(one), "name": one.name, "memory": {**asdict(one.memory), "total": one.memory.total}}


def _facts(plan: Plan) -> Table:
    made = _table("the run")
    made.show_header = False
    made.add_column(no_wrap=True)
    made.add_column()
    subject, counts, where = plan.subject, plan.counts, plan.machines
    flops = subject.flops(plan.crops)
    places = ", ".join(f"{length} places of {name}" for name, length in subject.places.items())
    how = "trained along" if subject.text and subject.text.trained else "frozen"
    rows = {
        "parameters": f"{counts.lm:,}, of which {counts.projections:,} project conditions",
        "text encoder": f"{counts.text_encoder:,} ({subject.text_name}, {how})",
        "codec": f"{counts.codec:,} ({subject.codec.name}: {subject.codec.codebooks} x {subject.codec.entries} codes "
        f"at {subject.codec.frame_rate:g} Hz)",
        "devices": f"{where.count} x {where.gpu.key} in {where.nodes} node{'s' * (where.nodes > 1)}: "
        f"{where.gpu.peak / 1e12:g} TFLOP/s and {where.gpu.memory / _GIB:.1f} GiB each, {where.gpu.link / 1e9:g} GB/s "
        f"within a node, {where.network / 1e9:g} GB/s a GPU between nodes",
        "a step": f"{plan.crops} crops, {plan.crops * subject.steps:,} sequence steps, {plan.codes:,} codes; {places}",
        "arithmetic": f"{flops.total / 1e12:,.0f} TFLOP a step: weights {flops.weights / flops.total:.1%}, "
        f"self-attention {flops.self_attention / flops.total:.1%}, cross-attention "
        f"{flops.cross_attention / flops.total:.1%}",
        "training": f"{subject.precision}, {subject.algorithm}, {subject.max_steps:,} steps",
    }
    if subject.lora:
        rows["adapters"] = f"{counts.trained:,} parameters, of rank {subject.lora}: they alone are trained"
    for name, text in rows.items():
        made.add_row(name, text)
    return made


def _memory(plan: Plan) -> Table:
    room = (1 - FREE) * plan.machines.gpu.memory / _GIB
    made = _table(f"memory of a device, GiB (estimate): {room:.1f} to be planned with, ! does not fit")
    made.add_column("\n\nbatch\nrecompute", no_wrap=True)
    for one in plan.layouts:
        name = NAMES[one.sharding].replace(" ", "\n") if " " in NAMES[one.sharding] else f"\n{NAMES[one.sharding]}"
        heading = f"{name}\n{_dealt(one)}\n{_kept(one)}"
        made.add_column(heading, justify="right", no_wrap=True)
    for field in fields(Memory):
        made.add_row(_PARTS[field.name], *[f"{getattr(one.memory, field.name) / _GIB:.2f}" for one in plan.layouts])
    made.add_section()
    made.add_row("together", *[f"{'' if one.fits else '! '}{one.memory.total / _GIB:.2f}" for one in plan.layouts])
    return made


def _time(plan: Plan) -> Table:
    made = _table(f"time of a step (estimate): {plan.utilisation:.0%} of the peak, wires at full speed, * the best")
    made.add_column("layout", no_wrap=True)
    for name in ("batch", "recompute", "reduced\nGB", "gathered\nGB", "wires\ns", "arithmetic\ns", "step\ns"):
        made.add_column(name, justify="right", no_wrap=True)
    for one in plan.layouts:
        said = one.traffic
        figures = [said.reduced / 1e9, said.gathered / 1e9, said.seconds, one.compute, one.seconds]
        mark = " *" if one is plan.best else "" if one.fits else " !"
        made.add_row(NAMES[one.sharding] + mark, _dealt(one), _kept(one), *[f"{figure:.3g}" for figure in figures])
    return made


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _dealt(one: Layout) -> str:
    return f"{one.deal.batch} x {one.deal.accumulate}"


def _kept(one: Layout) -> str:
    return str(one.recompute or "none")
