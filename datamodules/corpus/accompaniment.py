"""Chords, bass and drones under a tune."""

import random
from collections.abc import Sequence

from datamodules.corpus.arranging import pulse_of
from datamodules.corpus.harmony import Chord
from datamodules.corpus.instruments import Instrument
from datamodules.corpus.scores import Bar, Note

CHORD_STYLES = ("held", "pulsed", "offbeat", "afterbeat", "broken", "strummed")
BASS_STYLES = ("roots", "alternating", "pulsed")
_CENTRE = 60


def voicing(chord: Chord, centre: int) -> list[int]:
    """The triad in close position around a MIDI pitch, lowest first."""
    return sorted(centre - 6 + (pitch - centre + 6) % 12 for pitch in chord.classes)


def chord_notes(chords: Sequence[Chord], metre: tuple[int, int], style: str, player: Instrument) -> list[Note]:
    """The chords in one of ``CHORD_STYLES``, in the middle of the player's compass."""
    centre = min(max(_CENTRE, player.low + 7), player.high - 7)
    pulse = pulse_of(metre)
    notes: list[Note] = []
    for chord in chords:
        pitches = voicing(chord, centre)
        for offset, beats, chosen in _figure(style, chord.beats, pulse, pitches):
            notes.extend(Note(chord.start + offset + delay, beats, pitch) for delay, pitch in chosen)
    return notes


def _figure(
    style: str, span: float, pulse: float, pitches: list[int]
) -> list[tuple[float, float, list[tuple[float, int]]]]:
    """One chord's strokes: (offset, length, [(delay, pitch), ...])."""
    together = [(0.0, pitch) for pitch in pitches]
    pulses = [index * pulse for index in range(max(1, round(span / pulse)))]
    if style == "held":
        return [(0.0, span, together)]
    if style == "pulsed":
        return [(at, pulse * 0.9, together) for at in pulses]
    if style == "offbeat":
        late = pulse * (2 / 3 if pulse == 1.5 else 1 / 2)
        return [(at + late, pulse - late, together) for at in pulses]
    if style == "afterbeat":
        return [(at, pulse * 0.7, together) for at in pulses[1:]] or [(0.0, span, together)]
    if style == "strummed":
        spread = [(0.02 * index, pitch) for index, pitch in enumerate(pitches)]
        third = pulse * 2 / 3 if pulse == 1.5 else pulse / 2
        strokes = [(0.0, third, spread)] + [(at, third, spread) for at in pulses[1:]]
        return strokes + [(at + third, pulse - third, together[1:]) for at in pulses[1::2]]
    step = 0.5
    order = [0, 1, 2, 1] if pulse != 1.5 else [0, 1, 2]
    count = max(1, round(span / step))
    return [(at * step, step * 1.8, [together[order[at % len(order)] % len(pitches)]]) for at in range(count)]


def bass_notes(chords: Sequence[Chord], metre: tuple[int, int], style: str, player: Instrument) -> list[Note]:
    """The bass in one of ``BASS_STYLES``, in the lower part of the player's compass."""
    floor = max(player.low, 31)
    pulse = pulse_of(metre)
    notes: list[Note] = []
    for chord in chords:
        root, fifth = (floor + (pitch - floor) % 12 for pitch in (chord.classes[0], chord.classes[2]))
        if style == "roots":
            notes.append(Note(chord.start, chord.beats * 0.95, root))
            continue
        # Bass players do not run: no more than two notes in a span of two beats.
        step = pulse if style == "pulsed" else max(pulse, chord.beats / 2)
        for index in range(max(1, round(chord.beats / step))):
            pitch = fifth if style == "alternating" and index % 2 else root
            notes.append(Note(chord.start + index * step, step * 0.9, pitch))
    return notes


def drone_notes(bars: Sequence[Bar], tonic: int, player: Instrument) -> list[Note]:
    """Home note and fifth, held and struck anew every fourth bar."""
    low = max(player.low, 43)
    root = low + (tonic - low) % 12
    fifth = root + 7 if root + 7 <= player.high else root - 5
    notes: list[Note] = []
    for index in range(0, len(bars), 4):
        span = bars[index : index + 4]
        length = span[-1].end - span[0].start
        notes += [Note(span[0].start, length, root), Note(span[0].start, length, fifth)]
    return notes


def chord_style(metre: tuple[int, int], rng: random.Random, use: str) -> str:
    """A style that suits a metre and a player: pads hold, waltzes have afterbeats."""
    if use == "pad":
        return "held"
    if metre[0] == 3:
        return rng.choice(("afterbeat", "afterbeat", "broken", "strummed", "held"))
    return rng.choice(CHORD_STYLES)
