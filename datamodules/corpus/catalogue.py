"""Which scores there are, which of them are the same music, and on which side of the split each stands.

music21's books of tunes (O'Neill, Aird) hold up to two hundred a file. They are cut at their ``X:`` lines once; where
each tune lies is kept in a cache, because finding the tunes that two books share needs all of them read.
"""

import json
import os
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from datamodules.corpus.musicxml import open_mxl, stretch
from datamodules.corpus.packages import package_folder
from datamodules.corpus.reading import read_score
from datamodules.corpus.scores import Score
from datamodules.corpus.titles import abc_degrees, opening, plain_title, tidy_title, tune_form, work_title

# Raise when entries change shape or meaning: caches of another number are not read.
FORMAT = 1
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Collection:
    """A collection of music21's corpus: its name, its files, who composed it, and what its works are."""

    name: str
    pattern: str
    composer: str
    form: str = ""


# Named one by one, so that nothing comes in by living in the corpus: Palestrina and the three CCARH .krn files (rights
# reserved) and Essen (non-commercial) stay out. No .krn file is read at all, and of Mozart not the sonata K. 545.
COLLECTIONS = (
    Collection("Bach", "bach/*.mxl", "Johann Sebastian Bach", "chorale"),
    Collection("Ryan's Mammoth Collection", "ryansMammoth/*.abc", "traditional"),
    Collection("O'Neill's Music of Ireland", "oneills1850/*.abc", "traditional"),
    Collection("Aird's Airs", "airdsAirs/*.abc", "traditional"),
    Collection("Mozart quartets", "mozart/k[!5]*/*.mxl", "Wolfgang Amadeus Mozart", "quartet movement"),
    Collection("Haydn quartets", "haydn/opus*/*.mxl", "Joseph Haydn", "quartet movement"),
    Collection("Beethoven quartets", "beethoven/opus*.mxl", "Ludwig van Beethoven", "quartet movement"),
    Collection("Beethoven quartets", "beethoven/opus*/*.mxl", "Ludwig van Beethoven", "quartet movement"),
)
_OTHER_FORMS = {"bach/bwv846.mxl": "prelude"}


@dataclass(frozen=True)
class Entry:
    """One score.

    Attributes:
        score: its identity: the file in the corpus, with ``#number`` for a tune of a book.
        collection: name of the collection.
        composer: a name, or "traditional".
        title: as the score gives it, tidied.
        form: "reel", "jig", ... where the score names one, else "".
        start: first character of the tune in its file.
        length: characters of the tune; 0 stands for the whole file.
        split: "train", "valid" or "test".
    """

    score: str
    collection: str
    composer: str
    title: str
    form: str = ""
    start: int = 0
    length: int = 0
    split: str = ""

    def read(self, rng: random.Random) -> Score:
        """The score as plain notes; of a long one a stretch that ``rng`` draws.

        Raises:
            UnusableScoreError: it is damaged.
        """
        path = package_folder("music21") / "corpus" / self.score.partition("#")[0]
        if not self.length:
            return read_score(stretch(path, rng))
        return read_score(path.read_text(encoding="utf-8", errors="replace")[self.start : self.start + self.length])


def catalogue() -> list[Entry]:
    """Every score that may be rendered, in a fixed order; from the cache where it has been made before.

    The cache is a JSON file named after music21's version in ``$XDG_CACHE_HOME/musicgen-lightning``. It is moved into
    place whole, so processes that make it at the same time do each other no harm; where it cannot be written it is
    made again each time.

    Raises:
        InputError: music21 is not installed.
    """
    path = _cache_folder() / f"corpus-{version('music21')}-{FORMAT}.json"
    try:
        return [Entry(**fields) for fields in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        pass
    entries = _build(package_folder("music21") / "corpus")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps([asdict(entry) for entry in entries]), encoding="utf-8")
        partial.replace(path)
    except OSError:
        pass
    return entries


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "musicgen-lightning"


def _build(root: Path) -> list[Entry]:
    found: list[Entry] = []
    marks: list[list[str]] = []
    for collection in COLLECTIONS:
        for path in sorted(root.glob(collection.pattern)):
            for entry, mark in _scan(path, path.relative_to(root).as_posix(), collection):
                found.append(entry)
                marks.append(mark)
    groups = same_music([[entry.score, *mark] for entry, mark in zip(found, marks, strict=True)])
    return [replace(entry, split=split_of(group)) for entry, group in zip(found, groups, strict=True)]


def split_of(group: str) -> str:
    """The side on which a group of scores stands: eight tenths train, a tenth each valid and test, by hash alone."""
    place = int.from_bytes(blake2b(group.encode(), digest_size=8).digest(), "little") % 10
    return SPLITS[0] if place < 8 else SPLITS[place - 7]


def same_music(marks: Iterable[Iterable[str]]) -> list[str]:
    """Groups what shares a mark, directly or through others.

    Args:
        marks: for each score the names it goes by: its path, its title, the opening of its melody.

    Returns:
        For each score the name of its group, the least of all marks in it: it depends on the group alone.
    """
    parent: dict[str, str] = {}

    def root(mark: str) -> str:
        while parent.setdefault(mark, mark) != mark:
            parent[mark] = parent[parent[mark]]
            mark = parent[mark]
        return mark

    listed = [[mark for mark in one if mark] for one in marks]
    for one in listed:
        for mark in one[1:]:
            least, other = sorted((root(one[0]), root(mark)))
            parent[other] = least
    return [root(one[0]) for one in listed]


def _scan(path: Path, name: str, collection: Collection) -> Iterator[tuple[Entry, list[str]]]:
    if path.suffix == ".mxl":
        # Chorales come in several settings of one melody; movements of quartets share nothing.
        mark = opening(_top_line(path)) if collection.name == "Bach" else ""
        yield (
            Entry(
                name, collection.name, collection.composer, work_title(name), _OTHER_FORMS.get(name, collection.form)
            ),
            [mark],
        )
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    starts = [match.start() for match in re.finditer(r"(?m)^X:\s*\d", text)]
    seen: dict[str, int] = {}
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        tune = text[start:end]
        if not re.search(r"(?m)^K:", tune):
            continue
        number = re.match(r"X:\s*(\d+)", tune)[1].lstrip("0") or "0"  # type: ignore[index]
        seen[number] = seen.get(number, 0) + 1
        label = number if seen[number] == 1 else f"{number}.{seen[number]}"
        titles = [tidy_title(line) for line in re.findall(r"(?m)^T:(.*)$", tune)] or [""]
        yield (
            Entry(
                score=f"{name}#{label}" if len(starts) > 1 else name,
                collection=collection.name,
                composer=collection.composer,
                title=titles[0],
                form=tune_form(tune),
                start=start,
                length=end - start,
            ),
            [*(plain_title(title) for title in titles), opening(abc_degrees(tune))],
        )


def _top_line(path: Path) -> list[int]:
    """The first part of a compressed MusicXML file as numbers of white keys, without music21's weight."""
    degrees = []
    with open_mxl(path) as file:
        for _, element in ElementTree.iterparse(file):
            if element.tag == "pitch":
                step, octave = element.findtext("step", "C"), int(element.findtext("octave", "4"))
                degrees.append("CDEFGAB".index(step) + 7 * octave)
            elif element.tag == "part":
                break
    return degrees
