"""Prompt files: one text a line, or one JSON object a line."""

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.errors import InputError

_ID = re.compile(r"[\w][\w .-]*")


@dataclass(frozen=True)
class Prompt:
    """What to generate, under a name that becomes the file's.

    Attributes:
        id: the name.
        caption: the text.
        duration: seconds.
        seed: of the clip, with its name.
        melody: audio file whose melody it follows.
        continuation: audio file that it begins with.
    """

    id: str
    caption: str
    duration: float
    seed: int
    melody: Path | None = None
    continuation: Path | None = None

    @property
    def sounds(self) -> tuple[Path | None, Path | None]:
        """Melody and continuation."""
        return self.melody, self.continuation


def read_prompts(
    path: str | Path, duration: float, seed: int, melody: str | None = None, continuation: str | None = None
) -> list[Prompt]:
    """Reads a prompt file; empty lines are passed over.

    Args:
        path: the file; JSON lines when its name ends in .jsonl, else plain text. A manifest is a prompt file too.
        duration: seconds where a line does not say, or is a manifest's.
        seed: seed where a line does not say.
        melody: file of the melody where a line does not say; "" is no melody in any.
        continuation: file that is continued where a line does not say; "" is none in any.

    Raises:
        InputError: no such file, nothing in it, a line that is wrong, or a file that it names is not there.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{path}: there is no such prompt file")
    prompts: list[Prompt] = []
    try:
        # No splitlines(): a JSON string may hold characters at which it breaks. A byte order mark is passed over.
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a prompt file: it is no UTF-8 text") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fields: dict[str, Any] = {"caption": line.strip()}
        if file.suffix == ".jsonl":
            fields = _json(line, f"{path}, line {number}")
        where = f"{path}, line {number}"
        prompt = _prompt(fields, f"{len(prompts):04d}", duration, seed, where)
        followed = _sound(fields, "melody", file.parent, melody, where)
        continued = _sound(fields, "continuation", file.parent, continuation, where)
        prompts.append(replace(prompt, melody=followed, continuation=continued))
    if not prompts:
        raise InputError(f"{path}: there are no prompts in it; write one a line")
    names = [prompt.id for prompt in prompts]
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise InputError(f"{path}: two prompts have the id {twice!r}; ids must differ")
    return prompts


def _sound(fields: dict[str, Any], kind: str, folder: Path, default: str | None, where: str) -> Path | None:
    """The audio file that a line names, relative to the prompt file, or the default."""
    if default == "":
        return None
    named = fields.get(kind)
    if named is not None and not isinstance(named, str):
        raise InputError(f"{where}: {kind} must be the path of an audio file")
    file = folder / named if named else Path(default) if default else None
    if file is not None and not file.is_file():
        raise InputError(f"{where}: there is no {kind} {file}")
    return file


def _json(line: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg})") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("caption"), str):
        raise InputError(f'{where}: wanted an object with "caption"')
    return fields


def _prompt(fields: dict[str, Any], default_id: str, duration: float, seed: int, where: str) -> Prompt:
    try:
        # A manifest's "duration" is its clip's; only a prompt file proper, without audio, asks for one.
        seconds = duration if "path" in fields else float(fields.get("duration", duration))
        prompt = Prompt(str(fields.get("id", default_id)), fields["caption"], seconds, int(fields.get("seed", seed)))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: duration and seed must be numbers") from error
    if not _ID.fullmatch(prompt.id):
        raise InputError(
            f"{where}: the id {prompt.id!r} becomes a file name: letters, digits, space, '.', '_', '-' only"
        )
    if not 0 < prompt.duration < 3600:
        raise InputError(
            f"{where}: a duration of {prompt.duration} s cannot be generated; give more than 0 s and less than an hour"
        )
    return prompt
