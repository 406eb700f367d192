"""How much memory something takes, in a process of its own."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from datamodules.errors import InputError

_Result = TypeVar("_Result")
_MEGABYTE = 1e6


def in_fresh_process(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """What the function returns in a process that has done nothing before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def start_memory() -> float:
    """Resident MB of this process; its peak is counted from here on.

    Raises:
        InputError: no such thing is told here.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError as error:
        raise InputError(f"memory is measured through /proc ({error}); run this benchmark on Linux") from error
    return pages * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE


def peak_memory() -> float:
    """The most resident MB since ``start_memory``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kilobytes) * 1024 / _MEGABYTE
