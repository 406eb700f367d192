"""What an evaluation set says of itself: clips, stated length, and one checksum over all that is scored.

Two people who read the same checksum score on the same captions and the same samples, whoever cut and packed the files.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from datamodules.audio_io import audio_length, read_audio
from datamodules.errors import InputError
from datamodules.eval_sets.journal import read_journal
from datamodules.manifest import read_manifest

FILE_NAME = "set.json"

# Called after every clip with how many are done, and of how many.
Progress = Callable[[int, int], None]


def no_progress(done: int, total: int) -> None:
    """For callers who do not look."""


@dataclass(frozen=True)
class SetRecord:
    """The content of ``set.json``.

    Attributes:
        kind: "held-out", "musiccaps", "song-describer" or "melody".
        seconds: the stated length of a clip.
        sample_rate: Hz of the clips.
        clips: lines of the manifest.
        tracks: recordings that the clips were cut from.
        artists: artists of those recordings; None where not one is named.
        missing: lines of ``missing.jsonl``: what was asked for and gave no clip.
        checksum: see ``set_checksum``.
        settings: what was asked for.
        note: what a reader of scores on this set must know; mostly empty.
    """

    kind: str
    seconds: float
    sample_rate: int
    clips: int
    tracks: int
    artists: int | None
    missing: int
    checksum: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def to_json(self) -> str:
        """The text of ``set.json``."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_record(folder: str | Path) -> SetRecord:
    """Reads the ``set.json`` of a folder.

    Raises:
        InputError: there is none, or it is not one of ours.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; `mgl eval-set` makes an evaluation set")
    try:
        return SetRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not the record of an evaluation set; make the set anew") from error


def set_checksum(clips: Iterable[tuple[str, str, str]]) -> str:
    """sha256 over clips as (id, caption, ``audio_digest``), one line of JSON each, in order of their ids."""
    whole = sha256()
    for clip in sorted(clips):
        whole.update(json.dumps(clip).encode() + b"\n")
    return whole.hexdigest()


def audio_digest(path: str | Path) -> str:
    """sha256 over the rate and the 16-bit samples of a mono file: the same whichever encoder packed them.

    Raises:
        InputError: the file is missing or damaged.
    """
    _, rate = audio_length(path)
    # What was stored in 16 bits is read as multiples of 2 ** -15: nothing is rounded here.
    samples = (read_audio(path, sample_rate=rate)[0] * 32768).numpy().astype("<i2")
    return sha256(f"{rate} ".encode() + samples.tobytes()).hexdigest()


def verify(folder: str | Path, progress: Progress = no_progress) -> SetRecord:
    """Reads every clip of a set again and compares the checksum.

    Args:
        folder: an evaluation set.
        progress: called after every clip.

    Returns:
        The set's record, which is true of what lies there.

    Raises:
        InputError: the folder holds no set, or what it holds has changed; the clips whose audio has are named.
    """
    record, tracks, journal = read_record(folder), read_manifest(folder), read_journal(Path(folder))
    digests: dict[Path, str] = {}
    clips, changed = [], []
    for number, track in enumerate(tracks, start=1):
        if track.path not in digests:
            try:
                digests[track.path] = audio_digest(track.path)
            except InputError:
                digests[track.path] = "unreadable"
            entry = journal.get(track.path.stem)
            if entry and entry.audio != digests[track.path]:
                changed.append(track.path.name)
        clips.append((track.id, track.caption, digests[track.path]))
        progress(number, len(tracks))
    if set_checksum(clips) != record.checksum:
        what = f"the audio of {shortened(changed)} has changed" if changed else "ids, captions or audio have changed"
        raise InputError(f"{folder}: not the set that its {FILE_NAME} describes: {what}; make it anew")
    return record


def shortened(names: Iterable[str], most: int = 5) -> str:
    """The first few of many names, for a message."""
    every = list(names)
    listed = ", ".join(repr(name) for name in every[:most])
    return listed + (f" and {len(every) - most} more" if len(every) > most else "")
