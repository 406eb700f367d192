"""``mgl ablations``: the paper's tables, repeated in the small."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from experiments.ablations.grid import Settings
    from experiments.ablations.page import Line
    from experiments.ablations.rows import Study
    from experiments.ablations.running import Plan


def ablations(
    out: str = "runs/ablations",
    docs: str = "",
    studies: tuple[str, ...] = (),
    seeds: int = 3,
    tier: int = 2,
    budget: str = "2h",
    pieces: int = 400,
    clips: int = 40,
    corpus: str = "",
    codec: str = "embedded",
    judge: str = "embedded",
    layers: tuple[str, ...] = (),
) -> None:
    """Trains and measures the rows of the paper's tables at a small scale, and writes a page for each table.

    All trainings spend the same FLOPs. How many is planned from a rehearsal of every row, so that corpus, rehearsals,
    trainings and measurements fit into the budget. Finished stages are not done again: the same command goes on where
    it was interrupted, and a training that was interrupted begins anew. A row that diverges is reported as such.

    Args:
        out: folder for corpus, models, clips and results.
        docs: folder for the pages; "pages" in the grid's folder by default.
        studies: which tables, as in '[patterns, sizes]'; all by default.
        seeds: of the rows of tier 1.
        tier: 1 runs the rows that matter most; 2 also the others that need nothing fetched, with one seed; 3 also those
            that want published weights.
        budget: time for everything, as in 2h or 1h30m.
        pieces: of the corpus that is rendered; a tenth of them are held out.
        clips: of references, at most as many as pieces are held out; every model makes as many.
        corpus: a folder of `mgl corpus` that is there, in place of rendering one.
        codec: "embedded", or a codec's folder.
        judge: "embedded", or a judge's folder.
        layers: further config layers under every row, as for another machine or scale.
    """
    from datamodules.errors import InputError
    from experiments.ablations.grid import Settings, cells
    from experiments.ablations.rows import chosen
    from experiments.ablations.running import rehearse, run_grid, seconds_of
    from experiments.console import require_folder

    if seeds < 1 or tier not in (1, 2, 3):
        raise InputError(f"--seeds {seeds} --tier {tier}: give 1 or more seeds, and tier 1, 2 or 3")
    tables, seconds = chosen(studies), seconds_of(budget)
    settings = Settings(pieces, clips, corpus, codec, judge, tuple(layers))
    folder = require_folder(f"{out}/{settings.digest}")
    grid = cells(tables, seeds, tier, settings)
    if not grid:
        raise InputError("none of these rows is run at this tier; give a higher --tier, or other --studies")
    plan = rehearse(folder, grid, settings, seconds)
    print(
        f"\nplan: {len(grid)} cells, {plan.flops:.3g} FLOPs a training, {plan.seconds / 60:.0f} min after "
        f"{plan.spent / 60:.0f} min of preparation, of {seconds / 60:.0f} min"
    )
    run_grid(folder, grid, settings, plan)
    command = f"mgl ablations --studies '[{', '.join(study.name for study in tables)}]' --seeds {seeds} --tier {tier} "
    command += f"--budget {budget} --pieces {pieces} --clips {clips}"
    pages = require_folder(docs or str(folder / "pages"))
    for study in tables:
        lines = _lines(folder, study, settings, plan, seeds, tier)
        print(f"\n{_write(pages, study, lines, _facts(plan, settings, command))}")


def _lines(folder: "Path", study: "Study", settings: "Settings", plan: "Plan", seeds: int, tier: int) -> "list[Line]":
    """What came of each row."""
    from experiments.ablations.grid import cell_of, seeds_of
    from experiments.ablations.page import Line
    from experiments.ablations.results import over_seeds, read_figure
    from experiments.ablations.running import cell_seconds, diverged

    made = []
    for row in study.rows:
        found = [cell_of(study, row, seed, settings) for seed in seeds_of(row, seeds, tier)]
        steps = plan.steps.get(found[0].training.key) if found else None
        gone = [cell for cell in found if diverged(folder, cell, steps)]
        there = [] if steps is None else [cell for cell in found if cell not in gone]
        figures = {}
        for measure in study.measures:
            of = [read_figure(folder, cell, steps or 0, measure, row.part) for cell in there]
            if values := [figure for figure in of if figure is not None]:
                figures[measure] = over_seeds(values)
        spent = sum(cell_seconds(folder, cell, settings, steps or 0) for cell in there)
        made.append(Line(row, len(there), steps or 0, spent, len(gone), figures))
    return made


def _facts(plan: "Plan", settings: "Settings", command: str) -> list[str]:
    """How the figures were made, and how they are to be read."""
    import torch

    from experiments.benchmarks.measuring import machine

    here = machine()
    return [
        f"Written by `{command}`. Every training spends {plan.flops:.3g} FLOPs, counted. Figures are "
        f"of the split 'test', means over seeds, with at most {settings.clips} clips a model, heard by the judge "
        f"'{settings.judge}'; brackets hold 95 % intervals over seeds and clips, of a single seed over clips alone. "
        "Machine time is that of a row's trainings and measurements, those that it shares with other rows too: "
        f"{here['cpu']}, {here['cores']} cores, {torch.get_num_threads()} threads, commit {here['commit']}, "
        f"{here['date'][:10]}."
    ]


def _write(folder: "Path", study: "Study", lines: "Sequence[Line]", facts: "Sequence[str]") -> "Path":
    from experiments.ablations.page import draw, kept_discussion, page_lines

    page = folder / f"{study.name}.md"
    text = page_lines(study, lines, facts, f"{study.name}.png", kept_discussion(page))
    draw(study, lines, folder / f"{study.name}.png")
    page.write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text[text.index("## Figures") :]))
    return page
