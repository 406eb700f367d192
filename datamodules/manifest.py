"""The manifest: one JSON object a line, one line a track.

Every line has at least ``path`` (relative to the manifest's folder), ``duration`` in seconds, ``sample_rate`` and
``caption``; ``id`` defaults to the path without its suffix, ``split`` is optional. Whatever else a line holds (tempo,
instruments, licence, ...) travels along as ``facts``; ``source`` among them counts in the draws.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np

from datamodules.errors import InputError
from datamodules.storage import Folder, open_folder
from datamodules.whole_files import write_whole

FILE_NAME = "manifest.jsonl"
REQUIRED = ("path", "duration", "sample_rate", "caption")
# What is kept of every line: where it lies in the file, and what draws and splits ask for.
_ROW = np.dtype([("start", "u8"), ("length", "u4"), ("seconds", "f8"), ("split", "u2"), ("source", "u2")])


@dataclass(frozen=True)
class Track:
    """One recording.

    Attributes:
        id: name of the track, unique in its manifest.
        path: absolute path of the audio file; of a manifest behind a URL, relative to it (see ``Manifest.file``).
        duration: length in seconds.
        sample_rate: rate of the file in Hz.
        caption: description in words; may be empty.
        split: "train", "valid", "test" or "" where the manifest has no splits.
        facts: every other field of the line.
    """

    id: str
    path: Path
    duration: float
    sample_rate: int
    caption: str
    split: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Manifest(Sequence[Track]):
    """The tracks of a manifest, or of one split of it, in the order of the file.

    Every line was checked when it was opened; what stays in memory are some 26 bytes a track. A track is made from its
    line when it is asked for, so 400,000 tracks are opened in seconds, and are cheap to send to a loader's process.

    Attributes:
        folder: where it lies.
        name: of its file.
        rows: [n], a place in the file, seconds, split and source for each track.
        splits: names of the splits; ``rows["split"]`` are places in it.
        sources: names of the sources; ``rows["source"]`` are places in it.
    """

    def __init__(
        self, folder: Folder, name: str, rows: "np.ndarray[Any, Any]", splits: list[str], sources: list[str]
    ) -> None:
        self.folder, self.name, self.rows, self.splits, self.sources = folder, name, rows, splits, sources
        self._root = _Root(folder)

    @property
    def path(self) -> Path:
        """The manifest's file on this machine; one from behind a URL is sure to stay for a minute only."""
        return self.folder.path(self.name)

    @property
    def local(self) -> bool:
        """Whether it lies on disk, and not behind a URL."""
        return self._root.local

    def ahead(self, indices: Sequence[int]) -> None:
        """Begins to fetch the audio of these tracks, where it lies behind a URL."""
        self.folder.ahead([str(self[index].path) for index in indices])

    @property
    def durations(self) -> "np.ndarray[Any, Any]":
        """[n] float64, seconds."""
        return self.rows["seconds"]

    def file(self, track: Track) -> Path:
        """The local path of a track's audio, which is fetched first where the manifest lies behind a URL.

        Raises:
            InputError: the file leads out of the manifest's folder by a link, or cannot be fetched.
        """
        if not self._root.local:
            return self.folder.path(str(track.path))
        if track.path.is_symlink():
            self._root.check(os.path.relpath(track.path, self._root.root))
        return track.path

    def split(self, name: str) -> "Manifest":
        """The tracks of one split.

        Raises:
            InputError: there are none.
        """
        chosen = self.rows["split"] == self.splits.index(name) if name in self.splits else []
        if not np.any(chosen):
            raise InputError(f"{self.path}: the manifest lists no tracks in split {name!r}; it has {self.splits}")
        return Manifest(self.folder, self.name, self.rows[chosen], self.splits, self.sources)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Track: ...

    @overload
    def __getitem__(self, index: slice) -> "Manifest": ...

    def __getitem__(self, index: "int | slice") -> "Track | Manifest":
        if isinstance(index, slice):
            return Manifest(self.folder, self.name, self.rows[index], self.splits, self.sources)
        row = self.rows[index]
        with self.path.open("rb") as file:
            return self._track(file, row)

    def __iter__(self) -> Iterator[Track]:
        with self.path.open("rb") as file:
            for row in self.rows:
                yield self._track(file, row)

    def _track(self, file: Any, row: Any) -> Track:
        file.seek(int(row["start"]))
        try:
            fields = json.loads(file.read(int(row["length"])))
            plain, duration, rate = _checked(fields)
        except ValueError as error:  # JSONDecodeError is one
            raise InputError(f"{self.path}: has changed since it was opened; start again") from error
        return Track(
            id=_id(fields),
            path=Path(self._root.root, plain),
            duration=duration,
            sample_rate=rate,
            caption=fields["caption"],
            split=str(fields.get("split") or ""),
            facts={name: value for name, value in fields.items() if name not in _OWN},
        )


def manifest_path(source: str | Path) -> Path:
    """The manifest file that ``source`` (a manifest, or a folder that holds one) stands for."""
    path = Path(source)
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise InputError(f"{path}: there is no such manifest; give a manifest.jsonl or a folder that holds one")
    return path


def read_manifest(source: str | Path, split: str | None = None) -> Manifest:
    """Opens a manifest, checking every line.

    Args:
        source: a manifest file or a folder that holds ``manifest.jsonl``, on disk or behind a URL.
        split: keep only the tracks of this split.

    Returns:
        The tracks in the order of the file; at least one.

    Raises:
        InputError: no such file, a line that is no JSON object, a missing or misshapen field, a path that leaves the
            manifest's folder, two tracks of one id, or nothing left to return.
    """
    folder, name = _located(source)
    path = folder.path(name)
    root = _Root(folder)
    rows: list[tuple[int, int, float, int, int]] = []
    splits: dict[str, int] = {}
    sources: dict[str, int] = {}
    seen: set[str] = set()
    start = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            begin, start = start, start + len(line)
            if not line.strip():
                continue
            fields = _fields(line, path, number)
            try:
                plain, duration, _ = _checked(fields)
                root.check(plain.rpartition("/")[0])
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}") from error
            track = _id(fields)
            if track in seen:
                raise InputError(f"{path}, line {number}: a second track has the id {track!r}; ids must differ")
            seen.add(track)
            split_code = splits.setdefault(str(fields.get("split") or ""), len(splits))
            source_code = sources.setdefault(str(fields.get("source") or ""), len(sources))
            rows.append((begin, len(line), duration, split_code, source_code))
    if not rows:
        raise InputError(f"{path}: the manifest lists no tracks; `mgl corpus` makes one to try")
    manifest = Manifest(folder, name, np.array(rows, dtype=_ROW), list(splits), list(sources))
    return manifest if split is None else manifest.split(split)


def _located(source: str | Path) -> tuple[Folder, str]:
    """The manifest's folder and the name of its file."""
    if "://" not in str(source):
        path = manifest_path(source)
        return open_folder(path.parent), path.name
    location = str(source).rstrip("/")
    name = FILE_NAME
    if location.endswith(".jsonl"):
        location, _, name = location.rpartition("/")
    return open_folder(location), name


def _fields(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        # Half the time of json.loads, of which a large manifest is made.
        text = line.decode().strip()
        fields, end = _parse(text)
        if end != len(text):
            raise InputError(f"{path}, line {number}: not JSON (Extra data)")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a manifest: it is no UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {number}: not JSON ({error.msg})") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path}, line {number}: expected a JSON object, found {type(fields).__name__}")
    return fields


def _checked(fields: dict[str, Any]) -> tuple[str, float, int]:
    """Path (plain, within the manifest's folder), duration and sample rate of a line; ValueError says what is wrong."""
    try:
        named, caption = fields["path"], fields["caption"]
        duration, rate = float(fields["duration"]), int(fields["sample_rate"])
    except KeyError as error:
        missing = [name for name in REQUIRED if name not in fields]
        raise ValueError(f"missing {', '.join(missing)}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("duration and sample_rate must be numbers") from error
    if not isinstance(named, str) or not isinstance(caption, str):
        raise ValueError("path and caption must be strings")
    if not 0 < duration < float("inf") or rate <= 0:
        raise ValueError("duration and sample_rate must be positive")
    if "\0" in named or not named.strip("./"):
        raise ValueError(f"the path {named!r} names no file")
    plain = os.path.normpath(named) if _DETOUR.search(named) else named
    if plain.startswith(("/", "../")) or plain == "..":
        raise ValueError(f"{named!r} lies outside the manifest's folder")
    return plain, duration, rate


def _id(fields: dict[str, Any]) -> str:
    return str(fields.get("id") or os.path.splitext(fields["path"])[0])


_OWN = {*REQUIRED, "id", "split"}
_parse = json.JSONDecoder().raw_decode
# A part of a path that is empty, "." or "..".
_DETOUR = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")


class _Root:
    """The folder that a manifest's paths may not leave.

    Links that lie directly in it may lead anywhere: ``mgl manifest`` makes one for each source, and ``ls -l`` shows
    them. A link further down that leaves the folder and these sources is refused.
    """

    def __init__(self, folder: Folder) -> None:
        self.local = "://" not in folder.name
        self.root = os.path.realpath(folder.name) if self.local else ""
        self._known: set[str] = set()

    def check(self, relative: str) -> None:
        """Refuses a path that a link leads out; each is looked at once."""
        if self.local and relative not in self._known:
            real = os.path.realpath(os.path.join(self.root, relative))
            if not any(real == root or real.startswith(root + os.sep) for root in self._allowed()):
                raise InputError(f"{relative!r} lies outside the manifest's folder")
            self._known.add(relative)

    def _allowed(self) -> list[str]:
        links = [os.path.realpath(entry.path) for entry in os.scandir(self.root) if entry.is_symlink()]
        return [self.root, *links]


def write_manifest(path: str | Path, tracks: Iterable[Track]) -> None:
    """Writes tracks as a manifest, whole or not at all; audio paths are made relative to the manifest's folder.

    Raises:
        ValueError: a track lies outside that folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    root = Path(os.path.realpath(path.parent))
    write_whole(path, lambda out: out.writelines(_line(track, root) for track in tracks))


def _line(track: Track, root: Path) -> bytes:
    fields = {
        "id": track.id,
        "path": _relative(track.path, root),
        "duration": track.duration,
        "sample_rate": track.sample_rate,
        "caption": track.caption,
        **({"split": track.split} if track.split else {}),
        **track.facts,
    }
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def _relative(path: Path, root: Path) -> str:
    """``path`` from ``root``, through the links that lie in it if that is the way it was named."""
    plain = Path(os.path.abspath(path))
    return (plain if plain.is_relative_to(root) else path.resolve()).relative_to(root).as_posix()
