"""From unpacked packages to a folder of audio: what is music, free and long enough, each piece with its side-car."""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from datamodules.recordings.copyright import Stanza, glob_matches, read_copyright, stanza_of, why_not_free
from datamodules.recordings.debs import Unpacked
from datamodules.recordings.packages import with_known_names
from datamodules.recordings.tags import Tags, compose_caption, read_tags
from datamodules.whole_files import partial_path, write_whole

MIN_SECONDS = 20.0
AUDIO = "audio"
LICENCES = "LICENCES"
# What a piece is called whose tags name no genre, or one that says as little.
NO_GENRE = "video game music"
# Holders beyond these are named in the copyright file, which lies beside.
_HOLDERS_NAMED = 3


@dataclass(frozen=True)
class Piece:
    """A piece of music that was kept.

    Attributes:
        found: the package it is from.
        path: of its audio, relative to the folder it was collected in.
        original: its path in the source tree of the game.
        stanza: what the copyright file says of it.
        tags: what its tags say.
        seconds: its length, as its header says.
    """

    found: Unpacked
    path: str
    original: str
    stanza: Stanza
    tags: Tags
    seconds: float

    @property
    def source(self) -> str:
        """Package and version."""
        return f"{self.found.name} {self.found.version}"

    @property
    def artist(self) -> str | None:
        """Whom the tags name, or else the one holder of the copyright; under one name only."""
        artist = self.tags.artist or self.stanza.holder
        return with_known_names(artist) if artist else None

    @property
    def attribution(self) -> str:
        """One line that does what attribution licences ask for."""
        holders = self.stanza.holders
        if len(holders) > _HOLDERS_NAMED:
            holders = (*holders[:_HOLDERS_NAMED], f"and others, named in {LICENCES}/{self.found.name}.copyright")
        by = f" by {self.artist}" if self.artist else ""
        notice = f" Copyright: {'; '.join(holders)}." if holders else ""
        own = f" The file itself says: {' / '.join(self.tags.terms)}" if self.tags.terms else ""
        game = self.found.package.game
        return (
            f'"{self.tags.title}"{by}, music of {game} ({self.original} in Debian package {self.source}).'
            f"{notice} Licence: {self.stanza.licence}.{own}"
        )

    def side_car(self) -> dict[str, Any]:
        """The fields of its side-car; only what is known."""
        fields = {
            "title": self.tags.title,
            "artist": self.artist,
            "album": self.tags.album,
            "genre": self.tags.genre or NO_GENRE,
            "caption": compose_caption(self.found.package.game, self.tags, self.artist if self.tags.artist else None),
            "licence": self.stanza.licence,
            "source": self.source,
            "attribution": self.attribution,
            "original_path": self.original,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class LeftOut:
    """An audio file that was not kept, and why."""

    source: str
    original: str
    reason: str


@dataclass(frozen=True)
class Collection:
    """What came of it: the pieces, and what was left out."""

    pieces: tuple[Piece, ...]
    left_out: tuple[LeftOut, ...]


def collect(
    packages: Sequence[Unpacked],
    out: Path,
    min_seconds: float = MIN_SECONDS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Collection:
    """Puts the music of unpacked packages into ``out/audio/PACKAGE``, each piece with a side-car JSON.

    Copyright files and texts that name musicians go to ``out/LICENCES``. Files that were collected before and are no
    longer wanted are removed; those that are as they should be are not touched.

    Args:
        packages: what ``debs.unpack`` made.
        out: the folder.
        min_seconds: shorter pieces are left out.
        progress: is told how many files were looked at, and of how many.
    """
    files = [(found, path) for found in packages for path in sorted(found.files.rglob("*")) if path.is_file()]
    stanzas = {found.name: _stanzas(found) for found in packages}
    pieces, left_out = [], []
    for done, (found, path) in enumerate(files, start=1):
        result = _judge(found, path, stanzas[found.name], min_seconds)
        if isinstance(result, Piece):
            pieces.append(result)
            _place(result, path, out)
        else:
            left_out.append(result)
        progress(done, len(files))
    for found in packages:
        _keep_licences(found, out)
        _remove_others(out / AUDIO / found.name, {out / piece.path for piece in pieces})
    return Collection(tuple(pieces), tuple(left_out))


def write_if_new(path: Path, text: str) -> None:
    """Writes a text file whole; one that says the same already keeps its time stamp."""
    if path.is_file() and path.read_bytes() == text.encode():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())


def _stanzas(found: Unpacked) -> list[Stanza] | str:
    """What the copyright file says, or why it cannot be told."""
    text = found.copyright
    if not text:
        return "licence cannot be told: the package came without a copyright file"
    stanzas = read_copyright(text)
    if stanzas is not None:
        return stanzas
    prose = found.package.prose
    if prose is not None and re.search(prose.says, text):
        return [prose.stanza]
    return "licence cannot be told: the package's copyright file is not machine-readable"


def _judge(found: Unpacked, path: Path, stanzas: list[Stanza] | str, min_seconds: float) -> Piece | LeftOut:
    """A piece if it may and should be kept."""
    relative = path.relative_to(found.files).as_posix()
    original = found.package.source + relative

    def leave(reason: str) -> LeftOut:
        return LeftOut(f"{found.name} {found.version}", original, reason)

    for pattern, reason in found.package.left_out:
        if glob_matches(pattern, relative):
            return leave(reason)
    if isinstance(stanzas, str):
        return leave(stanzas)
    stanza = stanza_of(original, stanzas)
    if stanza is None:
        return leave("licence cannot be told: the copyright file says nothing of this file")
    if refusal := why_not_free(stanza.licence):
        return leave(refusal)
    try:
        seconds = float(soundfile.info(str(path)).duration)
    except soundfile.LibsndfileError as error:
        return leave(f"cannot be read as audio ({error.error_string.strip()})")
    if seconds < min_seconds:
        return leave(f"too short: {seconds:.1f} s")
    tags = read_tags(path)
    if tags.restricted:
        return leave(f"its tags take back what the copyright file grants: {' / '.join(tags.terms)}")
    return Piece(found, f"{AUDIO}/{found.name}/{relative}", original, stanza, tags, seconds)


def _place(piece: Piece, source: Path, out: Path) -> None:
    """Audio and side-car; the audio is a second name of the unpacked file where the file system has that."""
    target = out / piece.path
    target.parent.mkdir(parents=True, exist_ok=True)
    write_if_new(target.with_suffix(".json"), json.dumps(piece.side_car(), ensure_ascii=False, indent=1) + "\n")
    if target.is_file() and _same(target.stat(), source.stat()):
        return
    partial = partial_path(target)
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copy2(source, partial)
    partial.replace(target)


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def _keep_licences(found: Unpacked, out: Path) -> None:
    write_if_new(out / LICENCES / f"{found.name}.copyright", found.copyright)
    for path in sorted(found.credits.rglob("*")) if found.credits.is_dir() else ():
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            write_if_new(out / LICENCES / f"{found.name}.credits" / path.relative_to(found.credits), text)


def _remove_others(folder: Path, wanted: set[Path]) -> None:
    wanted = wanted | {path.with_suffix(".json") for path in wanted}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file() and path not in wanted:
            path.unlink()
