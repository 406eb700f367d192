"""The manifest: one JSON object a line, one line a track.

Every line has at least ``path`` (relative to the manifest's folder), ``duration`` in seconds, ``sample_rate`` and
``caption``; ``id`` defaults to the path without its suffix, ``split`` is optional. Whatever else a line holds (tempo,
instruments, licence, ...) travels along as ``facts``.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.errors import InputError

FILE_NAME = "manifest.jsonl"
REQUIRED = ("path", "duration", "sample_rate", "caption")


@dataclass(frozen=True)
class Track:
    """One recording.

    Attributes:
        id: name of the track, unique in its manifest.
        path: absolute path of the audio file.
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


def manifest_path(source: str | Path) -> Path:
    """The manifest file that ``source`` (a manifest, or a folder that holds one) stands for."""
    path = Path(source)
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise InputError(f"{path}: there is no such manifest; give a manifest.jsonl or a folder that holds one")
    return path


def read_manifest(source: str | Path, split: str | None = None) -> list[Track]:
    """Reads a manifest, checking every line.

    Args:
        source: a manifest file or a folder that holds ``manifest.jsonl``.
        split: keep only the tracks of this split.

    Returns:
        The tracks in the order of the file; at least one.

    Raises:
        InputError: no such file, a line that is no JSON object, a missing or misshapen field, a path that leaves the
            manifest's folder, two tracks of one id, or nothing left to return.
    """
    path = manifest_path(source)
    tracks: list[Track] = []
    seen: set[str] = set()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a manifest: it is no UTF-8 text") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        track = _parse(line, path.parent.resolve(), f"{path}, line {number}")
        if track.id in seen:
            raise InputError(f"{path}, line {number}: a second track has the id {track.id!r}; ids must differ")
        seen.add(track.id)
        if split is None or track.split == split:
            tracks.append(track)
    if not tracks:
        which = f" in split {split!r}" if split else ""
        raise InputError(f"{path}: the manifest lists no tracks{which}; `mgl corpus` makes one to try")
    return tracks


def _parse(line: str, root: Path, where: str) -> Track:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg})") from error
    if not isinstance(fields, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(fields).__name__}")
    missing = [name for name in REQUIRED if name not in fields]
    if missing:
        raise InputError(f"{where}: missing {', '.join(missing)}")
    if not isinstance(fields["path"], str) or not isinstance(fields["caption"], str):
        raise InputError(f"{where}: path and caption must be strings")
    if not Path(fields["path"]).name or "\0" in fields["path"]:
        raise InputError(f"{where}: the path {fields['path']!r} names no file")
    try:
        duration, rate = float(fields["duration"]), int(fields["sample_rate"])
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: duration and sample_rate must be numbers") from error
    if not 0 < duration < float("inf") or rate <= 0:
        raise InputError(f"{where}: duration and sample_rate must be positive")
    path = (root / fields["path"]).resolve()
    if not path.is_relative_to(root):
        raise InputError(f"{where}: {fields['path']!r} lies outside the manifest's folder")
    known = {*REQUIRED, "id", "split"}
    return Track(
        id=str(fields.get("id") or Path(fields["path"]).with_suffix("").as_posix()),
        path=path,
        duration=duration,
        sample_rate=rate,
        caption=fields["caption"],
        split=str(fields.get("split") or ""),
        facts={name: value for name, value in fields.items() if name not in known},
    )


def write_manifest(path: str | Path, tracks: Iterable[Track]) -> None:
    """Writes tracks as a manifest, whole or not at all; audio paths are made relative to the manifest's folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as out:
        for track in tracks:
            line = {
                "id": track.id,
                "path": track.path.resolve().relative_to(path.parent.resolve()).as_posix(),
                "duration": track.duration,
                "sample_rate": track.sample_rate,
                "caption": track.caption,
                **({"split": track.split} if track.split else {}),
                **track.facts,
            }
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    partial.replace(path)
