"""The journal of a job: a line for every clip whose file is in place, so that a job can be stopped at any moment.

Each process appends to a file of its own. When the job is done all that they say stands in the manifest, and they go;
what they say of clips of another job in the same folder is kept.
"""

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datamodules.manifest import FILE_NAME as MANIFEST
from datamodules.whole_files import write_whole
from experiments.jobs.requests import Request, file_sha256
from experiments.jobs.sound import MEASURED

OTHERS = "clips.jsonl"


@dataclass(frozen=True)
class Entry:
    """A finished clip.

    Attributes:
        name: its file.
        request: key of the request.
        sha256: of the file.
        seconds: length of the clip.
        sample_rate: Hz.
        facts: what was found out in making it; with those of the request they stand in the manifest.
        spent: seconds it took, its share of a batch.
        steps: decoding steps, its share of a batch.
    """

    name: str
    request: str
    sha256: str
    seconds: float
    sample_rate: int
    facts: dict[str, Any]
    spent: float = 0.0
    steps: float = 0.0


@dataclass(frozen=True)
class Stopwatch:
    """Seconds spent, steps decoded, and seconds of audio made."""

    seconds: float
    steps: float
    audio: float


class Journal:
    """What is finished in a folder.

    Args:
        folder: of the job.
        rank: of this process.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self.own = folder / f"clips.{rank}.jsonl"
        self._out: int | None = None

    def finished(self, requests: Iterable[Request]) -> dict[str, Entry]:
        """The entries, by key, of those requests whose files lie there and are what was written."""
        found = {(entry.request, entry.sha256): entry for entry in self._entries()}
        keys = {key for key, _ in found}
        ready = {}
        for request in requests:
            path = self.folder / request.name
            if request.key in keys and path.is_file():
                entry = found.get((request.key, file_sha256(path)))
                if entry is not None:
                    ready[request.key] = entry
        return ready

    def add(self, entry: Entry) -> None:
        """Notes a clip whose file is in place; the line is with the operating system when this returns."""
        line = _line(entry).encode()
        if self._out is None:
            self._out = os.open(self.own, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            if os.fstat(self._out).st_size:
                line = b"\n" + line  # the last one may have been cut short
        while line:  # not through a buffer, which would be written once more when the disk is full
            line = line[os.write(self._out, line) :]

    def close(self) -> None:
        """Closes the file; what was added stays."""
        if self._out is not None:
            os.close(self._out)
            self._out = None

    def spent(self) -> Stopwatch:
        """What the clips in the processes' journals took: those that were made since the last manifest."""
        entries = [entry for path in self._journals() for entry in _journal_entries(path)]
        return Stopwatch(*(sum(getattr(one, name) for one in entries) for name in ("spent", "steps", "seconds")))

    def settle(self, names: Collection[str], write: Callable[[], None]) -> None:
        """Writes the job's manifest and removes the journals; what they say of other files than ``names`` stays.

        At every moment each entry stands in one file at least.
        """
        entries = list(self._entries())
        self._write_others(entries)
        write()
        self._write_others([one for one in entries if one.name not in names and (self.folder / one.name).is_file()])
        for journal in self._journals():
            journal.unlink()

    def _write_others(self, entries: list[Entry]) -> None:
        path = self.folder / OTHERS
        if entries:
            write_whole(path, "".join(_line(entry) for entry in entries).encode())
        else:
            path.unlink(missing_ok=True)

    def _entries(self) -> Iterator[Entry]:
        yield from _manifest_entries(self.folder / MANIFEST)
        for path in (self.folder / OTHERS, *self._journals()):
            yield from _journal_entries(path)

    def _journals(self) -> list[Path]:
        return sorted(self.folder.glob("clips.*.jsonl"))


def _line(entry: Entry) -> str:
    return json.dumps(asdict(entry), ensure_ascii=False) + "\n"


def manifest_facts(entry: Entry) -> dict[str, Any]:
    """What a manifest says of a clip so that the next job finds it finished."""
    return {**entry.facts, "request": entry.request, "sha256": entry.sha256}


def _manifest_entries(path: Path) -> Iterator[Entry]:
    for line in _lines(path):
        try:
            facts = {name: line[name] for name in MEASURED if name in line}
            yield Entry(
                line["path"], line["request"], line["sha256"], line["duration"], line["sample_rate"], facts
            )  # fmt: skip
        except KeyError:
            continue  # another program's


def _journal_entries(path: Path) -> Iterator[Entry]:
    for line in _lines(path):
        try:
            entry = Entry(**line)
        except TypeError:
            continue
        if Path(entry.name).name == entry.name:
            yield entry


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file; a line that was cut short does not count."""
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict):
            yield fields
