"""A score as plain data: notes, bars, and the excerpt that a piece plays. Times are in quarter-note beats."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

_CLOSE = 1e-4


@dataclass(frozen=True)
class Note:
    """One note.

    Attributes:
        start: onset in beats from the start of the score.
        beats: length in beats.
        pitch: MIDI number, 69 is A4.
        voice: index of the voice, 0 is the highest.
    """

    start: float
    beats: float
    pitch: int
    voice: int = 0

    @property
    def end(self) -> float:
        """Where the note ends, in beats."""
        return self.start + self.beats


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        start: in beats from the start of the score.
        beats: length.
        metre: the time signature that holds in it.
        tempo: quarter notes a minute where the score has said so by then, else None.
    """

    start: float
    beats: float
    metre: tuple[int, int]
    tempo: float | None = None

    @property
    def end(self) -> float:
        """Where the bar ends, in beats."""
        return self.start + self.beats

    @property
    def whole(self) -> bool:
        """Whether the bar is as long as its time signature says; a pick-up is not."""
        return abs(self.beats - self.metre[0] * 4 / self.metre[1]) < _CLOSE


@dataclass(frozen=True)
class Score:
    """A score, its repeats played out.

    Attributes:
        notes: in order of onset.
        bars: in order, without gaps.
        tonic: pitch class 0..11 of the stated tonic, None where no key is named.
        scale: the seven pitch classes of the key signature.
    """

    notes: tuple[Note, ...]
    bars: tuple[Bar, ...]
    tonic: int | None = None
    scale: tuple[int, ...] = (0, 2, 4, 5, 7, 9, 11)

    @property
    def beats(self) -> float:
        """Length in beats."""
        return self.bars[-1].end if self.bars else 0.0

    @property
    def voices(self) -> int:
        """Number of voices."""
        return 1 + max((note.voice for note in self.notes), default=-1)


def excerpt(score: Score, first: int, last: int) -> Score:
    """Bars ``first`` to ``last`` (exclusive) as a score that starts at beat 0.

    A note that is held into the excerpt is left out, one that is held beyond it is cut at the last bar line.
    """
    bars = score.bars[first:last]
    start, end = bars[0].start, bars[-1].end
    notes = tuple(
        replace(note, start=note.start - start, beats=min(note.end, end) - note.start)
        for note in score.notes
        if start - _CLOSE <= note.start < end - _CLOSE
    )
    return replace(score, notes=notes, bars=tuple(replace(bar, start=bar.start - start) for bar in bars))


def played_round(score: Score, times: int) -> Score:
    """The score played ``times`` over, as a tune is for a dance.

    The last bar and the pick-up make one bar together, filled up with a rest where they are too short for that. Where
    the last bar is whole by itself, the pick-up is played the first time only.
    """
    first, last = score.bars[0], score.bars[-1]
    again = score if first.whole or not last.whole or len(score.bars) == 1 else excerpt(score, 1, len(score.bars))
    full = last.metre[0] * 4 / last.metre[1]
    rest = (full - last.beats - (0.0 if again.bars[0].whole else first.beats)) % full
    rest = 0.0 if min(rest, full - rest) < _CLOSE else rest
    notes: list[Note] = []
    bars: list[Bar] = []
    now = 0.0
    for turn in (score, *[again] * (times - 1)):
        notes += [replace(note, start=note.start + now) for note in turn.notes]
        bars += [replace(bar, start=bar.start + now) for bar in turn.bars]
        bars[-1] = replace(bars[-1], beats=bars[-1].beats + rest)
        now += turn.beats + rest
    return replace(score, notes=tuple(notes), bars=joined_bars(bars))


def joined_bars(bars: Sequence[Bar]) -> tuple[Bar, ...]:
    """Joins two neighbouring part-bars that make one whole bar, as at a repeat in the middle of a bar."""
    joined: list[Bar] = []
    for bar in bars:
        before = joined[-1] if joined else None
        if before is not None and not before.whole and not bar.whole and before.metre == bar.metre:
            both = replace(before, beats=before.beats + bar.beats)
            # The pick-up of the whole score stays by itself: only what completes a bar is joined.
            if both.whole:
                joined[-1] = both
                continue
        joined.append(bar)
    return tuple(joined)


def steady_runs(score: Score) -> list[tuple[int, int]]:
    """Runs of bars in one metre and tempo, all whole but for the first and the last: (first, last exclusive)."""
    runs: list[tuple[int, int]] = []
    first = 0
    for index, bar in enumerate(score.bars):
        opening = score.bars[first]
        if (bar.metre, bar.tempo) != (opening.metre, opening.tempo):
            runs.append((first, index))
            first = index
        elif not bar.whole and index > first:
            runs.append((first, index + 1))
            # A short bar ends a run, and may open the next as its pick-up.
            first = index
    return [*runs, (first, len(score.bars))]
