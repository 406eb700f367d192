"""Writes the files of one shard, and the record by which a later run knows that it is finished.

Shape letters: K codebooks, T frames.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.manifest import Track
from datamodules.tokens.format import KINDS
from datamodules.tokens.plan import CHROMA_HOP, CHROMA_WINDOW, Encoding
from datamodules.whole_files import partial_path, write_whole

_VERSION = 1


@dataclass(frozen=True)
class LeftOut:
    """A track that could not be read: its id, why, and what its file looked like (size and time of change)."""

    id: str
    reason: str
    file: str


@dataclass(frozen=True)
class Keys:
    """Checksums of what a shard is made from: what its codes depend on, and what is written beside them."""

    audio: str
    text: str


@dataclass(frozen=True)
class Record:
    """``tokens-00000.json``, written last.

    Attributes:
        codec: checksum of the codec.
        keys: of what the shard was made from.
        columns: by name of a column of ``tracks.npy``, or "split" and "source" in words: one value a track.
        bytes: of each file.
        sha256: of each file.
        failed: the tracks that are left out.
    """

    codec: str
    keys: Keys
    columns: Mapping[str, list[Any]]
    bytes: Mapping[str, int]
    sha256: Mapping[str, str]
    failed: Sequence[LeftOut]


def keys(tracks: Sequence[Track], encoding: Encoding) -> Keys:
    """The keys of a shard of these tracks."""
    heard = [[track.id, track.duration, track.facts.get("audio_hash")] for track in tracks]
    made = [_VERSION, asdict(encoding), CHROMA_WINDOW, CHROMA_HOP, heard]
    said = [[track.id, track.caption, track.split, dict(track.facts)] for track in tracks]
    return Keys(*(hashlib.sha256(json.dumps(part).encode()).hexdigest() for part in (made, said)))


def file_state(path: Path) -> str:
    """Changes when a file does."""
    try:
        stat = path.stat()
    except OSError:
        return "missing"
    return f"{stat.st_size} {stat.st_mtime_ns}"


class ShardFiles:
    """The files of one shard in a folder; each appears whole, by a rename, and the record last.

    Raises:
        InputError: (of the writing methods) the disk is full.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.name = folder, f"tokens-{number:05d}"

    def path(self, kind: str) -> Path:
        """Where a file lies; "json" is the record."""
        return self.folder / f"{self.name}.{kind}"

    def record(self) -> Record | None:
        """The record of a finished shard, if all its files are there."""
        try:
            fields = json.loads(self.path("json").read_text(encoding="utf-8"))
            failed = [LeftOut(**failure) for failure in fields["failed"]]
            record = Record(**{**fields, "keys": Keys(**fields["keys"]), "failed": failed})
            sizes = {kind: self.path(kind).stat().st_size for kind in KINDS}
        except (OSError, KeyError, TypeError, ValueError):
            return None
        return record if sizes == record.bytes else None

    def write(
        self,
        tracks: Sequence[Track],
        codes: Sequence["np.ndarray[Any, Any]"],
        chroma: Sequence["np.ndarray[Any, Any]"],
        failed: Sequence[LeftOut],
        keys: Keys,
        codec: str,
    ) -> Record:
        """Writes the shard.

        Args:
            tracks: those that could be read.
            codes: [K, T] of each.
            chroma: [T'] uint8 of each.
            failed: those that could not.
            keys: of what it is made from.
            codec: checksum of the codec.
        """
        columns = {
            "frames": [part.shape[1] for part in codes],
            "chroma_frames": [len(part) for part in chroma],
        }
        files = {
            "bin": b"".join(np.ascontiguousarray(part, dtype="<u2").tobytes() for part in codes),
            "chroma": b"".join(np.ascontiguousarray(part, dtype=np.uint8).tobytes() for part in chroma),
        }
        return self._write(Record(codec, keys, columns, {}, {}, failed), tracks, files)

    def write_text(self, record: Record, tracks: Sequence[Track], keys: Keys) -> Record:
        """Writes captions, splits and facts anew, where only they have changed."""
        failed = {failure.id for failure in record.failed}
        kept = [track for track in tracks if track.id not in failed]
        return self._write(Record(**{**vars(record), "keys": keys}), kept, {})

    def remove_partial(self) -> None:
        """Removes what an interrupted run left."""
        for kind in ("json", *KINDS):
            partial_path(self.path(kind)).unlink(missing_ok=True)

    def remove(self) -> bool:
        """Removes the shard; whether there was anything of it."""
        self.remove_partial()
        there = [self.path(kind) for kind in ("json", *KINDS) if self.path(kind).exists()]
        for path in there:
            path.unlink()
        return bool(there)

    def _write(self, record: Record, tracks: Sequence[Track], files: dict[str, bytes]) -> Record:
        lines = [_line(track) for track in tracks]
        files = {**files, "jsonl": b"".join(lines)}
        columns = {
            **record.columns,
            "line_bytes": [len(line) for line in lines],
            "split": [track.split for track in tracks],
            "source": [str(track.facts.get("source") or "") for track in tracks],
        }
        sizes = {**record.bytes, **{kind: len(data) for kind, data in files.items()}}
        sums = {**record.sha256, **{kind: hashlib.sha256(data).hexdigest() for kind, data in files.items()}}
        whole = Record(record.codec, record.keys, columns, sizes, sums, record.failed)
        self.path("json").unlink(missing_ok=True)
        for kind, data in files.items():
            write_whole(self.path(kind), data)
        write_whole(self.path("json"), json.dumps(asdict(whole)).encode())
        return whole


def _line(track: Track) -> bytes:
    fields = {"id": track.id, "caption": track.caption, "split": track.split, **track.facts}
    return (json.dumps(fields, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
