"""Runs a comparison and writes its page, or the cost half of it where nothing can make clips."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluation.compare import read_results
from evaluation.costs import cost_of, costs_table
from evaluation.report import write_report
from evaluation.report_files import write_costs
from evaluation.tables import scores_table
from experiments.pipeline import run_stages
from experiments.systems.contract import System
from experiments.systems.stages import Comparison, comparison_stages, places, read_places


def run_comparison(systems: Sequence[System], how: Comparison, folder: Path, players: int) -> None:
    """Runs every stage that is not finished, prints the tables and writes them.

    Args:
        systems: what is compared; the first one that has results is what the others are held against.
        how: the comparison.
        folder: for everything.
        players: prompts to listen to.
    """
    stages = comparison_stages(systems, how)
    run_stages(stages, folder, stages[-1].name)
    records = [cost_records(folder, system, how) for system in systems]
    scored = [folder / place.results for _, place in read_places(folder, systems, how)]
    missing = [system for system in systems if system.missing]
    costs = [cost_of({"name": record["system"]}, record) for record in records]
    if scored:
        page = write_report(scored, folder / "report.html", clips=players, costs=records)
        Console().print(scores_table([one.data for one in read_results(scored)]))
        print(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB), with the tables in report.csv and report.md")
    else:
        for path in write_costs(costs, folder / "cost"):
            print(f"wrote {path}")
    Console().print(costs_table(costs))
    if missing:
        print(f"cost only of {', '.join(system.name for system in missing)}: {missing[0].missing}")


def cost_records(folder: Path, system: System, how: Comparison) -> dict[str, Any]:
    """What ``system-cost`` wrote, with the cross-entropy that ``perplexity`` wrote, if it did."""
    place = places(system, how)
    record: dict[str, Any] = json.loads((folder / place.cost).read_text(encoding="utf-8"))
    path = folder / place.held_out
    return {**record, "held_out": json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None}
