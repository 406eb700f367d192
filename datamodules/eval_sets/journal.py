"""The journal of a set's folder: a line for every finished clip, with what it was cut from and what it holds.

After an interruption, or when a set is asked for differently, only what the journal lacks is cut.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE_NAME = "clips.jsonl"


@dataclass(frozen=True)
class Entry:
    """A finished clip.

    Attributes:
        name: its file without the suffix.
        source: name, size and time of the recording; start, seconds and rate of the cut.
        size: bytes of the clip.
        frames: samples of the clip.
        audio: its ``audio_digest``.
    """

    name: str
    source: list[Any]
    size: int
    frames: int
    audio: str

    def to_line(self) -> str:
        """The entry as a line of the journal."""
        return json.dumps(asdict(self)) + "\n"


def read_journal(folder: Path) -> dict[str, Entry]:
    """The finished clips of a folder by name; a line that was not written to its end does not count."""
    path = folder / FILE_NAME
    entries: dict[str, Entry] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else ():
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if Path(entry.name).name == entry.name:  # sets are passed on, and what a journal names may be removed
            entries[entry.name] = entry
    return entries


def write_journal(folder: Path, entries: Iterable[Entry]) -> None:
    """Writes the journal anew."""
    write_whole(folder / FILE_NAME, "".join(entry.to_line() for entry in entries))


def append_entry(folder: Path, entry: Entry) -> None:
    """Adds a clip whose file is in place."""
    with (folder / FILE_NAME).open("a", encoding="utf-8") as journal:
        journal.write(entry.to_line())


def write_whole(path: Path, text: str) -> None:
    """Writes a text, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
