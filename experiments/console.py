"""What commands share on the terminal: progress bars, devices, checked output folders."""

import errno
import logging
import warnings
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from datamodules.errors import InputError


def progress() -> Progress:
    """A progress bar on standard error; in a log it leaves its last state only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )


def pick_device(name: str) -> str:
    """``name``, or for "auto" a GPU where there is one.

    Raises:
        InputError: a GPU was asked for and there is none.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: this machine has no usable GPU; use --device cpu")
    if name.split(":")[0] not in ("cpu", "cuda", "mps"):
        raise InputError(f"there is no device {name!r}; choose cpu, cuda, cuda:N or auto")
    return name


def require_folder(path: str | Path) -> Path:
    """Makes the folder ``path`` if need be.

    Raises:
        InputError: it is a file, or cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(f"{folder}: is a file; an output folder is wanted here") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # a full disk has a line of its own
            raise
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from error
    return folder


def quiet_prediction() -> None:
    """Hides what Lightning says to everybody who predicts, and what no user of ours can act on."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        "Total length of `DataLoader`",
        ".*does not have many workers",
        # Lightning's own use of a deprecated call.
        r".*isinstance\(treespec, LeafSpec\)",
    ):
        warnings.filterwarnings("ignore", message=message)


def in_words(seconds: float) -> str:
    """A duration as one would say it: 0.84 s, 12 min, 3.7 h, 25 days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
