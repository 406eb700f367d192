"""Planning the grid into a time budget, with equal training FLOPs for every training, and running it resumably.

Every cell is rehearsed first, from the training to the figures, with ten steps: that gives its cost on this machine,
and shows what does not work before hours are spent. Arithmetic is counted and not measured, so that the plan does not
favour what this machine happens to be good at; seconds only say how much of it fits into the budget.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from datamodules.whole_files import write_whole
from experiments.ablations.grid import Cell, Settings, cell_stages, shared_stages
from experiments.pipeline import run_stages
from experiments.planning.subject import CodecFacts, codec_facts, subject

REHEARSAL_STEPS, LEAST_STEPS = 10, 50
_RESERVE = 0.1  # of what is left after the rehearsals, for a machine that has become slower
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_DIVERGED = "diverged.json"


@dataclass(frozen=True)
class Cost:
    """Of one cell, as its rehearsal showed.

    Attributes:
        flops: of a training step, counted.
        step: seconds of a training step.
        start: seconds of the training besides its steps.
        rest: seconds of the measurements.
    """

    flops: float
    step: float
    start: float
    rest: float


@dataclass(frozen=True)
class Plan:
    """How long each training is.

    Attributes:
        flops: that each training may spend.
        steps: of each training, by its key; a recipe that diverged in its rehearsal has none.
        seconds: that all cells take, as planned.
        spent: seconds that corpus, tokens and rehearsals took.
    """

    flops: float
    steps: dict[str, int]
    seconds: float
    spent: float


def seconds_of(budget: str) -> float:
    """Seconds of "2h", "1h30m", "45m" or "90s".

    Raises:
        InputError: it is none of these, or no time at all.
    """
    parts = re.findall(r"([\d.]+)([hms])", budget)
    whole = re.fullmatch(r"(\d+(\.\d+)?[hms])+", budget)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts) if whole else 0.0
    if not seconds:
        raise InputError(f"--budget {budget!r} is no time; give 2h, 1h30m, 45m or 90s")
    return seconds


def rehearse(folder: Path, cells: Sequence[Cell], settings: Settings, budget: float) -> Plan:
    """Makes what all cells share, tries each cell once with a few steps, and plans.

    Args:
        folder: of the grid.
        cells: of all seeds.
        settings: of the grid.
        budget: seconds for everything.

    Raises:
        InputError: the budget is too small for one row, or rows have crops of several lengths.
    """
    lengths = sorted({cell.training.seconds for cell in cells})
    if len(lengths) != 1:
        raise InputError(f"rows are compared at one length of crops, not at {', '.join(map(str, lengths))} s")
    shared = shared_stages(settings, lengths[0])
    run_stages(shared, folder, shared[-1].name)
    spent = sum(_spent(folder, stage.name) for stage in shared)
    codec, costs = codec_facts(settings.codec), {}
    firsts: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        firsts.setdefault((cell.training.key, cell.name), cell)
    trained = set()
    for number, (key, cell) in enumerate(firsts.items(), start=1):
        print(f"\nrehearsal {number} of {len(firsts)}: {cell.training.layers[-1]}, {cell.name}", flush=True)
        if run_cell(folder, cell, settings, REHEARSAL_STEPS):
            costs[key] = _cost(folder, cell, settings, codec)
            trial = REHEARSAL_STEPS * costs[key].step + costs[key].start
            spent += costs[key].rest + (0 if cell.training.key in trained else trial)
            trained.add(cell.training.key)
        if spent >= budget:
            raise InputError(_too_small(budget, spent, "corpus, tokens and rehearsals alone take"))
    return plan(cells, costs, budget, spent)


def plan(cells: Sequence[Cell], costs: Mapping[tuple[str, str], Cost], budget: float, spent: float) -> Plan:
    """Steps of every training, so that all spend the same FLOPs and everything fits into the budget.

    Args:
        cells: of all seeds.
        costs: by key of the training and name of the cell; cells without are not run.
        budget: seconds for everything.
        spent: seconds of it that are gone.

    Raises:
        InputError: a training would have fewer than ``LEAST_STEPS`` steps.
    """
    priced = [(cell, costs[cell.training.key, cell.name]) for cell in cells if (cell.training.key, cell.name) in costs]
    trainings = {(cell.training.key, cell.training.seed): cost for cell, cost in priced}
    fixed = sum(cost.rest for _, cost in priced) + sum(cost.start for cost in trainings.values())
    rate = sum(cost.step / cost.flops for cost in trainings.values())  # seconds for a FLOP of every training
    if not trainings:
        return Plan(0.0, {}, 0.0, spent)
    flops = ((budget - spent) * (1 - _RESERVE) - fixed) / rate
    dearest = max(cost.flops for cost in trainings.values())
    if flops < LEAST_STEPS * dearest:
        least = (LEAST_STEPS * dearest * rate + fixed) / (1 - _RESERVE) + spent
        raise InputError(_too_small(budget, least, f"{LEAST_STEPS} steps of the dearest row and as much for all take"))
    steps = {key: int(flops / cost.flops) for (key, _), cost in trainings.items()}
    seconds = fixed + sum(steps[key] * cost.step for (key, _), cost in trainings.items())
    return Plan(flops, steps, seconds, spent)


def _too_small(budget: float, least: float, what: str) -> str:
    return (
        f"a budget of {budget:.0f} s is too small for one row: {what} {least:.0f} s; give more --budget, or fewer "
        "--studies, --seeds or --clips"
    )


def run_cell(folder: Path, cell: Cell, settings: Settings, steps: int) -> bool:
    """Trains and measures, as far as that is not done yet.

    Returns:
        False where the training diverged, which is written into its folder, and not tried again.
    """
    stages = cell_stages(cell, settings, steps)
    mark = folder / cell.place(steps) / _DIVERGED
    if mark.is_file():
        print(f"diverged before: {json.loads(mark.read_text(encoding='utf-8'))['reason']}")
        return False
    try:
        run_stages(stages, folder, stages[-1].name)
    except InputError as error:
        # The guards' word for a training that they gave up (experiments/callbacks/guards.py), and that of an interval
        # (evaluation/uncertainty.py) where a training ended before they did.
        if "finite" not in str(error):
            raise
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_whole(mark, json.dumps({"reason": str(error)}).encode())
        print(f"diverged: {error}")
        return False
    return True


def run_grid(folder: Path, cells: Sequence[Cell], settings: Settings, made: Plan) -> None:
    """Runs all cells by a plan, which is written to ``plan.json``; what is done is passed over."""
    write_whole(folder / "plan.json", json.dumps(asdict(made), indent=1).encode())
    for number, cell in enumerate(cells, start=1):
        if (steps := made.steps.get(cell.training.key)) is None:
            continue
        name = f"{cell.training.layers[-1]}, seed {cell.training.seed}, {cell.name}, {steps} steps"
        print(f"\ncell {number} of {len(cells)}: {name}", flush=True)
        run_cell(folder, cell, settings, steps)


def diverged(folder: Path, cell: Cell, steps: int | None) -> bool:
    """Whether a cell's training, or its rehearsal where it has no plan, gave up."""
    return (folder / cell.place(REHEARSAL_STEPS if steps is None else steps) / _DIVERGED).is_file()


def cell_seconds(folder: Path, cell: Cell, settings: Settings, steps: int) -> float:
    """Machine time of training and measurements."""
    return sum(_spent(folder, stage.name) for stage in cell_stages(cell, settings, steps))


def _cost(folder: Path, cell: Cell, settings: Settings, codec: CodecFacts) -> Cost:
    fit, *others = cell_stages(cell, settings, REHEARSAL_STEPS)
    step = _step_seconds(folder / cell.place(REHEARSAL_STEPS))
    recipe = cell.training.recipe
    # A plan's steps are no part of the recipe; what a step takes does not depend on them.
    flops = subject(recipe, codec).flops(recipe["data"]["init_args"]["batch_size"]).total
    start = max(0.0, _spent(folder, fit.name) - REHEARSAL_STEPS * step)
    return Cost(flops, step, start, sum(_spent(folder, stage.name) for stage in others))


def _step_seconds(run: Path) -> float:
    """The last that the run's log says of its speed."""
    for path in sorted(run.rglob("metrics.csv"), reverse=True):
        with path.open(encoding="utf-8", newline="") as file:
            found = [row["speed/seconds_per_step"] for row in csv.DictReader(file) if row.get("speed/seconds_per_step")]
        if found:
            return float(found[-1])
    raise AssertionError(f"{run} logs its speed every few steps")


def _spent(folder: Path, stage: str) -> float:
    record: dict[str, Any] = json.loads((folder / "stages.json").read_text(encoding="utf-8"))
    return float(record.get(stage, {}).get("seconds", 0.0))
