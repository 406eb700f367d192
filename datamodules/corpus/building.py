"""Building a corpus: checks, jobs, processes, progress, manifest."""

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.corpus.catalogue import catalogue
from datamodules.corpus.packages import recipe, soundfont_path
from datamodules.corpus.pieces import Job, finished_line, make_piece, partial_path, stored_line
from datamodules.corpus.selection import Selection
from datamodules.errors import InputError
from datamodules.workers import WorkerCrashedError, cores, start_worker, unordered

if TYPE_CHECKING:
    from datamodules.manifest import Track

# Raise with every change that makes a piece sound or read otherwise: pieces of another revision are made again.
REVISION = 1
_AUDIO = "audio"
# music21 makes objects by the hundred thousand: at Python's usual pace the collector takes a quarter of the time.
_COLLECT = (200_000, 20, 20)


def build_corpus(
    out: str | Path,
    *,
    pieces: int = 120,
    seed: int = 0,
    workers: int | None = None,
    soundfont: str | Path | None = None,
) -> Path:
    """Renders a corpus, or what is missing of it.

    Two runs with one seed give the same files to the bit, whatever ``workers`` is; a larger corpus begins with the
    smaller one of its seed. A piece that is there is not made again: a run that was broken off is taken up by
    repeating it. Where the folder holds more pieces than are asked for, they stay, and the manifest leaves them out.

    Args:
        out: folder for ``manifest.jsonl`` and ``audio/``; made if missing.
        pieces: number of pieces, 12 to 40 s each.
        seed: draws scores, excerpts, tempi, instruments and wording.
        workers: processes; None takes one a CPU core.
        soundfont: General MIDI SoundFont to play with; None takes pretty_midi's TimGM6mb.

    Returns:
        The path of the manifest.

    Raises:
        InputError: a bad number, a package that is missing, a folder that cannot be written or holds another corpus.
    """
    from datamodules.manifest import FILE_NAME, write_manifest

    for flag, number in (("--pieces", pieces), ("--workers", 1 if workers is None else workers)):
        if number < 1:
            raise InputError(f"{flag} must be at least 1, not {number}")
    font = soundfont_path(soundfont)
    name = recipe(font, REVISION)
    root = _prepared(Path(out), seed)
    hands = Selection(catalogue(), seed).deal(pieces)
    paths = [root / _AUDIO / f"{number:05d}.flac" for number in range(pieces)]
    jobs = [
        Job(n, seed, tuple(hand), path, font, name) for n, (hand, path) in enumerate(zip(hands, paths, strict=True))
    ]
    lines = {job.number: line for job in jobs if (line := finished_line(job.path, seed, name)) is not None}
    missing = [job for job in jobs if job.number not in lines]
    with _progress(len(jobs), len(lines)) as advance:
        for number, line in _made(missing, min(workers or cores(), max(1, len(missing)))):
            lines[number] = line
            advance()
    manifest = root / FILE_NAME
    write_manifest(manifest, (_track(lines[job.number], job.path) for job in jobs))
    return manifest


def _prepared(root: Path, seed: int) -> Path:
    """Makes the folder, or sees that what lies there may be continued."""
    from datamodules.manifest import FILE_NAME, read_manifest

    if root.exists() and not root.is_dir():
        raise InputError(f"--out {root}: is a file; give a folder")
    seeds = (
        {track.facts.get("seed", "none") for track in read_manifest(root)} if (root / FILE_NAME).is_file() else set()
    )
    # A run that was broken off has left pieces and no manifest.
    seeds |= {stored_line(path).get("seed", seed) for path in sorted((root / _AUDIO).glob("*.flac"))[:1]}
    if seeds - {seed}:
        other = sorted(map(str, seeds - {seed}))[0]
        raise InputError(f"--out {root}: holds another corpus (seed {other}, not {seed}); give another folder")
    try:
        (root / _AUDIO).mkdir(parents=True, exist_ok=True)
        probe = root / _AUDIO / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"--out {root}: cannot be written ({error.strerror})") from error
    return root


def _made(jobs: Sequence[Job], workers: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Makes the pieces, in this process or in several; yields (number, line) as they are finished."""
    if workers == 1:
        usual = gc.get_threshold()
        try:
            gc.set_threshold(*_COLLECT)
            for job in jobs:
                yield job.number, make_piece(job)
        finally:
            gc.set_threshold(*usual)
        return
    try:
        with closing(unordered(make_piece, jobs, workers, _start_worker)) as made:
            for job, line in made:
                if isinstance(line, WorkerCrashedError):
                    raise InputError(
                        "a rendering process was killed (out of memory?); run the command again, with fewer --workers"
                    )
                yield job.number, line
    except BaseException:
        for job in jobs:
            partial_path(job.path).unlink(missing_ok=True)
        raise


def _start_worker() -> None:
    gc.set_threshold(*_COLLECT)
    start_worker()


@contextmanager
def _progress(total: int, done: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("rendering"), BarColumn(), MofNCompleteColumn(), TextColumn("pieces"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rendering", total=total, completed=done)
        yield lambda: bar.advance(task)


def _track(line: dict[str, Any], path: Path) -> "Track":
    from datamodules.manifest import Track

    own = ("id", "duration", "sample_rate", "caption", "split")
    return Track(
        **{name: line[name] for name in own},
        path=path,
        facts={name: value for name, value in line.items() if name not in own},
    )
