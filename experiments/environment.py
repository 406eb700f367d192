"""What a run was started with: revision of the code, packages, machine. ``RUN/environment.json``."""

import json
import os
import platform
import subprocess
import sys
from datetime import datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from datamodules.errors import InputError
from datamodules.whole_files import write_whole

FILE = "environment.json"
_ROOT = Path(__file__).parents[1]


def describe_environment() -> dict[str, Any]:
    """This moment, this process, this machine."""
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "git": _git(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "packages": dict(sorted({one.metadata["Name"]: one.version for one in distributions()}.items())),
    }


def append_environment(folder: str | Path, **more: Any) -> None:
    """Adds this start to the list in the folder's ``environment.json``; what was written stays as it is.

    Args:
        folder: the run's.
        more: what else to write about it.

    Raises:
        InputError: the file that is there is something else.
    """
    path = Path(folder) / FILE
    starts = []
    if path.is_file():
        try:
            starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not what a run writes there; move it away") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    starts.append({**describe_environment(), **more})
    write_whole(path, (json.dumps({"starts": starts}, indent=1) + "\n").encode())


def _git() -> dict[str, Any] | None:
    """Revision of the checkout that this file lies in, and whether files differ from it; None where it is installed."""
    if not (_ROOT / ".git").exists():
        return None
    git = ("git", "-C", str(_ROOT))
    revision, changed = _output(*git, "rev-parse", "HEAD"), _output(*git, "status", "--short")
    return None if revision is None else {"revision": revision, "changed": bool(changed)}


def _driver() -> str | None:
    if not torch.cuda.is_available():
        return None
    found = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return found.splitlines()[0] if found else None


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
