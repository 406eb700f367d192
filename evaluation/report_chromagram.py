"""A quantised chromagram as inline SVG: pitch classes over time, in the page's colours.

Written directly: a page has some twenty of hundreds of bars each, for which matplotlib takes seconds.

Shape letters: T frames, P pitch classes.
"""

import math
from html import escape

from torch import Tensor

from evaluation.plots import colour

_WIDTH, _ROW = 326, 6.5  # CSS pixels: of the figure, and of a pitch class
_LEFT, _TOP, _BOTTOM = 22, 2, 18
_NAMES = {0: "C", 4: "E", 7: "G", 11: "B"}
_TICKS = 6  # on the axis of time, about


def chromagram(chroma_TP: Tensor, reference_TP: Tensor | None, step: float, index: int, description: str) -> str:
    """Draws the strongest pitch class of every frame; of a system's clip with the reference's behind it.

    Frames whose class is the reference's are tall and in the system's colour, the others low and grey.

    Args:
        chroma_TP: one-hot, zeros in silence.
        reference_TP: of the same shape; None where this is the reference.
        step: seconds from one frame to the next.
        index: of the system; of no meaning for the reference.
        description: for screen readers.
    """
    frames, classes = chroma_TP.shape
    wide, high = _WIDTH - _LEFT - 8, classes * _ROW
    if reference_TP is None:
        bars = _bars(chroma_TP, wide, 0.9, "var(--ink)")
    else:
        bars = _bars(reference_TP, wide, 0.9, "var(--line)")
        bars += _bars(chroma_TP * (1 - reference_TP), wide, 0.4, "var(--muted)")
        bars += _bars(chroma_TP * reference_TP, wide, 0.9, colour(index))
    pitches = "".join(
        f'<text x="-6" y="{high - (pitch + 0.5) * _ROW + 4:g}" text-anchor="end">{name}</text>'
        for pitch, name in _NAMES.items()
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {high + _TOP + _BOTTOM:g}" style="max-width:{_WIDTH}px" role="img" '
        f'aria-label="{escape(description)}"><g transform="translate({_LEFT} {_TOP})">{bars}'
        f'<path d="M0 0V{high:g}H{wide}" fill="none" stroke="var(--line)"/>'
        f'<g fill="var(--muted)" font-size="11">{pitches}{_seconds(frames * step, wide, high)}</g></g></svg>'
    )


def _bars(chroma_TP: Tensor, wide: float, height: float, fill: str) -> str:
    """One path with a rectangle for each stretch of frames of one pitch class."""
    frames, classes = chroma_TP.shape
    drawn = ""
    for pitch, sounds in enumerate((chroma_TP > 0).T.tolist()):
        around = [False, *sounds, False]
        edges = [frame for frame in range(frames + 1) if around[frame] != around[frame + 1]]
        top = (classes - 1 - pitch + (1 - height) / 2) * _ROW
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            left, length = begin / frames * wide, (end - begin) / frames * wide
            drawn += f"M{left:.1f} {top:.2f}h{length:.1f}v{height * _ROW:.2f}h-{length:.1f}z"
    return f'<path d="{drawn}" fill="{fill}"/>'


def _seconds(total: float, wide: float, high: float) -> str:
    """Labels of the axis of time at round places."""
    rough = max(total, 1e-3) / _TICKS
    power = 10 ** math.floor(math.log10(rough))
    apart = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    places = [apart * count for count in range(int(total / apart + 1e-9) + 1)]
    labels = "".join(
        f'<text x="{place / total * wide:.1f}" y="{high + 13:g}" text-anchor="middle">{place:g}</text>'
        for place in places
        if place <= 0.93 * total  # the unit stands at the end
    )
    return f'{labels}<text x="{wide}" y="{high + 13:g}" text-anchor="end">s</text>'
