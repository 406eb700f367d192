"""Chords for a bare tune: the cheapest path of diatonic triads under its bars."""

from dataclasses import dataclass

from datamodules.corpus.scores import Bar, Note, Score

# What a triad on each degree costs by itself: tonic, subdominant and dominant come easily, the seventh never.
_COST = (0.0, 0.55, 0.7, 0.15, 0.1, 0.35, 0.6)
_CHANGE = 0.18
_STILL_TOO_LONG = 0.12


@dataclass(frozen=True)
class Chord:
    """A triad over a span: onset and length in beats, pitch classes from the root up."""

    start: float
    beats: float
    classes: tuple[int, int, int]


def harmonise(score: Score, tonic: int) -> list[Chord]:
    """Chooses a chord for every bar, or half bar where the bar has an even number of beats from four up.

    Each triad of the key signature is scored by how much of the tune's sounding time under it is chord tones, with what
    starts on the beat counting double, and the best path is found by dynamic programming. The last chord is the tonic's
    where the tune allows it.

    Args:
        score: one voice, or several of which all count.
        tonic: pitch class 0..11 of the home note.
    """
    spans = [span for bar in score.bars if bar.whole or bar is score.bars[-1] for span in _spans(bar)]
    if not spans:
        return []
    degrees = _triads(score.scale, tonic)
    costs = [[_misfit(score.notes, span, triad) + weight for triad, weight in degrees] for span in spans]
    home = next((index for index, (triad, _) in enumerate(degrees) if triad[0] == tonic), 0)
    for index in range(len(degrees)):
        costs[0][index] += 0.0 if index == home else 0.3
        costs[-1][index] += 0.0 if index == home else 0.6
    best, back = [costs[0]], []
    for row in costs[1:]:
        steps = [_cheapest([cost + _move(j, i) for j, cost in enumerate(best[-1])]) for i in range(len(row))]
        best.append([row[i] + best[-1][j] + _move(j, i) for i, j in enumerate(steps)])
        back.append(steps)
    path = [_cheapest(best[-1])]
    for steps in reversed(back):
        path.append(steps[path[-1]])
    return [Chord(s, b, degrees[index][0]) for (s, b), index in zip(spans, reversed(path), strict=True)]


def _spans(bar: Bar) -> list[tuple[float, float]]:
    if bar.beats >= 4 and bar.metre[0] % 2 == 0:
        half = bar.beats / 2
        return [(bar.start, half), (bar.start + half, half)]
    return [(bar.start, bar.beats)]


def _triads(scale: tuple[int, ...], tonic: int) -> list[tuple[tuple[int, int, int], float]]:
    ordered = sorted(scale, key=lambda pitch: (pitch - tonic) % 12)
    found = []
    for degree, weight in enumerate(_COST):
        root, third, fifth = (ordered[(degree + step) % 7] for step in (0, 2, 4))
        # A diminished triad under a dance tune is a mistake of the chord finder.
        if (fifth - root) % 12 == 7:
            found.append(((root, third, fifth), weight))
    return found


def _misfit(notes: tuple[Note, ...], span: tuple[float, float], triad: tuple[int, int, int]) -> float:
    start, end = span[0], span[0] + span[1]
    inside = outside = 0.0
    for note in notes:
        if note.start >= end:
            break
        overlap = min(note.end, end) - max(note.start, start)
        if overlap > 0:
            weight = overlap * (2.0 if abs(note.start - start) < 1e-3 else 1.0)
            if note.pitch % 12 in triad:
                inside += weight
            else:
                outside += weight
    return 1.6 * outside / (inside + outside) if inside + outside else 0.2


def _move(before: int, after: int) -> float:
    return _STILL_TOO_LONG if before == after else _CHANGE


def _cheapest(costs: list[float]) -> int:
    return costs.index(min(costs))
