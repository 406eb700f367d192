"""From music21's corpus to a plain score. This is the one file that knows how music21 names things."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datamodules.corpus.scores import Bar, Note, Score, joined_bars

_CLOSE = 1e-4


class UnusableScoreError(Exception):
    """A score of the corpus that cannot be rendered: damaged, too short, or of no steady metre."""


@dataclass(frozen=True)
class _Measure:
    """A measure as written: its place, and what its bar lines say about repeats."""

    start: float
    beats: float
    metre: tuple[int, int]
    tempo: float | None
    repeat_start: bool
    repeat_end: bool
    ending: int


def read_score(text: str) -> Score:
    """Parses one score.

    Args:
        text: one ABC tune, or MusicXML.

    Returns:
        Its notes with ties joined, grace notes left out and repeats played out. Where a part has several notes at a
        time its highest is kept, so that a voice is a line.

    Raises:
        UnusableScoreError: music21 cannot read it, or it has no notes.
    """
    from music21 import converter

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stream = converter.parseData(text, format="musicxml" if text.startswith("<") else "abc")
            return _plain(stream)
    except UnusableScoreError:
        raise
    except Exception as error:
        # music21 raises whatever its parsers trip over; a damaged tune is the corpus's affair, and another is taken.
        raise UnusableScoreError(f"{type(error).__name__}: {error}") from error


def _plain(stream: Any) -> Score:
    parts = list(stream.parts)
    if not parts:
        raise UnusableScoreError("no parts")
    measures = _measures(parts[0], _tempi(stream))
    voices = [_line(part) for part in parts]
    voices = sorted((line for line in voices if line), key=lambda line: -sum(n.pitch for n in line) / len(line))
    if not voices or not measures:
        raise UnusableScoreError("no notes")
    written = [Note(n.start, n.beats, n.pitch, voice) for voice, line in enumerate(voices) for n in line]
    notes, bars = _played_out(written, measures)
    tonic, scale = _key(parts[0])
    return Score(tuple(notes), joined_bars(bars), tonic, scale)


def _line(part: Any) -> list[Note]:
    """The notes of a part as one line: the highest of a chord, ties joined, grace notes left out."""
    notes: list[Note] = []
    for element in part.flatten().notes:
        beats = float(element.duration.quarterLength)
        pitches = [pitch.midi for pitch in getattr(element, "pitches", ())]
        if beats <= 0 or not pitches or not 12 <= max(pitches) <= 120:
            continue
        note = Note(float(element.offset), beats, max(pitches))
        tied = element.tie is not None and element.tie.type in ("stop", "continue")
        last = notes[-1] if notes else None
        if last is not None and tied and last.pitch == note.pitch and abs(last.end - note.start) < _CLOSE:
            notes[-1] = Note(last.start, last.beats + beats, last.pitch)
        elif last is not None and note.start < last.start + _CLOSE:
            notes[-1] = max(last, note, key=lambda one: one.pitch)
        else:
            notes.append(note)
    return notes


def _measures(part: Any, tempi: list[tuple[float, float]]) -> list[_Measure]:
    from music21 import bar, spanner

    endings: dict[int, int] = {}
    for bracket in part.recurse().getElementsByClass(spanner.RepeatBracket):
        first = min(bracket.numberRange, default=1)
        endings.update({id(measure): first for measure in bracket.getSpannedElements()})
    metre = (4, 4)
    found: list[_Measure] = []
    for measure in part.getElementsByClass("Measure"):
        if measure.timeSignature is not None:
            metre = (measure.timeSignature.numerator, measure.timeSignature.denominator)
        beats = float(measure.duration.quarterLength)
        if beats <= 0:
            continue
        marks = [bpm for at, bpm in tempi if at < measure.offset + beats / 2]
        left, right = measure.leftBarline, measure.rightBarline
        found.append(
            _Measure(
                start=float(measure.offset),
                beats=beats,
                metre=metre,
                tempo=marks[-1] if marks else None,
                repeat_start=isinstance(left, bar.Repeat) and left.direction == "start",
                repeat_end=isinstance(right, bar.Repeat) and right.direction == "end",
                ending=endings.get(id(measure), 0),
            )
        )
    return found


def _order(measures: list[_Measure]) -> Iterator[_Measure]:
    """Measures in the order in which they are played: each repeated strain twice, first endings once."""
    start = 0
    for index, measure in enumerate(measures):
        if measure.repeat_start:
            start = index
        yield measure
        if measure.repeat_end:
            if measure.ending < 2:
                yield from (again for again in measures[start : index + 1] if again.ending != 1)
            start = index + 1


def _played_out(notes: list[Note], measures: list[_Measure]) -> tuple[list[Note], list[Bar]]:
    by_measure: list[list[Note]] = [[] for _ in measures]
    place = {measure.start: index for index, measure in enumerate(measures)}
    for voice in range(1 + max(note.voice for note in notes)):
        index = 0
        for note in (one for one in notes if one.voice == voice):
            while index + 1 < len(measures) and note.start > measures[index + 1].start - _CLOSE:
                index += 1
            by_measure[index].append(note)
    played: list[Note] = []
    bars: list[Bar] = []
    now = 0.0
    for measure in _order(measures):
        shift = now - measure.start
        moved = (Note(n.start + shift, n.beats, n.pitch, n.voice) for n in by_measure[place[measure.start]])
        played.extend(moved)
        bars.append(Bar(now, measure.beats, measure.metre, measure.tempo))
        now += measure.beats
    return sorted(played, key=lambda note: (note.start, note.voice, note.pitch)), bars


def _tempi(stream: Any) -> list[tuple[float, float]]:
    """The metronome marks: (place in quarter notes, quarter notes a minute), in order."""
    from music21 import tempo

    marks = [mark for part in stream.parts for mark in part.flatten().getElementsByClass(tempo.MetronomeMark)]
    # Marks that only have a word ("Slow") get a made-up number from music21; those are not the score's.
    stated = [mark for mark in marks if mark.number is not None and not mark.numberImplicit]
    return sorted((float(m.offset), float(m.getQuarterBPM())) for m in stated if 20 <= m.getQuarterBPM() <= 400)


def _key(part: Any) -> tuple[int | None, tuple[int, ...]]:
    from music21 import key

    for signature in part.recurse().getElementsByClass(key.KeySignature):
        scale = tuple(sorted((7 * signature.sharps + step) % 12 for step in (0, 2, 4, 5, 7, 9, 11)))
        tonic = signature.tonic.pitchClass if isinstance(signature, key.Key) else None
        return tonic, scale
    return None, (0, 2, 4, 5, 7, 9, 11)
