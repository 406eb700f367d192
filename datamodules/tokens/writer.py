"""Writes a token store: gathers what the codec gives, shard by shard, and joins the shards to a store.

Any number of processes may write shards of one store, each its own; the index comes last, so a store is whole or
absent. An interrupted run goes on where it stopped: finished shards are found again by what they were made from.

Shape letters: B pieces, K codebooks, T frames.
"""

import hashlib
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import InputError
from datamodules.manifest import Manifest, Track
from datamodules.storage import StorageError
from datamodules.tokens.format import INDEX, PLACE, PLACES, Header, Shard, write_index
from datamodules.tokens.pieces import PieceBatch
from datamodules.tokens.plan import CHROMA_HOP, Encoding, plan_shards
from datamodules.tokens.shard import Keys, LeftOut, Record, ShardFiles, file_state, keys
from datamodules.whole_files import write_whole

logger = logging.getLogger(__name__)

PITCH_CLASSES = 12
_MOST_SOURCES = 2**16  # that a row can tell apart
_REASONS = 5  # of failures that an error's one line repeats


@dataclass(frozen=True)
class Summary:
    """What a finished store holds: tracks, their seconds, shards, and the tracks that could not be read."""

    tracks: int
    seconds: float
    shards: int
    failed: Sequence[LeftOut]


class TokenWriter:
    """Writes the shards that are dealt to this process.

    Args:
        folder: of the store.
        manifest: the tracks.
        encoding: how they are encoded.
        max_failed: share of tracks that may fail; more, and at least two, end the run.

    Raises:
        InputError: the folder holds a store of another codec, or a packed one.
    """

    def __init__(self, folder: str | Path, manifest: Manifest, encoding: Encoding, max_failed: float = 0.01) -> None:
        self.folder, self.manifest, self.encoding = Path(folder), manifest, encoding
        self.max_failed = max_failed
        self.shards = plan_shards(manifest.durations)
        self.failed: list[LeftOut] = []
        self._keys: dict[int, Keys] = {}
        self._begin()
        self._refuse_another(INDEX)

    def pending(self, rank: int = 0, world: int = 1) -> list[tuple[int, range]]:
        """The shards (number, tracks) that are still to be written by one of ``world`` processes.

        What an interrupted run left of them is removed; captions and facts that have changed since are written anew.

        Raises:
            InputError: one of them was written with another codec.
        """
        shards = []
        for number in range(rank, len(self.shards), world):
            files = ShardFiles(self.folder, number)
            files.remove_partial()
            tracks = self._tracks(number)
            wanted = self._keys[number] = keys(tracks, self.encoding)
            self._refuse_another(files.path("json").name)
            record = files.record()
            if record is None or record.keys.audio != wanted.audio or _mended(record, tracks):
                shards.append((number, self.shards[number]))
                continue
            if record.keys != wanted:
                self._unlink_index()
                record = files.write_text(record, tracks, wanted)
            self._count(record.failed)
        if shards:
            self._unlink_index()
        return shards

    def add(
        self, batch: PieceBatch, codes: "np.ndarray[Any, Any] | None", chroma: "np.ndarray[Any, Any] | None"
    ) -> None:
        """Takes what the codec made of a batch, and writes the shard that ends with it.

        Args:
            batch: in the order of ``PieceDataset``.
            codes: [B, K, T] of its pieces; None where there are none.
            chroma: [B, T'] uint8, the strongest pitch class of each frame, 255 where it is silent.

        Raises:
            StorageError: the audio's store could not be reached.
            InputError: too many tracks have failed, or the disk is full.
        """
        if batch.unreachable:
            raise StorageError(batch.unreachable)
        first = self.shards[batch.shard].start
        for track, reason in batch.failed:
            if track not in self._lost:
                found = self.manifest[first + track]
                self._lost[track] = LeftOut(found.id, reason, file_state(found.path))
                logger.warning("left out: %s", reason)
                self._count([self._lost[track]])
        if codes is not None and chroma is not None:
            for (track, window), ours, theirs in zip(batch.pieces, codes, chroma, strict=True):
                self._keep(first + track, track, window, ours, theirs)
        if batch.done:
            self._write(batch.shard)

    def finish(self) -> Summary:
        """Joins the shards of all processes; called by one of them when all have written theirs.

        Raises:
            InputError: too many tracks, or all, have failed; or a shard is missing.
        """
        records = []
        for number in range(len(self.shards)):
            record = ShardFiles(self.folder, number).record()
            if record is None:
                raise InputError(
                    f"{self.folder}: {ShardFiles(self.folder, number).name} is not there, though every process is "
                    "done; all machines must write to the same folder"
                )
            records.append(record)
        self.failed = []
        self._count([failure for record in records for failure in record.failed])
        rows, splits, sources = _rows(records, self.encoding.codebooks)
        if not len(rows):
            raise InputError(f"{self.manifest.path}: not one track could be read; {self.failed[0].reason}")
        places = io.BytesIO()
        np.save(places, rows, allow_pickle=False)
        write_whole(self.folder / PLACES, places.getvalue())
        encoding = self.encoding
        header = Header(
            codec=encoding.codec,
            sample_rate=encoding.sample_rate,
            frame_rate=encoding.sample_rate / encoding.hop,
            codebooks=encoding.codebooks,
            entries=encoding.entries,
            chroma={
                "frame_rate": encoding.sample_rate / CHROMA_HOP,
                "classes": PITCH_CLASSES,
                "stems": encoding.stems,
            },
            tracks=len(rows),
            frames=int(rows["frames"].sum()),
            splits=splits,
            sources=sources,
            shards=[
                Shard(ShardFiles(self.folder, number).name, len(record.columns["frames"]), record.bytes, record.sha256)
                for number, record in enumerate(records)
            ],
            places_sha256=hashlib.sha256(places.getvalue()).hexdigest(),
            failed=[{"id": failure.id, "reason": failure.reason} for failure in self.failed],
        )
        write_index(self.folder, header)
        self._remove_others()
        return Summary(len(rows), header.frames / header.frame_rate, len(records), self.failed)

    def _begin(self) -> None:
        # By track, then by window: a track's last window may come before the others.
        self._codes: dict[int, dict[int, np.ndarray[Any, Any]]] = {}
        self._chroma: dict[int, dict[int, np.ndarray[Any, Any]]] = {}
        self._lost: dict[int, LeftOut] = {}

    def _keep(
        self, place: int, track: int, window: int, codes: "np.ndarray[Any, Any]", chroma: "np.ndarray[Any, Any]"
    ) -> None:
        """Puts the kept frames of one window to those of its track."""
        encoding = self.encoding
        last = window == encoding.windows(encoding.samples(float(self.manifest.durations[place]))) - 1
        ours = encoding.kept(window == 0, last, codes.shape[1], encoding.hop)
        theirs = encoding.kept(window == 0, last, len(chroma), CHROMA_HOP)
        self._codes.setdefault(track, {})[window] = codes[:, ours].astype("<u2")
        self._chroma.setdefault(track, {})[window] = chroma[theirs].astype(np.uint8)

    def _tracks(self, number: int) -> list[Track]:
        places = self.shards[number]
        return list(self.manifest[places.start : places.stop])

    def _write(self, number: int) -> None:
        tracks = self._tracks(number)
        kept = [place for place in range(len(tracks)) if place not in self._lost]
        ShardFiles(self.folder, number).write(
            [tracks[place] for place in kept],
            [_joined(self._codes[place]) for place in kept],
            [_joined(self._chroma[place]) for place in kept],
            [self._lost[place] for place in sorted(self._lost)],
            self._keys[number],
            self.encoding.codec,
        )
        self._begin()

    def _count(self, failed: Sequence[LeftOut]) -> None:
        self.failed += failed
        count, total = len(self.failed), len(self.manifest)
        if count >= 2 and count > self.max_failed * total:
            reasons = "; ".join(failure.reason for failure in self.failed[:_REASONS])
            more = f"; and {count - _REASONS} more" if count > _REASONS else ""
            raise InputError(
                f"{count} of {total} tracks cannot be read: {reasons}{more}. "
                "Mend them or make the manifest anew, or raise --max_failed; finished shards stay"
            )

    def _refuse_another(self, name: str) -> None:
        """Refuses a file of the folder, an index or a record, that names another codec."""
        try:
            found = json.loads((self.folder / name).read_text(encoding="utf-8"))
            codec, packed = found["codec"], found.get("packed")
        except (OSError, AttributeError, KeyError, TypeError, ValueError):
            return
        if packed is not None:
            raise InputError(f"{self.folder}: holds a packed store; choose another folder")
        if codec != self.encoding.codec:
            raise InputError(
                f"{self.folder}: holds tokens of codec {str(codec)[:12]}, not of {self.encoding.codec[:12]}; choose "
                "another folder, or remove this one"
            )

    def _unlink_index(self) -> None:
        (self.folder / INDEX).unlink(missing_ok=True)

    def _remove_others(self) -> None:
        """Removes shards of an earlier plan with more of them."""
        number = len(self.shards)
        while ShardFiles(self.folder, number).remove():
            number += 1


def _rows(records: Sequence[Record], codebooks: int) -> tuple["np.ndarray[Any, Any]", list[str], list[str]]:
    """The rows of all shards, and the names of their splits and sources in the order in which they come."""
    splits: dict[str, int] = {}
    sources: dict[str, int] = {}
    parts = []
    for number, record in enumerate(records):
        columns = record.columns
        part = np.zeros(len(columns["frames"]), dtype=PLACE)
        part["shard"] = number
        for name in ("frames", "chroma_frames", "line_bytes"):
            part[name] = columns[name]
        part["split"] = [splits.setdefault(name, len(splits)) for name in columns["split"]]
        numbers = [sources.setdefault(name, len(sources)) for name in columns["source"]]
        part["source"] = [place % _MOST_SOURCES for place in numbers]
        part["offset"] = _begins(part["frames"]) * codebooks
        part["chroma_offset"] = _begins(part["chroma_frames"])
        part["line"] = _begins(part["line_bytes"])
        parts.append(part)
    rows = np.concatenate(parts)
    if len(sources) > _MOST_SOURCES:
        logger.warning("%d sources are too many to weigh; the store names none", len(sources))
        rows["source"] = 0
        return rows, list(splits), [""]
    return rows, list(splits), list(sources)


def _joined(windows: "dict[int, np.ndarray[Any, Any]]") -> "np.ndarray[Any, Any]":
    """The windows of a track one after the other in time, the last axis."""
    return np.concatenate([windows[window] for window in sorted(windows)], axis=-1)


def _mended(record: Record, tracks: Sequence[Track]) -> bool:
    """Whether the file of a track that failed has changed since."""
    paths = {track.id: track.path for track in tracks}
    return any(file_state(paths[failure.id]) != failure.file for failure in record.failed)


def _begins(lengths: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Where each of some stretches begins that lie one after the other."""
    ends = np.cumsum(lengths, dtype=np.uint64)
    return ends - lengths.astype(np.uint64)
