"""The clips of a set: each is cut whole or not at all, and one that is there already is kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.audio_io import read_audio, write_audio
from datamodules.errors import InputError
from datamodules.eval_sets import journal, record
from datamodules.eval_sets.journal import Entry
from datamodules.manifest import FILE_NAME as MANIFEST

# A clip may be this much shorter than stated, in seconds: encoders and cutters lose some.
TOLERANCE = 0.1
_PARTIAL = ".partial.flac"


@dataclass(frozen=True)
class Wanted:
    """A line of a set's manifest, before its clip is cut.

    Attributes:
        id: unique in the set.
        locate: finds the recording and the second at which the clip begins; an ``InputError`` says why there is none.
        caption: of the clip.
        split: which the recording belongs to; "" where there are none.
        facts: of the clip; ``track`` names the recording, ``artist`` its artist.
        name: of the clip's file, without suffix: lines of one name share a file. The id by default.
    """

    id: str
    locate: Callable[[], tuple[Path, float]]
    caption: str
    split: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def file(self) -> str:
        """Name of the clip's file."""
        return f"{self.name or self.id}.flac"


class ClipFolder:
    """FLAC files of one length and rate in a folder, mono and 16 bit.

    The folder's manifest and record are removed before its first clip changes: a folder without them is no set.

    Args:
        folder: made with the first clip.
        seconds: stated length of a clip.
        sample_rate: Hz of the clips.

    Attributes:
        changed: whether a clip was cut or removed.

    Raises:
        InputError: the folder holds a manifest that is no evaluation set's.
    """

    def __init__(self, folder: Path, seconds: float, sample_rate: int) -> None:
        self.folder, self.seconds, self.sample_rate = folder.resolve(), seconds, sample_rate
        if (folder / MANIFEST).exists() and not (folder / journal.FILE_NAME).exists():
            raise InputError(f"{folder}: holds a manifest that is no evaluation set's; give another --out")
        self._entries = journal.read_journal(folder)
        self.changed = False

    def clip(self, wanted: Wanted) -> Entry:
        """Keeps the clip that is there, or cuts it.

        Raises:
            InputError: there is no such recording, it cannot be read, or it is too short.
        """
        source, start = wanted.locate()
        try:
            facts = source.stat()
        except OSError as error:
            raise InputError(f"{source}: cannot be read ({error.strerror})") from error
        origin = [source.name, facts.st_size, facts.st_mtime_ns, start, self.seconds, self.sample_rate]
        path = self.folder / wanted.file
        entry = self._entries.get(path.stem)
        if entry and entry.source == origin and path.is_file() and path.stat().st_size == entry.size:
            return entry
        entry = self._cut(source, start, path, origin)
        self._entries[entry.name] = entry
        journal.append_entry(self.folder, entry)
        return entry

    def _cut(self, source: Path, start: float, path: Path, origin: list[Any]) -> Entry:
        wav = read_audio(source, sample_rate=self.sample_rate, start=start, duration=self.seconds)
        wav = wav[:, : round(self.seconds * self.sample_rate)]
        lasts = wav.shape[-1] / self.sample_rate
        if lasts < self.seconds - TOLERANCE or not lasts:
            raise InputError(f"{source}: gives {lasts:.2f} s from {start:g} s on, not {self.seconds:g} s")
        self.open_up()
        partial = self.folder / _PARTIAL
        try:
            write_audio(partial, wav, self.sample_rate)
            entry = Entry(path.stem, origin, partial.stat().st_size, wav.shape[-1], record.audio_digest(partial))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return entry

    def keep_only(self, names: set[str]) -> None:
        """Removes the clips of an earlier set that this one has no use for."""
        for name in self._entries.keys() - names:
            self.open_up()
            (self.folder / f"{name}.flac").unlink(missing_ok=True)
            del self._entries[name]
        if self.changed:
            journal.write_journal(self.folder, self._entries.values())

    def open_up(self) -> None:
        """Makes the folder one that is no set, until its manifest is written again."""
        if self.changed:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (MANIFEST, record.FILE_NAME):
            (self.folder / name).unlink(missing_ok=True)
        # Written anew, so that nothing is appended to half a line.
        journal.write_journal(self.folder, self._entries.values())
        self.changed = True
