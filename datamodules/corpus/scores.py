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
    """One bar: where it starts, how long it is (both in beats), and the time signature that holds in it."""

    start: float
    beats: float
    metre: tuple[int, int]

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
        tempo: quarter notes a minute where the score says so, else None.
        tonic: pitch class 0..11 of the stated tonic, None where no key is named.
        scale: the seven pitch classes of the key signature.
    """

    notes: tuple[Note, ...]
    bars: tuple[Bar, ...]
    tempo: float | None = None
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
    """The score played ``times`` over, as a tune is for a dance."""
    length = score.beats
    notes = [replace(note, start=note.start + turn * length) for turn in range(times) for note in score.notes]
    bars = [replace(bar, start=bar.start + turn * length) for turn in range(times) for bar in score.bars]
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


def steady_bars(score: Score) -> tuple[int, int]:
    """The longest run of bars in one time signature, all whole but for the first and the last: (first, last exclusive)."""
    best = (0, 0)
    first = 0
    for index, bar in enumerate(score.bars):
        if bar.metre != score.bars[first].metre:
            first = index
        if index + 1 - first > best[1] - best[0]:
            best = (first, index + 1)
        if not bar.whole and index > first:
            # A short bar ends a run, and may open the next as its pick-up.
            first = index
    return best
