"""The whole of ingest: sources in, manifest.jsonl, rejected.jsonl and a page out."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from datamodules.ingest.inspecting import Job, inspect
from datamodules.ingest.journal import FILE_NAME as JOURNAL
from datamodules.ingest.journal import Journal
from datamodules.ingest.judging import Wanted, refusal
from datamodules.ingest.metadata import Table, described, side_car
from datamodules.ingest.page import FILE_NAME as PAGE
from datamodules.ingest.page import write_page
from datamodules.ingest.scanning import Found, Scan, link_sources, scan
from datamodules.ingest.splitting import split_by_artist
from datamodules.manifest import FILE_NAME, Track, write_manifest
from datamodules.whole_files import write_whole
from datamodules.workers import WorkerCrashedError, cores, unordered

REJECTED = "rejected.jsonl"
_OURS = frozenset(name + end for name in (FILE_NAME, REJECTED, JOURNAL, PAGE) for end in ("", ".partial"))
_MEASURED = ("channels", "peak", "loudness", "audio_hash", "format")


@dataclass(frozen=True)
class IngestConfig:
    """How to ingest.

    Attributes:
        wanted: which files are kept.
        captions: a table of captions and other columns; empty for none.
        licence: licence of tracks that state none themselves.
        source: name of the source of tracks that state none; by default the name of the folder they were found in.
        valid: share of the artists for validation.
        test: share of the artists for tests.
        seed: of the split.
        workers: processes; None takes one a CPU core.
    """

    wanted: Wanted = field(default_factory=Wanted)
    captions: str = ""
    licence: str = ""
    source: str = ""
    valid: float = 0.05
    test: float = 0.05
    seed: int = 0
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.valid < 0 or self.test < 0 or self.valid + self.test >= 1:
            raise InputError(f"shares of validation and test must leave some to train on: {self.valid} and {self.test}")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers must be at least 1, got {self.workers}")


@dataclass(frozen=True)
class Summary:
    """What an ingest ended in.

    Attributes:
        folder: the manifest's folder.
        tracks: what was kept.
        rejected: (path, reason) of what was not.
        others: files that are no audio by their names, by suffix.
        inspected: files that were decoded this time; the others were known from before.
        remarks: what the user should know besides.
    """

    folder: Path
    tracks: list[Track]
    rejected: list[tuple[str, str]]
    others: Counter[str]
    inspected: int
    remarks: list[str]

    @property
    def hours(self) -> float:
        """Hours of music kept."""
        return sum(track.duration for track in self.tracks) / 3600


def ingest(
    sources: list[str],
    out: str | Path,
    config: IngestConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Looks at every file of the sources, decodes it, and writes what it found.

    The folder then holds ``manifest.jsonl``, ``rejected.jsonl``, ``scan.jsonl`` (by which a second run looks only at
    what has changed, and a run that was broken off goes on), ``music.html``, and a link for each source outside it.

    Args:
        sources: folders and files.
        out: the manifest's folder; made if missing.
        config: what to keep and how to split it.
        progress: called with (files done, files in all).

    Raises:
        InputError: a source or table that does not exist, or not one track that could be kept.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    table = Table(config.captions) if config.captions else None
    root = Path(os.path.realpath(folder))
    seen = scan(root, link_sources(sources, root), _OURS)
    results, inspected = _inspect_all(seen.found, root, config.workers or cores(), progress)
    remarks: list[str] = []
    tracks, rejected = _judge(seen, results, root, config, table, remarks)
    if table is not None and not table.matched:
        raise InputError(f"{table.path}: names none of the tracks; its paths must end as theirs do")
    if not tracks:
        _write_rejected(folder / REJECTED, rejected)
        raise InputError(
            f"no music was found in {', '.join(sources)}; {folder / REJECTED} says why of {len(rejected)} files"
        )
    shares = {"train": 1 - config.valid - config.test, "valid": config.valid, "test": config.test}
    tracks, remark = split_by_artist(tracks, shares, config.seed)
    remarks += [remark] if remark else []
    summary = Summary(folder, tracks, rejected, seen.others, inspected, remarks)
    _write_rejected(folder / REJECTED, rejected)
    write_page(folder / PAGE, tracks, rejected, seen.others, remarks)
    write_manifest(folder / FILE_NAME, tracks)
    return summary


def _inspect_all(
    files: list[Found], root: Path, workers: int, progress: Callable[[int, int], None]
) -> tuple[dict[str, dict[str, Any]], int]:
    """What every file holds, from the journal or by decoding it; and how many were decoded."""
    journal = Journal(root)
    results = {file.path: known for file in files if (known := journal.known(file)) is not None}
    missing = {Job(file.path, str(root / file.path)): file for file in files if file.path not in results}
    progress(len(results), len(files))
    try:
        if missing:
            for job, result in unordered(inspect, missing, min(workers, len(missing))):
                found = {"error": str(result)} if isinstance(result, WorkerCrashedError) else result
                results[job.path] = found
                journal.add(missing[job], found)
                progress(len(results), len(files))
    finally:
        journal.close()
    journal.compact(files)
    return results, len(missing)


def _judge(
    seen: Scan,
    results: Mapping[str, dict[str, Any]],
    root: Path,
    config: IngestConfig,
    table: Table | None,
    remarks: list[str],
) -> tuple[list[Track], list[tuple[str, str]]]:
    tracks: list[Track] = []
    rejected = list(seen.refused)
    first: dict[str, str] = {}
    names: set[str] = set()
    broken = 0
    for file in sorted(seen.found, key=lambda one: one.path):
        result = results[file.path]
        reason = refusal(result, config.wanted)
        if not reason and (twin := first.setdefault(result["audio_hash"], file.path)) != file.path:
            reason = f"duplicate: the same audio as {twin}"
        if reason:
            rejected.append((file.path, reason))
            continue
        try:
            beside = side_car(root / file.path)
        except ValueError:
            beside, broken = {}, broken + 1
        fields = {**result["tags"], **beside, **(table.fields(file.path) if table else {})}
        tracks.append(_track(file, result, fields, root, config, names))
    if broken:
        remarks.append(f"{broken} side-car file(s) are no JSON objects and were passed over")
    return tracks, rejected


def _track(
    file: Found, result: dict[str, Any], fields: dict[str, Any], root: Path, config: IngestConfig, names: set[str]
) -> Track:
    caption, facts = described(fields)
    name = os.path.splitext(file.path)[0]
    name = file.path if name in names else name
    names.add(name)
    split = str(facts.pop("split", ""))
    facts.setdefault("source", config.source or file.source)
    if config.licence:
        facts.setdefault("licence", config.licence)
    facts |= {key: result[key] for key in _MEASURED if result[key] is not None}
    return Track(name, root / file.path, round(result["duration"], 6), result["sample_rate"], caption, split, facts)


def _write_rejected(path: Path, rejected: list[tuple[str, str]]) -> None:
    lines = [json.dumps({"path": name, "reason": reason}, ensure_ascii=False) + "\n" for name, reason in rejected]
    write_whole(path, "".join(lines).encode())
