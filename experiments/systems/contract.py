"""The contract of a system: prompts to a folder of clips with ``manifest.jsonl`` and ``system.json``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from datamodules.errors import InputError
from datamodules.manifest import FILE_NAME, Track, write_manifest
from datamodules.whole_files import write_whole
from evaluation.pairing import SYSTEM_FILE
from experiments.jobs.requests import Options
from experiments.planning.subject import Subject
from experiments.prompts import Prompt


@dataclass(frozen=True)
class Made:
    """What a system has made of the prompts.

    Attributes:
        asked: how many prompts there were.
        made: how many of them have a clip.
        unmatched: names of files that belong to no prompt, of a folder that was made elsewhere.
        unreadable: names of files that are no audio.
    """

    asked: int
    made: int
    unmatched: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()


class System(Protocol):
    """Something that makes music.

    Attributes:
        name: in reports, and for its folder.
        source: where it comes from, as it was given.
        missing: why it cannot make clips now; empty if it can.
    """

    name: str
    source: str
    missing: str

    def clips(self, prompts: Sequence[Prompt], out: Path, options: Options, device: str) -> Made:
        """Puts a clip for every prompt that it can into ``out``, and the manifest of them.

        What lies there and is what is asked for is left alone.

        Raises:
            InputError: it cannot make even one.
        """
        ...

    def checksum(self) -> str:
        """Changes when what makes the clips does."""
        ...

    def subject(self) -> Subject | None:
        """Its language model as the planner counts it; None where that is not known."""
        ...


def write_clips_manifest(out: Path, tracks: Sequence[Track]) -> None:
    """Writes the manifest of a folder of clips.

    Raises:
        InputError: there are none.
    """
    if not tracks:
        raise InputError(f"{out}: not one clip was made")
    write_manifest(out / FILE_NAME, tracks)


def write_record(out: Path, system: System, made: Made, further: dict[str, Any] | None = None) -> None:
    """Writes what the report shows of a system into ``system.json``, beside what already stands there."""
    path = out / SYSTEM_FILE
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    clips: dict[str, Any] = {"asked": made.asked, "made": made.made}
    clips |= {key: list(names) for key in ("unmatched", "unreadable") if (names := getattr(made, key))}
    record = {**before, **(further or {}), "name": system.name, "model": system.source, "clips": clips}
    write_whole(path, json.dumps(record, indent=1).encode())
