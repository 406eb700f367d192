"""Drum patterns by metre, with fills at the ends of phrases."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datamodules.corpus.scores import Bar

# General MIDI percussion keys.
KICK, STICK, SNARE, CLAP, HAT, OPEN_HAT, CRASH, RIDE, SHAKER = 36, 37, 38, 39, 42, 46, 49, 51, 70
LOW_TOM, MID_TOM, HIGH_TOM, TAMBOURINE, COWBELL, LOW_CONGA, HIGH_CONGA = 45, 47, 50, 54, 56, 64, 63
_VELOCITY = {"X": 104, "x": 86, "o": 58}
_PHRASE = 8


@dataclass(frozen=True)
class Hit:
    """One stroke: onset in beats, General MIDI key, velocity 1..127."""

    start: float
    key: int
    velocity: int


# One string a drum, one character a step; a bar is as many steps as the strings are long.
_Pattern = Mapping[int, str]
_FOUR: tuple[_Pattern, ...] = (
    {KICK: "X.......X.x.....", SNARE: "....X.......X...", HAT: "x.o.x.o.x.o.x.o."},
    {KICK: "X...x...X...x...", SNARE: "....X.......X...", HAT: "..x...x...x...x."},
    {KICK: "X.....x...X.....", SNARE: "....X.......X..o", RIDE: "x...x.o.x...x.o."},
    {KICK: "X...............", SNARE: "........X.......", HAT: "x...x...x...x..."},
    {KICK: "X.......x.......", STICK: "....x.......x.o.", SHAKER: "x.o.x.o.x.o.x.o."},
    {KICK: "X.......X.......", SNARE: "X.oox.ooX.oox.xx"},
    {LOW_TOM: "X.......x.....x.", HIGH_TOM: "....x...o...x...", TAMBOURINE: "..o...o...o...o."},
    {
        KICK: "X.......x.......",
        LOW_CONGA: "x.....x.....x.x.",
        HIGH_CONGA: "..x.o...x.x...o.",
        COWBELL: "x.......x.......",
    },
    {KICK: "X...X...X...X...", CLAP: "....X.......X...", OPEN_HAT: "..x...x...x...x.", HAT: "x...x...x...x..."},
)
_TWO: tuple[_Pattern, ...] = (
    {KICK: "X.......", SNARE: "....X...", HAT: "x.o.x.o."},
    {KICK: "X...x...", SNARE: "..x...x.", HAT: "x.x.x.x."},
    {KICK: "X.......", SNARE: "X.oox.oo"},
    {LOW_TOM: "X...o...", HIGH_TOM: "..x...x.", TAMBOURINE: "....x..."},
    {KICK: "X.......", STICK: "....x.o.", SHAKER: "x.o.x.o."},
)
_THREE: tuple[_Pattern, ...] = (
    {KICK: "X.....", SNARE: "..x.x.", HAT: "x.x.x."},
    {KICK: "X.....", STICK: "..x.x.", RIDE: "x.x.xo"},
    {KICK: "X....o", SNARE: "....X.", HAT: "xoxoxo"},
    {LOW_TOM: "X.....", TAMBOURINE: "..x.x."},
)
_SIX: tuple[_Pattern, ...] = (
    {KICK: "X.....", SNARE: "...X..", HAT: "xooxoo"},
    {KICK: "X..x..", SNARE: "..x..x", HAT: "x..x.."},
    {LOW_TOM: "X.ox.o", HIGH_TOM: "..x..x", TAMBOURINE: "...x.."},
    {KICK: "X....x", STICK: "...x..", SHAKER: "xooxoo"},
    {KICK: "X.....", SNARE: "XooXox"},
)
_NINE: tuple[_Pattern, ...] = (
    {KICK: "X........", SNARE: "...x..X..", HAT: "x.ox.ox.o"},
    {LOW_TOM: "X.ox.ox.o", TAMBOURINE: "...x..x.."},
    {KICK: "X..x..x..", SHAKER: "xooxooxoo", STICK: "..x..x..x"},
)
_PATTERNS: Mapping[tuple[int, int], tuple[_Pattern, ...]] = {
    (4, 4): _FOUR,
    (2, 2): _FOUR,
    (2, 4): _TWO,
    (3, 4): _THREE,
    (3, 8): ({KICK: "X..", HAT: ".xx"}, {LOW_TOM: "X.o", TAMBOURINE: "..x"}),
    (6, 8): _SIX,
    (9, 8): _NINE,
    (12, 8): tuple({key: line * 2 for key, line in pattern.items()} for pattern in _SIX),
}


def metre_permits(metre: tuple[int, int]) -> bool:
    """Whether there is a drum pattern in this time signature."""
    return metre in _PATTERNS


def drum_hits(bars: Sequence[Bar], rng: random.Random) -> list[Hit]:
    """A drum part: one pattern throughout, a fill in every eighth bar, a crash after it and at the end.

    Args:
        bars: all in one time signature that ``metre_permits``; part-bars stay silent.
        rng: draws the pattern and the little differences between strokes.
    """
    pattern = rng.choice(_PATTERNS[bars[0].metre])
    cymbals = KICK in pattern
    whole = [bar for bar in bars if bar.whole]
    hits: list[Hit] = []
    for index, bar in enumerate(whole):
        last = index + 1 == len(whole)
        fill = cymbals and (index + 1) % _PHRASE == 0 and not last
        hits.extend(_bar(bar, pattern, rng, until=0.5 if fill else 1.0))
        if fill:
            hits.extend(_fill(bar, rng))
        if cymbals and index and index % _PHRASE == 0:
            hits.append(Hit(bar.start, CRASH, 84))
    return sorted(hits, key=lambda hit: (hit.start, hit.key))


def _bar(bar: Bar, pattern: _Pattern, rng: random.Random, until: float) -> list[Hit]:
    hits = []
    for key, line in pattern.items():
        for step, mark in enumerate(line):
            if mark in _VELOCITY and step < until * len(line):
                velocity = _VELOCITY[mark] + rng.randint(-7, 7)
                hits.append(Hit(bar.start + bar.beats * step / len(line), key, velocity))
    return hits


def _fill(bar: Bar, rng: random.Random) -> list[Hit]:
    """Second half of a bar on the snare and down the toms."""
    steps = max(2, round(bar.beats / 2 * rng.choice((2, 4)) / (1 if bar.metre[1] == 4 else 1.5)))
    drums = (SNARE, HIGH_TOM, MID_TOM, LOW_TOM)
    half = bar.beats / 2
    return [
        Hit(bar.start + half + half * step / steps, drums[step * len(drums) // steps], 78 + 24 * step // steps)
        for step in range(steps)
    ]
