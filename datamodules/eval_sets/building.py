"""From what a set asks for to the finished folder: clips, ``missing.jsonl``, ``set.json``, and the manifest last."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from datamodules.eval_sets.clips import ClipFolder, Wanted
from datamodules.eval_sets.journal import write_whole
from datamodules.eval_sets.record import FILE_NAME as RECORD
from datamodules.eval_sets.record import Progress, SetRecord, no_progress, read_record, set_checksum
from datamodules.manifest import FILE_NAME as MANIFEST
from datamodules.manifest import Track, read_manifest, write_manifest
from datamodules.storage import StorageError

MISSING = "missing.jsonl"


def build_set(
    out: str | Path,
    wanted: Sequence[Wanted],
    *,
    kind: str,
    seconds: float,
    sample_rate: int,
    settings: Mapping[str, Any],
    missing: Sequence[Mapping[str, str]] = (),
    note: str = "",
    progress: Progress = no_progress,
) -> SetRecord:
    """Cuts the clips of a set and writes what describes it.

    A clip that cannot be cut is listed in ``missing.jsonl`` and the rest goes on. The clips of an interrupted run are
    kept; a set that is there already, and is the one asked for, is left alone.

    Args:
        out: the set's folder.
        wanted: its clips, in the order of the manifest.
        kind: what ``set.json`` calls it.
        seconds: stated length of a clip.
        sample_rate: Hz of the clips.
        settings: what was asked for, for ``set.json``.
        missing: what is known to be missing already, as ``{"id", "reason"}``.
        note: for ``set.json``.
        progress: called after every clip.

    Returns:
        What ``set.json`` holds.

    Raises:
        InputError: not one clip could be cut, two would have one id, or the folder holds something else.
        StorageError: the store of a remote manifest cannot be reached.
    """
    _check_ids(wanted)
    folder = ClipFolder(Path(out), seconds, sample_rate)
    lacking = list(missing)
    tracks: list[Track] = []
    digests: dict[str, str] = {}
    for number, one in enumerate(wanted, start=1):
        try:
            entry = folder.clip(one)
        except StorageError:
            raise  # the clip may well be there tomorrow
        except InputError as error:
            lacking.append({"id": one.id, "reason": str(error)})
        else:
            path, lasts = folder.folder / one.file, entry.frames / sample_rate
            tracks.append(Track(one.id, path, lasts, sample_rate, one.caption, one.split, dict(one.facts)))
            digests[one.id] = entry.audio
        progress(number, len(wanted))
    if not tracks:
        raise InputError(f"{out}: not one clip could be had; {len(lacking)} are missing, the first: {_first(lacking)}")
    record = SetRecord(
        kind=kind,
        seconds=seconds,
        sample_rate=sample_rate,
        clips=len(tracks),
        tracks=len({track.facts.get("track", track.id) for track in tracks}),
        artists=len({artist for track in tracks if (artist := artist_of(track))}) or None,
        missing=len(lacking),
        checksum=set_checksum((track.id, track.caption, digests[track.id]) for track in tracks),
        settings=dict(settings),
        note=note,
    )
    folder.keep_only({track.path.stem for track in tracks})
    if folder.changed or not _is_there(folder.folder, record, tracks):
        folder.open_up()
        _finish(folder.folder, record, tracks, lacking)
    return record


def artist_of(track: Track) -> str:
    """Who made a track, as names are compared: without regard to case and spaces; "" where nobody is named."""
    return " ".join(str(track.facts.get("artist") or "").split()).casefold()


def _check_ids(wanted: Sequence[Wanted]) -> None:
    seen: set[str] = set()
    for one in wanted:
        if one.id in seen:
            raise InputError(f"two clips of the set would have the id {one.id!r}; rename one of their tracks")
        seen.add(one.id)


def _first(lacking: Sequence[Mapping[str, str]]) -> str:
    return f"{lacking[0]['id']}, {lacking[0]['reason']}" if lacking else "nothing was asked for"


def _is_there(folder: Path, record: SetRecord, tracks: list[Track]) -> bool:
    if not (folder / RECORD).is_file() or not (folder / MANIFEST).is_file():
        return False
    try:
        return read_record(folder) == record and list(read_manifest(folder)) == tracks
    except InputError:
        return False


def _finish(folder: Path, record: SetRecord, tracks: list[Track], lacking: Sequence[Mapping[str, str]]) -> None:
    if lacking:
        lines = (json.dumps(dict(line), ensure_ascii=False) for line in lacking)
        write_whole(folder / MISSING, "".join(f"{line}\n" for line in lines))
    else:
        (folder / MISSING).unlink(missing_ok=True)
    write_whole(folder / RECORD, record.to_json())
    write_manifest(folder / MANIFEST, tracks)
