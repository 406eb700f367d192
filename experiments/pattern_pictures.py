"""The picture and the table of docs/patterns.md, drawn and counted from the patterns' own code.

``python -m experiments.pattern_pictures docs/patterns.svg`` draws the picture and prints the table.

The SVG is written by hand: matplotlib's would be ten times as large, and other bytes with every version.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from lightning_modules.lm.patterns import Pattern, build_pattern

# The panels, row by row: the named patterns, and one with delays of one's own.
ROWS = (
    ("parallel", "delay"),
    ("partial_delay", "delay:0,3,3,3"),
    ("flatten",),
    ("partial_flatten", "coarse_first"),
    ("stereo_delay", "stereo_partial_delay"),
)
FRAMES = 8  # of the picture: with fewer, training would leave out the whole last codebook of stereo_delay

# All in pixels: a cell with the space around it, and what is left free beside and above its panel and below it.
_CELL, _LEFT, _ABOVE, _BELOW = 20, 50, 34, 18
# Paul Tol's light scheme: dark letters can be read on all of them, and the colour-blind tell them apart.
_BOOKS = ("#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#99ddff", "#44bb99", "#bbcc33", "#aaaa00")
_LEGEND = (
    "Columns are steps, rows codebooks. A number is the frame of the code at that place; grey places have no code.",
    "Training leaves out the striped steps.",
)
_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>Codebook patterns: at which step each code is predicted</title>
<style>
text {{ font: 12px sans-serif; fill: #222; text-anchor: middle }}
.name {{ font: bold 14px monospace; text-anchor: start }}
.axis {{ font-size: 10px; fill: #595959 }}
.book {{ font-size: 10px; fill: #595959; text-anchor: end }}
.note {{ fill: #444; text-anchor: start }}
.none {{ fill: #e3e1dc }}
{books}
</style>
<pattern id="cut" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<path d="M0 0h6v6h-6z" fill="#fcfbf9" fill-opacity=".5"/><path d="M0 0h3v6h-3z" fill="#fcfbf9"/>
</pattern>
<path d="M0 0h{width}v{height}h-{width}z" fill="#fcfbf9"/>"""


def shown(name: str) -> Pattern:
    """The pattern as the page shows it: over 4 codebooks, in stereo 8; -1 for places without a code."""
    return build_pattern(name, 8 if name.startswith("stereo") else 4, special=-1)


def length_table(frames: int = 1500) -> str:
    """Lengths of every pattern shown, a Markdown table; ``frames`` by default the paper's 30 s at 50 Hz."""
    lines = [
        "| pattern | K | steps to generate | training sequence | codes left out, by codebook |",
        "|---|---|---|---|---|",
    ]
    for pattern in (shown(name) for row in ROWS for name in row):
        codes = torch.zeros(1, pattern.codebooks, frames, dtype=torch.int64)
        sequence = pattern.build(codes, trim=True)[0]
        left_out = ", ".join(str(frames - count) for count in (sequence >= 0).sum(1).tolist())
        generated = pattern.length(frames) - 1
        lines.append(f"| `{pattern.name}` | {pattern.codebooks} | {generated:,} | {sequence.shape[1]:,} | {left_out} |")
    return "\n".join(lines)


def draw_patterns(path: Path) -> None:
    """Writes the picture, an SVG of the same bytes each time, one panel a pattern of ``ROWS``.

    It brings its own background, so it can be read on a light and on a dark page.
    """
    body: list[str] = []
    width = y = 0
    for row in ROWS:
        x, y = 0, y + _ABOVE
        for pattern in map(shown, row):
            x += _LEFT
            body += _panel(pattern, x, y)
            x += pattern.length(FRAMES) * _CELL
        width, y = max(width, x), y + pattern.codebooks * _CELL + _BELOW
    y += 6
    for line in _LEGEND:
        y += 17
        body.append(f'<text x="{_LEFT}" y="{y}" class="note">{line}</text>')
    books = "\n".join(f".b{k} {{ fill: {colour} }}" for k, colour in enumerate(_BOOKS))
    head = _HEAD.format(width=width + 16, height=y + 18, books=books)
    path.write_text("\n".join([head, *body, "</svg>\n"]), encoding="utf-8")


def _panel(pattern: Pattern, left: int, top: int) -> list[str]:
    """Elements of one pattern's sequence, its first step and codebook at (left, top)."""
    frames = torch.arange(FRAMES).expand(1, pattern.codebooks, FRAMES)
    rows = list(enumerate(pattern.build(frames)[0].tolist()))
    codes = [(step, k, t) for k, row in rows for step, t in enumerate(row) if t >= 0]
    empty = ((step, k) for k, row in rows for step, t in enumerate(row) if t < 0)
    steps, trimmed, height = pattern.length(FRAMES), pattern.trimmed_length(FRAMES), pattern.codebooks * _CELL
    shapes = [_squares("none", empty)]
    shapes += [_squares(f"b{k}", ((step, k) for step, book, _ in codes if book == k)) for k, _ in rows]
    if trimmed < steps:
        x, cut = trimmed * _CELL, (steps - trimmed) * _CELL
        shapes.append(f'<path d="M{x} 0h{cut}v{height}h-{cut}z" fill="url(#cut)"/>')
    centre = _CELL // 2
    texts = [f'<text x="{step * _CELL + centre}" y="{k * _CELL + centre + 4}">{t}</text>' for step, k, t in codes]
    texts += [
        f'<text x="{step * _CELL + centre}" y="{height + 11}" class="axis">{step}</text>' for step in range(steps)
    ]
    texts += [f'<text x="-5" y="{k * _CELL + centre + 3}" class="book">k = {k}</text>' for k, _ in rows]
    name = f'<text x="1" y="-8" class="name">{pattern.name}</text>'
    return [f'<g transform="translate({left} {top})">', name, *shapes, *texts, "</g>"]


def _squares(style: str, places: Iterable[tuple[int, int]]) -> str:
    """Squares at (step, codebook), all as one shape, which keeps the file small."""
    side = _CELL - 2
    corners = (f"M{step * _CELL + 1} {k * _CELL + 1}h{side}v{side}h-{side}z" for step, k in places)
    return f'<path class="{style}" d="{"".join(corners)}"/>'


if __name__ == "__main__":
    draw_patterns(Path(sys.argv[1]))
    print(length_table())
