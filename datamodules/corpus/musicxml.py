"""MusicXML cut down before music21 sees it: a whole quartet takes four seconds to parse, a stretch of it a tenth."""

import random
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

MEASURES = 110
# What does not sound, or is not rendered: reading it is most of music21's work.
_IDLE_IN_NOTES = ("beam", "stem", "notations", "lyric", "notehead", "accidental", "play")
_IDLE_IN_MEASURES = ("print", "harmony", "figured-bass", "bookmark", "link", "listening", "grouping")


@contextmanager
def open_mxl(path: Path) -> Iterator[IO[bytes]]:
    """The MusicXML inside a compressed file, to read from."""
    with zipfile.ZipFile(path) as archive:
        inner = next(name for name in archive.namelist() if name.endswith("xml") and not name.startswith("META-INF"))
        with archive.open(inner) as file:
            yield file


def stretch(path: Path, rng: random.Random) -> str:
    """At most ``MEASURES`` measures of a compressed MusicXML file, as MusicXML that stands by itself.

    Args:
        path: of the .mxl file.
        rng: draws where the stretch begins; half the time at the beginning, where the theme is.
    """
    with open_mxl(path) as file:
        score = ElementTree.parse(file).getroot()
    parts = score.findall("part")
    total = min((len(part.findall("measure")) for part in parts), default=0)
    first = rng.randrange(max(1, total - MEASURES)) if rng.random() < 0.5 else 0
    for part in parts:
        _keep(part, first, first + MEASURES)
    for measure in score.iter("measure"):
        _strip(measure)
    return ElementTree.tostring(score, encoding="unicode")


def _keep(part: Element, first: int, last: int) -> None:
    """Drops the measures outside first..last; what still holds of those before is said again where it starts."""
    measures = part.findall("measure")
    attributes: dict[tuple[str, str], Element] = {}
    tempo: Element | None = None
    for measure in measures[:first]:
        for child in measure:
            if child.tag == "attributes":
                attributes.update({(one.tag, one.get("number", "")): one for one in child})
            elif _has_tempo(child):
                tempo = child
    for measure in [*measures[:first], *measures[last:]]:
        part.remove(measure)
    if first and first < len(measures):
        opening = Element("attributes")
        opening.extend(sorted(attributes.values(), key=lambda one: _ORDER.index(one.tag) if one.tag in _ORDER else 99))
        measures[first].insert(0, opening)
        if tempo is not None:
            measures[first].insert(1, tempo)


_ORDER = ("divisions", "key", "time", "staves", "part-symbol", "instruments", "clef", "staff-details", "transpose")


def _has_tempo(element: Element) -> bool:
    return element.tag in ("direction", "sound") and (
        element.find(".//metronome") is not None or any(one.get("tempo") for one in element.iter("sound"))
    )


def _strip(measure: Element) -> None:
    for child in list(measure):
        if child.tag in _IDLE_IN_MEASURES or (child.tag == "direction" and not _has_tempo(child)):
            measure.remove(child)
        elif child.tag == "note":
            for idle in [one for one in child if one.tag in _IDLE_IN_NOTES]:
                child.remove(idle)
