"""How benchmarks measure: interleaved repeats on one thread, a description of the machine, a table and a JSON file."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from datamodules.whole_files import write_whole
from datamodules.workers import cores

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("torch", "torchaudio", "soundfile", "numpy")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Row:
    """One figure beside a peer's and a bound.

    Attributes:
        name: what was measured.
        unit: of ``ours``, ``peer`` and ``floor``.
        ours: this suite's figure.
        peer: that of what one would use instead; None without one.
        floor: what no way of doing it could beat, or the part of it that cannot be saved; None where none was measured.
        wanted: the aim, in words, for the table alone.
        small_is_good: whether less is better.
    """

    name: str
    unit: str
    ours: float
    peer: float | None = None
    floor: float | None = None
    wanted: str = ""
    small_is_good: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer; None without one, or where the better of the two is nothing at all."""
        if self.peer is None:
            return None
        better, worse = (self.peer, self.ours) if self.small_is_good else (self.ours, self.peer)
        return better / worse if worse > 0 else None

    def record(self) -> dict[str, Any]:
        """The row of the JSON file."""
        figures = {"ours": self.ours, "peer": self.peer, "ratio": self.ratio, "floor": self.floor}
        return {"name": self.name, "unit": self.unit, **figures}


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch, and the processes started meanwhile, compute on one thread."""
    import torch

    threads, environment = torch.get_num_threads(), {name: os.environ.get(name) for name in _THREADS}
    torch.set_num_threads(1)
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for name, value in environment.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def rates(
    functions: Mapping[str, Callable[[], int]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Items a second of several functions that take turns, A B C A B C ..., so that all meet the same machine.

    Args:
        functions: each does some items and returns how many; it is called once more beforehand, to warm up.
        repeats: turns.
        clock: seconds; by default those of a core that this process used, so that other work counts little. Waiting is
            not in them: what waits for other processes is measured with ``time.perf_counter``.

    Returns:
        The medians over the turns.
    """
    for function in functions.values():
        function()
    measured: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            begin = clock()
            items = function()
            measured[name].append(items / (clock() - begin))
    return {name: median(values) for name, values in measured.items()}


def machine() -> dict[str, Any]:
    """Where and with what a benchmark ran; threads are those of ``one_thread``."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "threads": 1,
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def table(title: str, rows: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    made = Table(title=title, title_justify="left")
    made.add_column("what", overflow="fold")
    made.add_column("unit")
    for name in ("ours", "peer", "ratio", "floor"):
        made.add_column(name, justify="right")
    made.add_column("wanted")
    for row in rows:
        figures = [_said(value) for value in (row.ours, row.peer, row.ratio, row.floor)]
        made.add_row(row.name, row.unit, *figures, row.wanted)
    return made


def write_rows(path: str | Path, described: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Writes ``{"machine": ..., "rows": [...]}``, whole or not at all."""
    record = {"machine": described, "rows": [row.record() for row in rows]}
    write_whole(Path(path), (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def _said(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that this file lies in; None where it is installed."""
    if not (_ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
