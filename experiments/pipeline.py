"""Stages: commands that run one after the other, each only if it has to."""

import hashlib
import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from experiments.compose import resolve_layers

_RECORD = "stages.json"


@dataclass(frozen=True)
class Stage:
    """One command of a pipeline.

    Attributes:
        name: what it is called in the record.
        command: what follows ``mgl`` on the command line; OUT stands for the pipeline's folder.
        result: the file that is there when it is done, in that folder.
        needs: names of the stages whose results it reads.
    """

    name: str
    command: str
    result: str
    needs: tuple[str, ...] = ()


def run_stages(stages: list[Stage], folder: Path, until: str) -> None:
    """Runs stages in order, up to and including ``until``.

    A stage is passed over when its result is there, made by the same command with the same layers, and no stage that it
    needs has run since. What was done is recorded in ``stages.json``, with the seconds it took.

    Raises:
        InputError: ``until`` names no stage.
    """
    from experiments.__main__ import run

    names = [stage.name for stage in stages]
    if until not in names:
        raise InputError(f"there is no stage {until!r}; the stages are {', '.join(names)}")
    record_path = folder / _RECORD
    record = json.loads(record_path.read_text(encoding="utf-8")) if record_path.is_file() else {}
    wanted = stages[: names.index(until) + 1]
    for number, stage in enumerate(wanted, start=1):
        title = f"[{number}/{len(wanted)}] {stage.name}"
        done = record.get(stage.name, {})
        same = done.get("command") == stage.command and done.get("configs") == _configs(stage.command)
        if (folder / stage.result).exists() and same:
            print(f"{title}: finished before ({done['seconds']:.0f} s)")
            continue
        name, *arguments = [_placed(word, folder) for word in shlex.split(stage.command)]
        print(f"\n{title}\n$ mgl {shlex.join([name, *arguments])}", flush=True)
        # Forgotten before it runs, with what is made from it: a pipeline that breaks off here goes on here.
        for other in stages:
            if other is stage or stage.name in other.needs:
                record.pop(other.name, None)
        _write(record_path, record)
        begun = time.monotonic()
        run(name, arguments)
        seconds = round(time.monotonic() - begun, 1)
        record[stage.name] = {"command": stage.command, "configs": _configs(stage.command), "seconds": seconds}
        _write(record_path, record)


def _write(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")


def _placed(word: str, folder: Path) -> str:
    return str(folder / word.removeprefix("OUT/")) if word.startswith("OUT/") else word


def _configs(command: str) -> str:
    """A checksum over the config layers that a command names: an edited layer makes its stage run again."""
    digest = hashlib.sha256()
    for word in resolve_layers(shlex.split(command)):
        if word.endswith(".yaml"):
            digest.update(Path(word).read_bytes())
    return digest.hexdigest()
