"""Whose folder it is: a run goes on in its own folder, with its own architecture and data, or not at all."""

import errno
import fcntl
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from lightning.fabric.utilities.rank_zero import rank_zero_only

from datamodules.errors import InputError

CONFIG, CHECKPOINTS, LOCK = "config.yaml", "checkpoints", ".lock"
# What makes a run that run. How fast it goes, where and for how long are no part of it, nor is the optimiser.
_MODEL = (
    "class_path", "init_args.lm", "init_args.text", "init_args.melody", "init_args.codec", "init_args.seed",
    "init_args.start_from", "init_args.lora",
)  # fmt: skip
_DATA = ("class_path", "init_args.store", "init_args.manifest", "init_args.seconds", "init_args.seed")
_PLACES = ("codec", "start_from", "store", "manifest")
_SHOWN = 4
_TAKEN = (errno.EACCES, errno.EAGAIN)
_held: list[IO[str]] = []  # the lock of the run that this process is in


def require_own(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Takes a run's folder, which has to be that of this run, for this process alone.

    Raises:
        InputError: its checkpoints are another run's, or another process trains in it.
    """
    require_same(folder, config)
    take(folder)


def take(folder: str | Path) -> None:
    """Locks a run's folder, in process 0, until the process takes another or ends, in whatever way.

    Where the file system has no locks that is said, and nothing is locked.

    Raises:
        InputError: another process has it, here or on another machine.
    """
    # The first process of another node, where Lightning starts those of each, knows no rank yet.
    others = getattr(rank_zero_only, "rank", 0) or os.environ.get("NODE_RANK", "0") != "0"
    if others or Path(folder).is_file():
        return
    path = Path(folder).resolve() / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    try:
        # The kernel gives it back when the process dies; processes that this one forks do not have it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            file.seek(0)
            who = _who(file.read())
            raise InputError(f"{folder}: another process trains in it{who}; end that one first") from error
        print(f"{folder}: its file system has no locks ({error.strerror}): start no second job of this run beside this")
        file.close()
        return
    file.truncate(0)
    file.write(json.dumps({"host": platform.node(), "process": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}))
    file.flush()
    # To close a file is to give up its lock, also where another handle has it: the same folder's is kept.
    if _held and _held[0].name == file.name:
        _held.append(file)
    else:
        _held[:] = [file]


def _who(said: str) -> str:
    try:
        who = json.loads(said)
        job = f", job {who['job']}" if who["job"] else ""
        return f" (process {who['process']} on {who['host']}{job})"
    except (ValueError, KeyError, TypeError):
        return ""  # it has not said so yet


def require_same(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Whether the checkpoints in a run's folder, if there are any, are those of a run of this config.

    Args:
        folder: of the run.
        config: what is to be run; of what it leaves open nothing is said.

    Raises:
        InputError: they are another's: its first differences are named.
    """
    place = Path(folder)
    if not (place / CONFIG).is_file() or not any((place / CHECKPOINTS).glob("*.ckpt")):
        return
    there = yaml.safe_load((place / CONFIG).read_text(encoding="utf-8"))
    found = list(_differences(there, config, "model", _MODEL)) + list(_differences(there, config, "data", _DATA))
    if found:
        raise InputError(
            f"{place}: is the folder of another run: {_listed(found)}; give another folder (RUN=, --run), or the "
            "settings of that run"
        )


def require_architecture(checkpoint: str | Path, config: Mapping[str, Any], module: torch.nn.Module) -> None:
    """Whether a checkpoint is of the architecture that is to be trained.

    The fields are compared where the checkpoint's run has its config beside it, the weights' shapes anywhere.

    Raises:
        InputError: it is of another: which fields differ.
    """
    path = Path(checkpoint)
    beside = path.parent.parent / CONFIG
    fields = ("class_path", "init_args.lm", "init_args.text", "init_args.melody", "init_args.lora")
    found = []
    if beside.is_file():
        there = yaml.safe_load(beside.read_text(encoding="utf-8"))
        found = list(_differences(there, config, "model", fields))
    if not found and path.is_file():
        found = list(_other_shapes(path, module))
    if found:
        raise InputError(f"{path}: is a checkpoint of another architecture: {_listed(found)}")


def _differences(
    there: Mapping[str, Any], here: Mapping[str, Any], part: str, fields: tuple[str, ...]
) -> Iterator[str]:
    """Leaves of these fields that both have and that differ: "model.init_args.lm.dim is 8 there, 16 here"."""
    old, new = _leaves(there.get(part) or {}), _leaves(here.get(part) or {})
    for name, value in new.items():
        if not any(name == field or name.startswith(f"{field}.") for field in fields):
            continue
        if name in old:
            if not _same(name, old[name], value):
                yield f"{part}.{name} is {old[name]!r} there and {value!r} here"
        elif value is None and any(other.startswith(f"{name}.") for other in old):
            yield f"{part}.{name} is given there and none here"
    for name, value in old.items():
        if value is None and name in fields and any(other.startswith(f"{name}.") for other in new):
            yield f"{part}.{name} is none there and given here"


def _leaves(fields: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            found.update(_leaves(value, f"{before}{name}."))
        else:
            found[f"{before}{name}"] = value
    return found


def _same(name: str, one: Any, other: Any) -> bool:
    if name.rpartition(".")[2] in _PLACES and isinstance(one, str) and isinstance(other, str | Path):
        return one == str(other) or Path(one).resolve() == Path(other).resolve()
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return list(one) == list(other)
    return bool(one == other)


def _other_shapes(path: Path, module: torch.nn.Module) -> Iterator[str]:
    saved = torch.load(path, "cpu", mmap=True, weights_only=True).get("state_dict", {})
    own = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, torch.Tensor)}
    for name, tensor in own.items():
        if name not in saved:
            yield f"it has no {name}"
        elif saved[name].shape != tensor.shape:
            yield f"{name} is {_shape(saved[name])} there and {_shape(tensor)} here"
    yield from (f"its {name} has no place here" for name in saved if name not in own)


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a scalar"


def _listed(found: list[str]) -> str:
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
