"""What the tags and the name of an audio file tell about the music in it."""

import re
from dataclasses import dataclass
from pathlib import Path

# Said of a piece, these say that it belongs to a game, which is known, or nothing at all.
_NO_GENRE = re.compile(
    r"(video ?)?games?( (music|soundtrack))?|(original )?soundtrack|other|unknown|misc\w*|none|default|widelands",
    re.IGNORECASE,
)
_TERMS = re.compile(r"licen[sc]e|copyright|\(c\)|©|\bcc[- ]?(?:by|0)\b|\bgpl\b|permission", re.IGNORECASE)
# Unlike the names of licences: in plain words, and as Creative Commons abbreviates in addresses.
_RESTRICTED = re.compile(r"by-n[cd]|-nc\b|-nd\b|non-?commercial|all rights reserved|no derivative", re.IGNORECASE)


@dataclass(frozen=True)
class Tags:
    """The tags of a file, those that are of use.

    Attributes:
        title: of the piece, from the tags, or else from the file's name.
        named: whether the title is from the tags.
        artist: who made it; None if the tags name nobody.
        album: None if they name none.
        genre: None if they name none.
        terms: what they say of licence and copyright, in their own words; may be empty.
    """

    title: str
    named: bool
    artist: str | None
    album: str | None
    genre: str | None
    terms: tuple[str, ...]

    @property
    def restricted(self) -> bool:
        """Whether the terms forbid what a free licence allows."""
        return any(_RESTRICTED.search(term) for term in self.terms)


def read_tags(path: Path) -> Tags:
    """The tags of an audio file; a file whose tags cannot be read has none."""
    from tinytag import TinyTag
    from tinytag.tinytag import TinyTagException

    try:
        fields = {name: value for name, value in TinyTag.get(path).as_dict().items() if isinstance(value, list)}
    except TinyTagException:
        fields = {}
    values = {name: [text for one in value if (text := _text(one))] for name, value in fields.items()}
    own = _own_title(values.get("title", []), path.stem)
    return Tags(
        title=own or title_from_name(path.stem),
        named=own is not None,
        artist=_first(values, "artist") or _first(values, "composer"),
        album=_first(values, "album"),
        genre=next((one for one in values.get("genre", []) if not _NO_GENRE.fullmatch(one)), None),
        terms=tuple(
            dict.fromkeys(
                text
                for name, several in values.items()
                for text in several
                if re.search(r"licen[sc]e|copyright", name) or (name == "comment" and _TERMS.search(text))
            )
        ),
    )


def title_from_name(stem: str) -> str:
    """A title out of a file's name: "03_-_Along_the_Nile" reads "Along the Nile", "AlongTheNile" "Along The Nile"."""
    spaced = re.sub(r"_+", " ", stem) if re.search(r"[_ ]", stem) else re.sub(r"-+", " ", stem)
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", spaced)
    return re.sub(r"^\d+[\s.-]+", "", spaced).strip() or stem


def compose_caption(game: str, tags: Tags, artist: str | None) -> str:
    """What is known, in words: the game; title, artist and genre as far as they are known."""
    words = f"Music of {game}"
    # A file's name with a number in it counts files; it does not tell what the piece is about.
    if tags.named or not re.search(r"\d", tags.title):
        words += f': "{tags.title}"'
    if artist:
        words += f", by {artist}"
    words = words.removesuffix(".") + "."
    return words + (f" Genre: {tags.genre}." if tags.genre else "")


def _own_title(titles: list[str], stem: str) -> str | None:
    """The title; of several (left over from the tags of other files) the one that the file's name speaks for."""
    if len(set(titles)) <= 1:
        return titles[0] if titles else None
    words = re.findall(r"[a-z]{3,}", stem.lower())
    meant = [one for one in titles if any(word in re.sub(r"[^a-z]", "", one.lower()) for word in words)]
    return meant[0] if len(meant) == 1 else None


def _first(values: dict[str, list[str]], name: str) -> str | None:
    """The first value of a field that is more than question marks."""
    return next((one for one in values.get(name, []) if re.search(r"\w", one)), None)


def _text(value: object) -> str:
    return " ".join(str(value).replace("\0", " ").split())
