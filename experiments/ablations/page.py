"""A page for each study: the paper's figures beside ours, what agrees, and what it cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.tables import number
from experiments.ablations.results import DIFFERS, Figure, verdict
from experiments.ablations.rows import MEASURES, Row, Study

DISCUSSION = "## Discussion"
_NO_DISCUSSION = "Not written yet. What is written below this heading stays when the command writes the page again."


@dataclass(frozen=True)
class Line:
    """What came of a row.

    Attributes:
        row: which.
        seeds: that its figures are of.
        steps: of each of its trainings; 0 where there were none.
        seconds: machine time of training and measurements, all seeds.
        diverged: seeds whose training gave up.
        figures: by measure.
    """

    row: Row
    seeds: int
    steps: int
    seconds: float
    diverged: int
    figures: Mapping[str, Figure]

    @property
    def status(self) -> str:
        """How it was run, in words."""
        gave_up = f"{self.diverged} diverged" if self.diverged else ""
        if self.seeds:
            return f"{self.seeds} seed{'s' * (self.seeds > 1)}{gave_up and ', ' + gave_up}"
        return gave_up or f"not run{self.row.missing and ': ' + self.row.missing}"


def page_lines(study: Study, lines: Sequence[Line], facts: Sequence[str], picture: str, discussion: str) -> list[str]:
    """Markdown.

    Args:
        study: the page's.
        lines: one for each of its rows.
        facts: sentences on how all was run.
        picture: the picture's file, beside the page.
        discussion: what people wrote about it.
    """
    by_name = {line.row.name: line for line in lines}
    text = [f"# {study.question}", "", f"MusicGen (arXiv 2306.05284), {study.source}. {study.note}".strip(), ""]
    text += [*facts, "", "## Figures", "", *_figures(study, lines), ""]
    if any(line.figures for line in lines):
        text += [f"![The rows' figures with 95 % intervals]({picture})", ""]
    text += ["## The paper's order", "", *_verdicts(study, by_name), ""]
    return [*text, DISCUSSION, "", discussion.strip() or _NO_DISCUSSION]


def _figures(study: Study, lines: Sequence[Line]) -> Iterator[str]:
    """A line a row: the paper's figures in brackets behind ours."""
    heads = [f"{MEASURES[name][0]} ({'less' if MEASURES[name][1] else 'more'} is better)" for name in study.measures]
    papers = [name for name in study.measures if any(name in line.row.paper for line in lines)]
    yield _row(["", *(f"paper: {MEASURES[name][0]}" for name in papers), *heads, "run", "steps", "machine time, min"])
    yield _row(["---"] * (1 + len(papers) + len(heads) + 3))
    for line in lines:
        paper = [f"{line.row.paper[name]:g}" if name in line.row.paper else number(None) for name in papers]
        ours = [figure_text(line.figures.get(name)) for name in study.measures]
        cost = [str(line.steps), f"{line.seconds / 60:.1f}"] if line.seeds else [number(None)] * 2
        yield _row([line.row.title, *paper, *ours, line.status, *cost])


def _verdicts(study: Study, lines: Mapping[str, Line]) -> Iterator[str]:
    yield _row(["expected", "by", "ours", "verdict"])
    yield _row(["---"] * 4)
    for pair in study.pairs:
        one, other = lines[pair.better], lines[pair.worse]
        first, second = one.figures.get(pair.measure), other.figures.get(pair.measure)
        expected = f"{one.row.title} {'about like' if pair.alike else 'better than'} {other.row.title}"
        ours = f"{figure_text(first)} and {figure_text(second)}"
        found = verdict(pair, first, second)
        said = f"**{found}**" if found == DIFFERS else found
        yield _row([expected, MEASURES[pair.measure][0], ours, said])


def figure_text(figure: Figure | None) -> str:
    """A figure with its bounds, in brackets, where it has any."""
    if figure is None:
        return number(None)
    if figure.low is None or figure.high is None:
        return number(figure.value)
    return f"{number(figure.value)} ({number(figure.low)} to {number(figure.high)})"


def kept_discussion(page: Path) -> str:
    """What people wrote on the page that is there; empty for none."""
    if not page.is_file():
        return ""
    said = page.read_text(encoding="utf-8").partition(f"\n{DISCUSSION}\n")[2].strip()
    return "" if said == _NO_DISCUSSION else said


def draw(study: Study, lines: Sequence[Line], path: Path) -> None:
    """A panel for each measure, a mark with its interval for each row; nothing where no row has figures.

    Args:
        study: whose.
        lines: its rows.
        path: PNG file.
    """
    from matplotlib.figure import Figure as Picture  # no pyplot: no window system, nothing global

    shown = [line for line in lines if line.figures]
    if not shown:
        return
    picture = Picture(figsize=(3.2 * len(study.measures), 1.2 + 0.35 * len(shown)), layout="constrained")
    panels = picture.subplots(1, len(study.measures), sharey=True, squeeze=False)[0]
    for panel, measure in zip(panels, study.measures, strict=True):
        for place, line in enumerate(shown):
            if (figure := line.figures.get(measure)) is not None:
                low, high = (figure.value if bound is None else bound for bound in (figure.low, figure.high))
                reach = [[figure.value - low], [high - figure.value]]
                panel.errorbar([figure.value], [place], xerr=reach, fmt="o", capsize=3, color="#0072b2")
        panel.set_xlabel(MEASURES[measure][0])
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(shown)), [line.row.title for line in shown])
    panels[0].invert_yaxis()
    picture.savefig(path, dpi=110, metadata={"Software": ""})


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
