"""The report's plots, as inline SVG whose colours follow the page's light or dark theme.

Matplotlib draws in placeholder colours; each is then replaced by a CSS variable of the page.
"""

import io
import re
from binascii import crc32
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.costs import short

# Placeholder -> CSS. The series' colours are Okabe and Ito's, in the page's style sheet; they also differ in marker.
_THEME = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    **{f"#1010{index:02d}": f"var(--series-{index})" for index in range(6)},
}
_INK, _MUTED, _LINE = list(_THEME)[:3]
_SERIES = list(_THEME)[3:]
_MARKERS = "osD^vP"


def colour(index: int) -> str:
    """CSS colour of the system with this index."""
    return f"var(--series-{index % len(_SERIES)})"


def codebook_plot(rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> str:
    """Validation cross-entropy of each codebook, one marker a system, with the unigram line to beat.

    Args:
        rows: system's name and its ``validation.cross_entropy`` of system.json.
    """
    figure, axes = _axes(6.4, 3.2, "codebook", "cross-entropy (nats)")
    for index, (name, codebooks) in enumerate(rows):
        shift = 0.16 * (index - (len(rows) - 1) / 2)
        places = [one["codebook"] + shift for one in codebooks]
        _error_bars(axes, places, codebooks, "value", "low", "high", index, _plain(name))
    base = rows[0][1]
    for place, one in enumerate(base):
        if one.get("unigram") is not None:
            label = "unigram (knows frequencies only)" if place == 0 else None
            where = one["codebook"]
            axes.hlines(one["unigram"], where - 0.4, where + 0.4, colors=_MUTED, linestyles="dashed", label=label)
            if one.get("unigram_low") is not None:
                bounds = [one["unigram_low"]] * 2, [one["unigram_high"]] * 2
                axes.fill_between([where - 0.4, where + 0.4], *bounds, color=_MUTED, alpha=0.2, linewidth=0)
    axes.set_xticks([one["codebook"] for one in base])
    _legend(axes)
    return _svg(figure, "Validation cross-entropy of each codebook with 95 % intervals, beside the unigram line")


def curve_plot(rows: Sequence[tuple[str, Sequence[Sequence[float | None]]]]) -> str:
    """Training and validation cross-entropy over steps.

    Args:
        rows: system's name and its ``training.curve``: [step, training, validation or None].
    """
    figure, axes = _axes(6.4, 3.2, "optimiser step", "cross-entropy (nats)")
    for index, (name, curve) in enumerate(rows):
        series = _SERIES[index % len(_SERIES)]
        drawn = [(row[0], row[1]) for row in curve if row[1] is not None]
        axes.plot(*_columns(drawn), color=series, linewidth=1.2, alpha=0.75, label=f"{_plain(name)}, training")
        held = [(row[0], row[2]) for row in curve if len(row) > 2 and row[2] is not None]
        marker = _MARKERS[index % len(_MARKERS)]
        if held:
            axes.plot(
                *_columns(held),
                color=series,
                marker=marker,
                markersize=4.5,
                linewidth=0,
                label=f"{_plain(name)}, validation",
            )
    _legend(axes)
    return _svg(figure, "Training and validation cross-entropy over optimiser steps")


def metric_plot(rows: Sequence[tuple[str, Mapping[str, Any] | None, int | None]], lower_is_better: bool) -> str:
    """One metric: a dot with its interval for each system and, in grey, for each context row.

    Args:
        rows: name, score of results.json, index of the system (None for a context row).
        lower_is_better: which end of the axis is the good one.
    """
    shown = [(name, score, index) for name, score, index in rows if score and score.get("value") is not None]
    figure, axes = _axes(3.4, 0.55 + 0.27 * len(shown), "", "")
    for place, (_, score, index) in enumerate(shown):
        assert score is not None
        series = _MUTED if index is None else _SERIES[index % len(_SERIES)]
        if score.get("low") is not None:
            axes.hlines(place, score["low"], score["high"], colors=series, linewidth=2)
        marker = "|" if index is None else _MARKERS[index % len(_MARKERS)]
        axes.plot(score["value"], place, marker=marker, color=series, markersize=7, markeredgewidth=1.5)
    axes.set_yticks(range(len(shown)), [_plain(name) for name, _, _ in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.grid(axis="x", color=_LINE, linewidth=0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("\N{LEFTWARDS ARROW} better" if lower_is_better else "better \N{RIGHTWARDS ARROW}")
    return _svg(figure, "; ".join(f"{name}: {score['value']:.3f}" for name, score, _ in shown if score))


def pareto_plot(
    rows: Sequence[tuple[str, float, Mapping[str, Any], int]], front: Sequence[int], cost: str, lower_is_better: bool
) -> str:
    """Quality over cost, with intervals; a line joins the systems that no other one beats in both.

    Args:
        rows: name, cost, score of results.json, index of the system.
        front: places in ``rows`` of those on the front, from the cheapest to the dearest.
        cost: title of that axis, which is logarithmic.
        lower_is_better: which end of the axis of quality is the good one.
    """
    height = 2.2 + 0.17 * len(rows)
    figure, axes = _axes(
        3.4, height, cost, "\N{LEFTWARDS ARROW} better" if lower_is_better else "better \N{RIGHTWARDS ARROW}"
    )
    axes.set_xscale("log")
    axes.plot(
        *_columns([(rows[place][1], rows[place][2]["value"]) for place in front]),
        color=_MUTED, linewidth=1, linestyle="dashed",
    )  # fmt: skip
    costs = sorted(row[1] for row in rows)
    apart = (costs[-1] / costs[0]) ** 0.02  # systems of one cost stand side by side
    for number, (name, place, score, index) in enumerate(rows):
        place *= apart ** [row[1] for row in rows[:number]].count(place)
        _error_bars(axes, [place], [score], "value", "low", "high", index, _plain(name))
    axes.margins(x=0.12)
    axes.minorticks_off()
    ticks = costs[:1]
    for value in costs:  # labels that do not run into each other
        if value / ticks[-1] > (costs[-1] / costs[0]) ** 0.2:
            ticks.append(value)
    axes.set_xticks(ticks, [short(value) for value in ticks])
    _legend(axes, 1)
    best = ", ".join(rows[place][0] for place in front)
    return _svg(figure, f"Quality over {cost}: {best} on the front")


def _error_bars(
    axes: Any,
    places: Sequence[float],
    rows: Sequence[Mapping[str, Any]],
    value: str,
    low: str,
    high: str,
    index: int,
    label: str,
) -> None:
    series = _SERIES[index % len(_SERIES)]
    middle = [row[value] for row in rows]
    reach = [
        [row[value] - row[low] if row.get(low) is not None else 0.0 for row in rows],
        [row[high] - row[value] if row.get(high) is not None else 0.0 for row in rows],
    ]
    marker = _MARKERS[index % len(_MARKERS)]
    axes.errorbar(places, middle, reach, fmt=marker, color=series, markersize=5, elinewidth=1.6, label=label)


def _plain(name: str) -> str:
    """A name as matplotlib must be given it to draw it letter by letter."""
    return name.replace("$", r"\$")


def _columns(rows: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [row[0] for row in rows], [row[1] for row in rows]


def _axes(width: float, height: float, x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: no window system, nothing global

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    figure.patch.set_alpha(0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_LINE)
    axes.tick_params(colors=_LINE, labelcolor=_MUTED, labelsize=9)
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(x, color=_MUTED, fontsize=9)
    axes.set_ylabel(y, color=_MUTED, fontsize=9)
    return figure, axes


def _legend(axes: Any, columns: int = 3) -> None:
    # above the axes: inside it would cover points
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=9, labelcolor=_INK,
        borderaxespad=0, handletextpad=0.4, columnspacing=1.2,
    )  # fmt: skip


def _svg(figure: Any, description: str) -> str:
    """The figure as an <svg> element that scales with its column and names itself to screen readers."""
    from html import escape

    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for placeholder, variable in _THEME.items():
        svg = svg.replace(placeholder, variable)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    # ids must differ between the figures of one page
    salt = f"f{crc32(svg.encode()):08x}"
    svg = re.sub(r'id="([^"]+)"', rf'id="{salt}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{salt}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{salt}-\1)", svg)
    head, body = svg.split(">", 1)
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)[0]
    return (
        f'<svg viewBox="0 0 {width} {height}" style="max-width:{float(width) * 4 / 3:.0f}px" role="img" '
        f'aria-label="{escape(description)}">{body}'
    )
