"""The band: which instruments play a score, and in which roles."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.corpus.accompaniment import BASS_STYLES, bass_notes, chord_notes, chord_style, drone_notes
from datamodules.corpus.arranging import Arrangement, Part, Stroke, fitted, performed, without_overlaps
from datamodules.corpus.drums import drum_hits, metre_permits
from datamodules.corpus.harmony import harmonise
from datamodules.corpus.instruments import CONSORTS, KITS, Instrument, instrument, usable
from datamodules.corpus.scores import Note, Score

# How often a kit joins: enough that about two pieces in five have one.
_DRUMS_WITH_BAND = 0.62
_DRUMS_WITH_VOICES = 0.25
_QUICK_NOTES_A_SECOND = 3.2
_TUNE_LAYOUTS = {"alone": 0.1, "duo": 0.22, "band": 0.5, "drone": 0.1, "unison": 0.08}
_VOICE_LAYOUTS = {"consort": 0.5, "one player": 0.27, "lead": 0.23}


@dataclass(frozen=True)
class _Session:
    """What every part of one arrangement needs."""

    score: Score
    bpm: float
    rng: random.Random
    touch: float
    quick: bool

    def part(self, player: Instrument, role: str, notes: Sequence[Note], force: int = 80) -> Part:
        placed = fitted(sorted(notes, key=lambda note: note.start), player.low, player.high)
        touch = self.touch if role in ("melody", "double", "voice", "solo") else 0.97
        strokes = performed(placed, self.score.bars, self.bpm, self.rng, touch=touch, force=force)
        return Part(player.name, role, without_overlaps(strokes))

    def pick(self, use: str, taken: Sequence[str] = ()) -> Instrument:
        """An instrument for a use: first a family, then one of it that is not playing yet.

        A family of nine is drawn three times as often as a family of one, not nine times. Fast lines are not given to
        instruments that speak slowly.
        """
        families: dict[str, list[Instrument]] = {}
        for one in usable(use):
            mumbles = self.quick and "slow" in one.uses and use in ("melody", "solo")
            if one.name not in taken and not mumbles:
                families.setdefault(one.family, []).append(one)
        return self.rng.choice(self.rng.choices(list(families.values()), [len(f) ** 0.5 for f in families.values()])[0])


def arrange(score: Score, *, tonic: int, bpm: float, rng: random.Random) -> Arrangement:
    """Arranges an excerpt.

    Args:
        score: starts at beat 0, in one time signature.
        tonic: pitch class of the home note, for the chords under a bare tune.
        bpm: quarter notes a minute.
        rng: draws everything there is to choose.
    """
    busiest = max(sum(note.voice == voice for note in score.notes) for voice in range(score.voices))
    quick = busiest / (score.beats * 60 / bpm) > _QUICK_NOTES_A_SECOND
    session = _Session(score, bpm, rng, touch=rng.choice((0.7, 0.85, 0.95, 0.98)), quick=quick)
    if score.voices == 1:
        parts, drums = _tune(session, score.tonic if score.tonic is not None else tonic)
    else:
        parts, drums = _voices(session), rng.random() < _DRUMS_WITH_VOICES
    if drums and metre_permits(score.bars[0].metre):
        parts.append(_kit(session))
    room = rng.choices(("dry", "room", "hall"), (0.3, 0.45, 0.25))[0]
    return Arrangement(tuple(part for part in parts if part.strokes), bpm, score.beats, room)


def _tune(session: _Session, tonic: int) -> tuple[list[Part], bool]:
    rng, score = session.rng, session.score
    metre = score.bars[0].metre
    layout = rng.choices(list(_TUNE_LAYOUTS), list(_TUNE_LAYOUTS.values()))[0]
    melody = session.pick("melody")
    parts = [session.part(melody, "melody", score.notes, force=84)]
    taken = [melody.name]
    if layout == "alone":
        return parts, False
    if layout == "unison":
        double = session.pick("melody", taken)
        return [*parts, session.part(double, "double", score.notes, force=76)], rng.random() < _DRUMS_WITH_BAND
    if layout == "drone":
        player = session.pick("pad", taken)
        drone = session.part(player, "pad", drone_notes(score.bars, tonic, player), force=70)
        return [*parts, drone], rng.random() < _DRUMS_WITH_BAND
    chords = harmonise(score, tonic)
    use = "pad" if rng.random() < 0.2 else "chords"
    player = session.pick(use, taken)
    taken.append(player.name)
    notes = chord_notes(chords, metre, chord_style(metre, rng, use), player)
    parts.append(session.part(player, use, notes, force=70))
    if layout == "band":
        player = session.pick("bass", taken)
        taken.append(player.name)
        parts.append(session.part(player, "bass", bass_notes(chords, metre, rng.choice(BASS_STYLES), player), force=82))
        if rng.random() < 0.25:
            parts.append(session.part(session.pick("melody", taken), "double", score.notes, force=74))
    return parts, rng.random() < (_DRUMS_WITH_BAND if layout == "band" else _DRUMS_WITH_BAND / 2)


def _voices(session: _Session) -> list[Part]:
    rng, score = session.rng, session.score
    lines = [[note for note in score.notes if note.voice == voice] for voice in range(score.voices)]
    lines = [line for line in lines if line]
    layout = rng.choices(list(_VOICE_LAYOUTS), list(_VOICE_LAYOUTS.values()))[0]
    if layout == "one player":
        return [session.part(session.pick("solo"), "solo", score.notes)]
    if layout == "lead":
        lead = session.pick("melody")
        rest = [note for line in lines[1:] for note in line]
        under = session.pick("solo", [lead.name])
        parts = [session.part(lead, "melody", lines[0], force=86), session.part(under, "chords", rest, force=74)]
        if rng.random() < 0.5:
            parts.append(session.part(session.pick("bass", [lead.name, under.name]), "bass", lines[-1]))
        return parts
    names = _seats(rng.choice(CONSORTS), len(lines))
    return [session.part(instrument(name), "voice", line) for name, line in zip(names, lines, strict=True)]


def _seats(consort: Sequence[str], voices: int) -> list[str]:
    """Spreads a consort of four over any number of voices, the outer two kept at the outside."""
    if voices == 1:
        return [consort[0]]
    return [consort[round(index * (len(consort) - 1) / (voices - 1))] for index in range(voices)]


def _kit(session: _Session) -> Part:
    kit = session.rng.choice(KITS)
    hits = drum_hits(session.score.bars, session.rng)
    strokes = tuple(Stroke(hit.start, 0.25, hit.key, min(118, hit.velocity)) for hit in hits)
    return Part(kit.name, "drums", strokes)
