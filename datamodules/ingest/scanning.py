"""Which files there are: a walk through folders, links, and names of any script."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.errors import InputError

# What libsndfile reads, and what people will expect to be read and is refused with a reason.
READABLE = frozenset(
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64")
)
ELSEWHERE = frozenset((".m4a", ".aac", ".mp4", ".wma", ".ape", ".wv", ".webm", ".mka", ".alac"))


@dataclass(frozen=True)
class Found:
    """A file that may be music.

    Attributes:
        path: relative to the manifest's folder; through the source's link where it lies outside.
        source: name of the source it was found in.
        size: bytes.
        changed: time of the last change in nanoseconds.
    """

    path: str
    source: str
    size: int
    changed: int


@dataclass
class Scan:
    """What a walk saw: files to look at, refusals ((path, reason)), and how many others of which suffix."""

    found: list[Found] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def link_sources(sources: list[str], out: Path) -> dict[str, str]:
    """Makes each source reachable from the manifest's folder: by its own path inside it, else by a link.

    Args:
        sources: files and folders.
        out: the manifest's folder, which exists.

    Returns:
        Name of each source -> its path relative to ``out`` ("." for the folder itself).

    Raises:
        InputError: a source that does not exist.
    """
    root = Path(os.path.realpath(out))
    placed: dict[str, str] = {}
    for source in sources:
        real = Path(os.path.realpath(source))
        if not real.exists():
            raise InputError(f"{source}: there is no such file or folder")
        if real.is_relative_to(root):
            placed[real.name] = real.relative_to(root).as_posix()
        else:
            name = _free_name(real, root)
            placed[name] = name
    return placed


def _free_name(real: Path, root: Path) -> str:
    """The name of a link to ``real`` in ``root``: the one there is, or a new one."""
    number = 1
    while True:
        name = real.name if number == 1 else f"{real.stem}-{number}{real.suffix}"
        link = root / name
        if link.is_symlink() and os.path.realpath(link) == str(real):
            return name
        if not link.is_symlink() and not link.exists():
            link.symlink_to(real)
            return name
        number += 1


def scan(root: Path, placed: dict[str, str], skip: frozenset[str] = frozenset()) -> Scan:
    """Walks the sources, in the order of names.

    Args:
        root: the manifest's folder.
        placed: what ``link_sources`` returned.
        skip: names directly in ``root`` that are no music: what ingest itself writes.
    """
    result = Scan()
    for source, relative in placed.items():
        top = os.path.normpath(os.path.join(root, relative))
        if os.path.isfile(top):
            _look(result, _entry(top), relative, source, os.path.realpath(top))
            continue
        for entry, place in _walk(top, os.path.realpath(top), set()):
            inside = os.path.normpath(os.path.join(relative, place))
            if inside not in skip:
                _look(result, entry, inside, source, os.path.realpath(top))
    return result


def _entry(path: str) -> "os.DirEntry[str]":
    folder, name = os.path.split(path)
    return next(entry for entry in os.scandir(folder) if entry.name == name)


def _walk(folder: str, top: str, above: set[str]) -> Iterator[tuple["os.DirEntry[str]", str]]:
    """(entry, path relative to the source) of every file; links to folders are followed inside the source, once."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir():
            if entry.is_symlink() and not _inside(entry.path, top):
                yield entry, entry.name
                continue
            for deeper, place in _walk(entry.path, top, above | {real}):
                yield deeper, os.path.join(entry.name, place)
        else:
            yield entry, entry.name


def _inside(path: str, top: str) -> bool:
    return (os.path.realpath(path) + os.sep).startswith(top + os.sep)


def _look(result: Scan, entry: "os.DirEntry[str]", path: str, source: str, top: str) -> None:
    suffix = os.path.splitext(entry.name)[1].lower()
    known = suffix in READABLE or suffix in ELSEWHERE
    try:
        path.encode()
    except UnicodeEncodeError:
        if known:
            result.refused.append((repr(path), "its name is not UTF-8; rename it"))
        return
    if entry.is_symlink() and not os.path.exists(entry.path):
        if known:
            result.refused.append((path, "a link that leads nowhere"))
        return
    if entry.is_symlink() and not _inside(entry.path, top):
        result.refused.append((path, "a link out of the source; name its target as a source of its own"))
    elif suffix in ELSEWHERE:
        result.refused.append((path, f"{suffix[1:]} is not read here; convert it, for instance to FLAC"))
    elif not known or entry.name.startswith("._"):
        if suffix != ".json":  # side-cars
            result.others[suffix or "(no suffix)"] += 1
    elif not os.path.isfile(entry.path):
        result.refused.append((path, "not a regular file"))
    else:
        status = os.stat(entry.path)
        result.found.append(Found(path, source, status.st_size, status.st_mtime_ns))
