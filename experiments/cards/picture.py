"""A training's curve as a picture: what a page of Markdown shows wherever it is read."""

import io
from importlib.util import find_spec
from typing import Any

from experiments.cards.recorded import VALID, Recorded
from experiments.cards.subject import LANGUAGE_MODEL, Subject

# Okabe and Ito's, which the colour-blind tell apart.
_COLOURS = ("#0072b2", "#c25200", "#007a58", "#a64d83", "#946f00", "#3a6f9e", "#56b4e9", "#e69f00")
_INK, _MEAN = "#222222", "mean"


def curve_picture(recorded: Recorded, subject: Subject) -> bytes | None:
    """A PNG of what each validation gave, of a language model by codebook; None of a run with less than two of them.

    None, too, where matplotlib is not installed.
    """
    lines = curves(recorded, subject)
    if all(len(points) < 2 for points in lines.values()) or find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure  # no pyplot: no window system, nothing global

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes: Any = figure.subplots()
    for index, (name, points) in enumerate(lines.items()):
        colour, line = (_INK, "--") if name == _MEAN else (_COLOURS[index % len(_COLOURS)], "-")
        axes.plot(*zip(*points, strict=True), line, label=name, color=colour, marker="o", markersize=3, linewidth=1.2)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("cross-entropy, nats a code" if subject.kind == LANGUAGE_MODEL else next(iter(lines)))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    return picture.getvalue()


def curves(recorded: Recorded, subject: Subject) -> dict[str, list[tuple[int, float]]]:
    """Validation by name: of each codebook, if the log has them, and the mean; points in the order of steps."""
    metric, lm = recorded.config["model_folder"]["valid_metric"], subject.kind == LANGUAGE_MODEL
    told = {step: held for step, _, held in recorded.curve if held is not None}
    mean = sorted({**told, **recorded.valid.get(metric, {})}.items())
    found: dict[str, list[tuple[int, float]]] = {}
    if lm:
        books = [recorded.valid.get(f"{VALID}ce_{k}", {}) for k in range(subject.codec.codebooks)]
        found = {f"codebook {k + 1}": sorted(book.items()) for k, book in enumerate(books) if book}
    return {**found, **({_MEAN if lm else metric: mean} if mean else {})}
