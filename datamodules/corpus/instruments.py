"""The instruments: General MIDI programs under the names that captions use, their families, compasses and uses."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Instrument:
    """One instrument.

    Attributes:
        name: as captions say it.
        program: General MIDI program 0..127; of a drum kit, its preset in bank 128.
        family: one of ``FAMILIES``.
        low: lowest MIDI pitch that sounds well.
        high: highest MIDI pitch that sounds well.
        uses: "melody", "chords", "bass", "pad", "voice" (a line in an ensemble), "solo" (all voices at once);
            and "slow" where the sound takes its time to speak.
    """

    name: str
    program: int
    family: str
    low: int
    high: int
    uses: frozenset[str]


def _of(name: str, program: int, family: str, low: int, high: int, *uses: str) -> Instrument:
    return Instrument(name, program, family, low, high, frozenset(uses))


INSTRUMENTS = (
    _of("piano", 0, "piano", 33, 100, "melody", "chords", "bass", "voice", "solo"),
    _of("bright piano", 1, "piano", 33, 100, "melody", "chords", "solo"),
    _of("electric piano", 4, "piano", 36, 96, "melody", "chords", "voice", "solo"),
    _of("harpsichord", 6, "piano", 36, 89, "melody", "chords", "voice", "solo"),
    _of("celesta", 8, "mallets", 60, 103, "melody", "voice"),
    _of("glockenspiel", 9, "mallets", 72, 105, "melody"),
    _of("music box", 10, "mallets", 60, 96, "melody", "chords"),
    _of("vibraphone", 11, "mallets", 53, 89, "melody", "chords", "voice"),
    _of("marimba", 12, "mallets", 45, 96, "melody", "chords", "voice", "solo"),
    _of("xylophone", 13, "mallets", 65, 103, "melody"),
    _of("dulcimer", 15, "mallets", 48, 88, "melody", "chords"),
    _of("drawbar organ", 16, "organ", 36, 96, "melody", "chords", "pad", "solo"),
    _of("church organ", 19, "organ", 36, 96, "chords", "pad", "voice", "solo", "slow"),
    _of("reed organ", 20, "organ", 41, 89, "melody", "chords", "pad", "solo", "slow"),
    _of("accordion", 21, "accordion", 50, 91, "melody", "chords", "pad"),
    _of("harmonica", 22, "accordion", 58, 91, "melody"),
    _of("nylon guitar", 24, "guitar", 40, 83, "melody", "chords", "voice"),
    _of("steel guitar", 25, "guitar", 40, 84, "melody", "chords", "voice"),
    _of("jazz guitar", 26, "guitar", 40, 86, "melody", "chords", "voice"),
    _of("clean electric guitar", 27, "guitar", 40, 86, "melody", "chords"),
    _of("overdriven guitar", 29, "guitar", 40, 86, "melody"),
    _of("acoustic bass", 32, "bass", 28, 55, "bass"),
    _of("electric bass", 33, "bass", 28, 55, "bass"),
    _of("fretless bass", 35, "bass", 28, 55, "bass"),
    _of("synth bass", 38, "bass", 28, 55, "bass"),
    _of("violin", 40, "strings", 55, 100, "melody", "voice"),
    _of("viola", 41, "strings", 48, 84, "melody", "voice"),
    _of("cello", 42, "strings", 36, 76, "melody", "bass", "voice"),
    _of("double bass", 43, "strings", 28, 60, "bass"),
    _of("pizzicato strings", 45, "strings", 36, 96, "melody", "chords", "bass", "voice", "solo"),
    _of("harp", 46, "strings", 36, 100, "melody", "chords", "solo"),
    _of("string ensemble", 48, "strings", 36, 96, "melody", "chords", "pad", "solo", "slow"),
    _of("choir", 52, "choir", 43, 84, "melody", "pad", "voice", "solo", "slow"),
    _of("trumpet", 56, "brass", 54, 84, "melody", "voice"),
    _of("trombone", 57, "brass", 40, 72, "melody", "bass", "voice"),
    _of("tuba", 58, "brass", 28, 58, "bass", "voice"),
    _of("muted trumpet", 59, "brass", 54, 84, "melody", "voice"),
    _of("French horn", 60, "brass", 41, 77, "melody", "voice"),
    _of("brass section", 61, "brass", 43, 84, "melody", "chords", "solo"),
    _of("soprano sax", 64, "woodwinds", 56, 88, "melody", "voice"),
    _of("alto sax", 65, "woodwinds", 49, 81, "melody", "voice"),
    _of("tenor sax", 66, "woodwinds", 44, 76, "melody", "voice"),
    _of("baritone sax", 67, "woodwinds", 36, 69, "bass", "voice"),
    _of("oboe", 68, "woodwinds", 58, 91, "melody", "voice"),
    _of("English horn", 69, "woodwinds", 52, 81, "melody", "voice"),
    _of("bassoon", 70, "woodwinds", 34, 72, "bass", "voice"),
    _of("clarinet", 71, "woodwinds", 50, 91, "melody", "voice"),
    _of("piccolo", 72, "woodwinds", 74, 105, "melody"),
    _of("flute", 73, "woodwinds", 60, 96, "melody", "voice"),
    _of("recorder", 74, "woodwinds", 60, 96, "melody", "voice"),
    _of("pan flute", 75, "woodwinds", 60, 96, "melody", "voice"),
    _of("whistle", 78, "woodwinds", 60, 96, "melody"),
    _of("ocarina", 79, "woodwinds", 60, 88, "melody"),
    _of("square lead synth", 80, "synth", 48, 96, "melody", "voice"),
    _of("sawtooth lead synth", 81, "synth", 48, 96, "melody", "voice"),
    _of("warm synth pad", 89, "synth", 36, 96, "pad", "chords", "solo", "slow"),
    _of("synth strings", 50, "synth", 36, 96, "melody", "pad", "chords", "solo", "slow"),
    _of("synth brass", 62, "synth", 43, 84, "melody", "chords"),
    _of("sitar", 104, "folk", 48, 84, "melody", "chords"),
    _of("banjo", 105, "folk", 48, 84, "melody", "chords"),
    _of("koto", 107, "folk", 48, 88, "melody", "chords"),
    _of("kalimba", 108, "mallets", 53, 88, "melody", "chords"),
    _of("bagpipe", 109, "folk", 55, 84, "melody"),
    _of("fiddle", 110, "strings", 55, 96, "melody"),
)

KITS = (
    Instrument("drum kit", 0, "drums", 0, 127, frozenset({"drums"})),
    Instrument("power drum kit", 16, "drums", 0, 127, frozenset({"drums"})),
    Instrument("electronic drum kit", 24, "drums", 0, 127, frozenset({"drums"})),
    Instrument("drum machine", 25, "drums", 0, 127, frozenset({"drums"})),
    Instrument("jazz drum kit", 32, "drums", 0, 127, frozenset({"drums"})),
    Instrument("brushed drum kit", 40, "drums", 0, 127, frozenset({"drums"})),
)

FAMILIES = tuple(dict.fromkeys(one.family for one in (*INSTRUMENTS, *KITS)))
_BY_NAME = {one.name: one for one in (*INSTRUMENTS, *KITS)}

# Four voices from the top down that belong together.
CONSORTS = (
    ("violin", "violin", "viola", "cello"),
    ("flute", "oboe", "clarinet", "bassoon"),
    ("trumpet", "trumpet", "French horn", "trombone"),
    ("trumpet", "French horn", "trombone", "tuba"),
    ("soprano sax", "alto sax", "tenor sax", "baritone sax"),
    ("recorder", "oboe", "English horn", "bassoon"),
    ("flute", "violin", "viola", "cello"),
    ("clarinet", "violin", "viola", "cello"),
    ("vibraphone", "jazz guitar", "electric piano", "acoustic bass"),
    ("square lead synth", "sawtooth lead synth", "electric piano", "synth bass"),
    ("nylon guitar", "nylon guitar", "nylon guitar", "cello"),
    ("celesta", "vibraphone", "marimba", "marimba"),
    ("choir", "choir", "choir", "choir"),
    ("pan flute", "steel guitar", "viola", "acoustic bass"),
    ("muted trumpet", "alto sax", "trombone", "acoustic bass"),
    ("violin", "clarinet", "French horn", "bassoon"),
)
_ENSEMBLES: dict[tuple[str, ...], str] = {
    ("violin", "violin", "viola", "cello"): "string quartet",
    ("flute", "oboe", "clarinet", "bassoon"): "woodwind quartet",
    ("trumpet", "trumpet", "French horn", "trombone"): "brass quartet",
    ("trumpet", "French horn", "trombone", "tuba"): "brass quartet",
    ("soprano sax", "alto sax", "tenor sax", "baritone sax"): "saxophone quartet",
}


def ensemble_of(names: Sequence[str]) -> str:
    """What players of these instruments, in order, are called together; "" where there is no word for them."""
    return _ENSEMBLES.get(tuple(names), "")


def instrument(name: str) -> Instrument:
    """The instrument or kit of that name."""
    return _BY_NAME[name]


def usable(use: str) -> list[Instrument]:
    """The instruments that serve a use, in a fixed order."""
    return [one for one in INSTRUMENTS if use in one.uses]
