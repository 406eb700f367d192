"""Titles, tune types and melody openings: by what two copies of one tune are recognised."""

import re
from collections.abc import Sequence
from itertools import pairwise

FORMS = (
    "slip jig",
    "jig",
    "strathspey",
    "hornpipe",
    "reel",
    "march",
    "waltz",
    "minuet",
    "polka",
    "clog",
    "fling",
    "air",
)
_LETTERS = {letter: step for step, letter in enumerate("CDEFGAB")}
# Words that two printings of one title put differently.
_IDLE = {"the", "a", "an", "o", "of", *FORMS, "slip", "highland", "called"}


def tidy_title(title: str) -> str:
    """A title as one would print it: no tune type after dashes, no capitals throughout, the article in front."""
    title = re.sub(r"\s+", " ", title).strip(" .\"'")
    title = re.sub(rf"\s+-+\s*({'|'.join(FORMS)})s?\b.*$", "", title, flags=re.IGNORECASE)
    if title.isupper():
        title = re.sub(r"[a-z]+('[a-z]{1,2}\b)?", lambda word: word[0].capitalize(), title.lower())
    match = re.fullmatch(r"(.*), (the|a|an)", title, flags=re.IGNORECASE)
    return f"{match[2].capitalize()} {match[1]}" if match else title.strip(" .-")


def plain_title(title: str) -> str:
    """A title for comparing: its words in order without articles, marks and tune types; "" if nothing is left."""
    words = re.sub(r"['’`]s?\b", "", title.lower())
    kept = [word.rstrip("s") for word in re.findall(r"[^\W_]+", words) if word not in _IDLE]
    return " ".join(kept)


def tune_form(tune: str) -> str:
    """The tune type that an ABC tune states in ``R:`` or in its title; "" where it states none."""
    stated = " ".join(re.findall(r"(?m)^[RGT]:(.*)$", tune)).lower()
    return next((form for form in FORMS if re.search(rf"\b{form}s?\b", stated.replace("slipjig", "slip jig"))), "")


def opening(degrees: Sequence[int], intervals: int = 20) -> str:
    """The first steps of a melody as text, in scale steps, so that key and octave do not matter; "" if it is short.

    A note said twice counts once: printings differ in how they split long notes.
    """
    moves = [after - before for before, after in pairwise(degrees) if after != before]
    return "melody " + " ".join(map(str, moves[:intervals])) if len(moves) >= intervals else ""


def abc_degrees(tune: str) -> list[int]:
    """The notes of an ABC tune as numbers of white keys, accidentals and rhythm left out."""
    body = tune[tune.index("\n", re.search(r"(?m)^K:", tune).start()) :]  # type: ignore[union-attr]
    body = re.sub(r"(?m)^(?:[A-Za-z]:|%).*$|%.*$", "", body)
    # Out with grace notes, quoted chords and fingerings, decorations and fields inside the line.
    body = re.sub(r"\{[^}]*\}|\"[^\"]*\"|![^!]*!|\[[A-Za-z]:[^\]]*\]", "", body)
    degrees = []
    for letter, octaves in re.findall(r"([A-Ga-g])([,']*)", body):
        octave = letter.islower() + octaves.count("'") - octaves.count(",")
        degrees.append(_LETTERS[letter.upper()] + 7 * octave)
    return degrees


def work_title(score: str) -> str:
    """The title of a Bach or quartet file from its place: "bach/bwv10.7.mxl" is "BWV 10.7"."""
    stem = score.removesuffix(".mxl").split("/")
    if stem[0] == "bach":
        return "BWV " + stem[1].removeprefix("bwv")
    work = re.sub(r"opus(\d+)(?:no(\d+))?", lambda m: f"Op. {m[1]}" + (f" No. {m[2]}" if m[2] else ""), stem[1])
    work = re.sub(r"^k(\d+)$", r"K. \1", work)
    movement = f", movement {stem[2].removeprefix('movement')}" if len(stem) > 2 else ""
    return f"String Quartet {work}{movement}"
