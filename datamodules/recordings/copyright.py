"""Debian's copyright files: who holds a file of a package, under what licence, and whether that is free.

The format is DEP-5 (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/): stanzas of fields; a stanza
with ``Files`` speaks for the files that its patterns match, and of several that match the last one counts. Its patterns
are relative to the source tree, whose paths differ from those that a package installs: ``packages`` knows both.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

_YEARS = re.compile(r"^[\s,]*(?:(?:copyright|©|\(c\)|\d{4}|present)[\s,–-]*|(?:and|by)\s+)+", re.IGNORECASE)
_ADDRESS = re.compile(r"\s*(?:<[^>]*>|\((?:https?://|www\.)[^)]*\))")
# Not a name: nobody, more than the file says, or a customer.
_NO_NAME = re.compile(
    r"^(?:public.domain|no.?copyright|not.applicable|commissioned by)\b|^(?:n/a|none|unknown)$|\band others\b",
    re.IGNORECASE,
)
_FREE = re.compile(
    r"public-domain|cc0(-1\.0)?|cc-by(-sa)?(-\d\.\d)?\+?|[al]?gpl(-\d(\.\d)?)?\+?|gfdl(-niv)?(-\d\.\d)?\+?"
    r"|oga-by(-\d\.\d)?\+?|lal(-\d\.\d)?|fal(-\d\.\d)?|artistic(-\d(\.\d)?)?|apache-2\.0|bsd-\d-clause"
    r"|mit|expat|isc|zlib|wtfpl"
)
_NOT_FREE = re.compile(r"\bn[cd]\b|non-?commercial|non-?free|no-?deriv|sampling|all.rights|proprietary")


@dataclass(frozen=True)
class Stanza:
    """What a copyright file says of some files.

    Attributes:
        files: patterns of their paths in the source tree.
        licence: its short name, as written; "" if there is none.
        holders: the lines of the copyright notice.
    """

    files: tuple[str, ...]
    licence: str
    holders: tuple[str, ...]

    @property
    def holder(self) -> str | None:
        """The one who holds the copyright, without years and addresses; None if several do, or nobody is named."""
        if len(self.holders) != 1:
            return None
        name = _ADDRESS.sub("", _YEARS.sub("", self.holders[0])).strip(" ,.")
        return name if name and not _NO_NAME.search(name) else None


def read_copyright(text: str) -> list[Stanza] | None:
    """The stanzas of a copyright file in their order; None if it is not machine-readable."""
    paragraphs = [_fields(one) for one in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n"))]
    paragraphs = [fields for fields in paragraphs if fields]
    if not paragraphs or not paragraphs[0].keys() & {"format", "format-specification"}:
        return None
    return [
        Stanza(
            files=tuple(fields["files"].split()),
            licence=fields.get("license", "").split("\n")[0].strip(),
            holders=tuple(line.strip() for line in fields.get("copyright", "").split("\n") if line.strip()),
        )
        for fields in paragraphs
        if "files" in fields
    ]


def source_of(text: str) -> str:
    """Where the packaged work comes from, as the head of a machine-readable file says in one line; may be empty."""
    return " ".join(_fields(re.split(r"\n[ \t]*\n", text, maxsplit=1)[0]).get("source", "").split())


def stanza_of(path: str, stanzas: Sequence[Stanza]) -> Stanza | None:
    """The last stanza that speaks for a path of the source tree."""
    matching = (one for one in reversed(stanzas) if any(glob_matches(pattern, path) for pattern in one.files))
    return next(matching, None)


def glob_matches(pattern: str, path: str) -> bool:
    """Whether a pattern of DEP-5 matches a whole path.

    ``*`` stands for any characters, slashes too, ``?`` for one, and a backslash takes the meaning from ``*``, ``?`` and
    itself.
    """
    return _compiled(pattern).fullmatch(path) is not None


def why_not_free(licence: str) -> str:
    """Why a licence of this short name is no leave to use a work freely; "" if it is.

    Names may be joined as DEP-5 has it: ``or`` leaves the choice, ``and`` and commas demand all, commas bind loosest.
    """
    if not licence:
        return "licence cannot be told: none is named"
    if all(any(_all_free(choice) for choice in re.split(r"\s+or\s+", part)) for part in _parts(licence)):
        return ""
    if _NOT_FREE.search(licence.lower()):
        return f"licence {licence} is not a free one"
    return f"licence cannot be told: {licence!r} is no name of a free licence that is known here"


def _parts(licence: str) -> list[str]:
    parts = (part.strip() for part in licence.lower().split(","))
    return [re.sub(r"^and\s+", "", part) for part in parts]


def _all_free(choice: str) -> bool:
    names = re.split(r"\s+and\s+", choice)
    return all(_FREE.fullmatch(re.sub(r"\s+with\s.*", "", name).strip()) for name in names)


def _fields(paragraph: str) -> dict[str, str]:
    """Names (in lower case) and values of a stanza's fields; further lines of a value keep their line breaks."""
    fields: dict[str, str] = {}
    name = ""
    for line in paragraph.split("\n"):
        match = re.match(r"([A-Za-z][\w-]*):(.*)", line)
        if match:
            name = match[1].lower()
            fields[name] = match[2].strip()
        elif name and line[:1] in " \t":
            fields[name] += "\n" + line.strip()
    return fields


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    meant = {"*": ".*", "?": "."}
    parts = re.findall(r"\\[*?\\]|.", pattern, re.DOTALL)
    return re.compile("".join(meant.get(part) or re.escape(part[-1]) for part in parts), re.DOTALL)
