"""The page that names everybody: what each piece is called, whose it is, and under what licence it may be used."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from datamodules.recordings.collecting import LICENCES, Collection, Piece, write_if_new
from datamodules.recordings.copyright import source_of

PAGE = "ATTRIBUTION.md"
LEFT_OUT = "left_out.jsonl"

_HEAD = f"""# Attribution

{{count}} pieces of music out of Debian packages, each with the licence and the copyright notice that its package's
copyright file gives it. The files themselves, with the texts of the licences, are in `{LICENCES}/`, together with the
packages' own lists of musicians. Beside each audio file lies a JSON file that says the same of it alone. Whoever passes
the music on keeps all of this with it; licences that begin with CC-BY-SA or GPL also ask for the same terms.

Where the music is the work of people whom neither its tags nor the copyright file names, no artist is given.
"""


def write_attribution(collection: Collection, out: Path) -> Path:
    """Writes the page, and ``left_out.jsonl``: one JSON object a line for each audio file that was left out, and why.

    Returns:
        The path of the page.
    """
    parts = [_HEAD.format(count=len(collection.pieces))]
    for (source,), of_package in _grouped(collection.pieces, lambda piece: (piece.source,)).items():
        package = of_package[0].found
        home = source_of(package.copyright)
        parts.append(f"## {source}\n\nMusic of {package.package.game}{f', from {home}' if home else ''}.\n")
        for (licence, holders), pieces in _grouped(of_package, _terms).items():
            parts.append(f"### {licence}\n\nCopyright: {holders or 'none is claimed'}\n")
            parts.append("\n".join(map(_line, pieces)) + "\n")
    write_if_new(out / PAGE, "\n".join(parts))
    lines = (
        json.dumps({"source": one.source, "original_path": one.original, "reason": one.reason}, ensure_ascii=False)
        for one in collection.left_out
    )
    write_if_new(out / LEFT_OUT, "".join(line + "\n" for line in lines))
    return out / PAGE


def _grouped(pieces: Iterable[Piece], key: Callable[[Piece], tuple[str, ...]]) -> dict[tuple[str, ...], list[Piece]]:
    groups: dict[tuple[str, ...], list[Piece]] = {}
    for piece in sorted(pieces, key=lambda piece: (key(piece), piece.path)):
        groups.setdefault(key(piece), []).append(piece)
    return groups


def _terms(piece: Piece) -> tuple[str, ...]:
    return piece.stanza.licence, "; ".join(piece.stanza.holders)


def _line(piece: Piece) -> str:
    by = f", {piece.artist}" if piece.artist else ""
    own = f'; the file itself says: "{" / ".join(piece.tags.terms)}"' if piece.tags.terms else ""
    return f"- *{piece.tags.title}*{by}: `{piece.path}`, originally `{piece.original}`{own}"
