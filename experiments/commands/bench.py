"""``mgl bench``: side-by-side figures, measured in one run."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.benchmarks.measuring import Row


def bench(what: list[str], json: str = "", repeats: int = 7, quick: bool = False) -> None:
    """Measures this suite beside what one would use instead.

    "data": loading. "codec": speed, memory, and that its codes are transformers'. "metrics": Frechet distances beside
    frechet-audio-distance's. "kills": runs that are killed.

    Every ratio comes from functions that take turns in this one run on one thread. Figures are worth most on a machine
    that does nothing else.

    Args:
        what: "data", "codec", "metrics", "kills", or several.
        json: file for the figures.
        repeats: turns of which the median is taken.
        quick: a tenth of the work, to try it out; the figures mean little.
    """
    from pathlib import Path

    from rich.console import Console

    from datamodules.errors import InputError
    from experiments.benchmarks.measuring import Row, machine, one_thread, table, write_rows

    unknown = [name for name in what if name not in BENCHMARKS]
    if unknown:
        raise InputError(f"there is no benchmark {unknown[0]!r}; choose from {', '.join(BENCHMARKS)}")
    if repeats < 1:
        raise InputError(f"repeats={repeats}: nothing would be measured; give 1 or more")
    if json and not Path(json).parent.is_dir():
        raise InputError(f"{json}: its folder does not exist; make it first")
    described, console, log = machine(), Console(), Console(stderr=True)
    rows: list[Row] = []
    for name in dict.fromkeys(what):
        with one_thread():
            measured = BENCHMARKS[name](repeats, quick, lambda text: log.print(f"{text} ...", highlight=False))
        console.print(table(f"mgl bench {name}", measured))
        rows += measured
    console.print(", ".join(f"{key} {value}" for key, value in described.items()), highlight=False, soft_wrap=True)
    if json:
        write_rows(json, described, rows)
        print(f"wrote {json}")


def _data(repeats: int, quick: bool, say: Callable[[str], None]) -> "list[Row]":
    from experiments.benchmarks.data import data_rows

    return data_rows(repeats, quick, say)


def _codec(repeats: int, quick: bool, say: Callable[[str], None]) -> "list[Row]":
    from experiments.benchmarks.codec import codec_rows

    return codec_rows(repeats, quick, say)


def _metrics(repeats: int, quick: bool, say: Callable[[str], None]) -> "list[Row]":
    from experiments.benchmarks.metrics import metric_rows

    return metric_rows(repeats, quick, say)


def _kills(repeats: int, quick: bool, say: Callable[[str], None]) -> "list[Row]":
    """The table of kills, printed, and a row for each command that was killed."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from experiments.benchmarks.kills import kill_table
    from experiments.benchmarks.measuring import Row

    with TemporaryDirectory(prefix="mgl-bench-") as folder:
        killed = kill_table(Path(folder), 1 if quick else 10, 0, say)
    rows = []
    for what in dict.fromkeys(row["what"] for row in killed):
        exact = [
            row["identical"] and not row["lost"] and not row["half_written"] for row in killed if row["what"] == what
        ]
        rows.append(
            Row(f"{what}: kills that left no trace, of {len(exact)}", "kills", sum(exact), wanted=f"{len(exact)}")
        )
    return rows


BENCHMARKS = {"data": _data, "codec": _codec, "metrics": _metrics, "kills": _kills}
