"""From a score to an arrangement: who plays what, how loud, how fast."""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from datamodules.corpus.scores import Bar, Note

# Heard level of a part against the melody, in dB.
LEVELS = {
    "melody": 0.0,
    "double": -4.0,
    "voice": -1.0,
    "solo": 0.0,
    "chords": -7.0,
    "pad": -9.0,
    "bass": -4.0,
    "drums": -4.0,
}
_TIMING_SECONDS = 0.004


@dataclass(frozen=True)
class Stroke:
    """A note as it is played: onset and length in beats, MIDI pitch, velocity 1..127."""

    start: float
    beats: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Part:
    """What one player plays: the instrument's name, the part's role (a key of ``LEVELS``), and the strokes in order."""

    instrument: str
    role: str
    strokes: tuple[Stroke, ...]


@dataclass(frozen=True)
class Arrangement:
    """Parts at a tempo.

    Attributes:
        parts: at least one.
        bpm: quarter notes a minute.
        beats: length of the music in quarter notes, without the last notes' release.
        room: "dry", "room" or "hall".
    """

    parts: tuple[Part, ...]
    bpm: float
    beats: float
    room: str = "dry"


def pulse_of(metre: tuple[int, int]) -> float:
    """Quarter notes in the felt beat: 1.5 in 6/8, 9/8 and 12/8, else the written beat, at most a quarter."""
    numerator, denominator = metre
    if denominator == 8 and numerator % 3 == 0:
        return 1.5
    return min(1.0, 4 / denominator)


def fitted(notes: Sequence[Note], low: int, high: int) -> list[Note]:
    """Notes moved by octaves into a compass: all together as far as possible, stragglers one by one."""
    if not notes:
        return []

    def outside(shift: int) -> tuple[int, int]:
        return sum(not low <= note.pitch + shift <= high for note in notes), abs(shift)

    shift = min(range(-48, 49, 12), key=outside)
    moved = []
    for note in notes:
        pitch = note.pitch + shift
        while pitch > high:
            pitch -= 12
        while pitch < low:
            pitch += 12
        moved.append(replace(note, pitch=pitch))
    return moved


def performed(
    notes: Iterable[Note], bars: Sequence[Bar], bpm: float, rng: random.Random, *, touch: float = 0.95, force: int = 80
) -> list[Stroke]:
    """Plays notes with a little life: accents of the metre, a swell over four bars, small unevenness in time and force.

    Args:
        notes: in order of onset.
        bars: the bars they stand in.
        bpm: quarter notes a minute.
        rng: draws the unevenness.
        touch: sounding part of each note's length: 0.6 is detached, 0.95 bound.
        force: velocity of an unaccented note.
    """
    strokes = []
    index = 0
    limit = 2.5 * _TIMING_SECONDS
    for note in notes:
        while index + 1 < len(bars) and note.start >= bars[index + 1].start - 1e-4:
            index += 1
        place = note.start - bars[index].start
        pulse = pulse_of(bars[index].metre)
        accent = 10 if place < 1e-3 else 5 if abs(place / pulse - round(place / pulse)) < 1e-3 else 0
        swell = 6 * math.sin(math.pi * ((index % 4) + place / max(bars[index].beats, 1e-6)) / 4)
        velocity = round(force + accent + swell + rng.uniform(-5, 5))
        late = max(-limit, min(limit, rng.gauss(0, _TIMING_SECONDS))) * bpm / 60
        strokes.append(
            Stroke(max(0.0, note.start + late), max(0.05, note.beats * touch), note.pitch, min(118, max(30, velocity)))
        )
    return strokes


def without_overlaps(strokes: Iterable[Stroke]) -> tuple[Stroke, ...]:
    """Strokes in order; one that is struck again on the same pitch ends there, and of two at once one is kept."""
    ordered = sorted(strokes, key=lambda stroke: (stroke.start, stroke.pitch, -stroke.beats))
    kept: list[Stroke] = []
    latest: dict[int, int] = {}
    for stroke in ordered:
        before = latest.get(stroke.pitch)
        if before is not None:
            room = stroke.start - kept[before].start
            if room < 0.03:
                continue
            if kept[before].beats > room:
                kept[before] = replace(kept[before], beats=room)
        latest[stroke.pitch] = len(kept)
        kept.append(stroke)
    return tuple(kept)
