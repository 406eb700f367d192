"""``mgl bench``: side-by-side figures, measured in one run."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.benchmarks.measuring import Row


def bench(
    what: list[str],
    json: str = "",
    repeats: int = 7,
    quick: bool = False,
    full: bool = False,
    device: str = "cpu",
) -> None:
    """Measures this suite beside what one would use instead.

    "data": loading. "codec": speed, memory, and that its codes are transformers'. "metrics": Frechet distances beside
    frechet-audio-distance's. "evaluate": an evaluation by FAD beside that package's. "decode": steps of the language
    model. "train": steps of its training. "plan": what `mgl plan` counts beside what is measured. "processes":
    what two processes train beside what one does. "kills": runs that are killed.

    Every ratio comes from functions that take turns in this one run on one thread. Figures are worth most on a machine
    that does nothing else.

    Args:
        what: "data", "codec", "metrics", "evaluate", "decode", "train", "plan", "processes", "kills", or several.
        json: file for the figures.
        repeats: turns of which the median is taken.
        quick: a tenth of the work, to try it out; the figures mean little.
        full: of "decode": the 1,503 steps of 30 seconds at batch 1, instead of 250; of "evaluate": 200 pairs of clips
            instead of 24.
        device: of "decode" and "train": "cpu", or "cuda" for this machine's first GPU.
    """
    from contextlib import nullcontext
    from functools import partial
    from pathlib import Path

    from rich.console import Console
    from torch import cuda, get_num_threads

    from datamodules.errors import InputError
    from experiments.benchmarks.measuring import Row, machine, one_thread, table, write_rows
    from experiments.console import pick_device

    unknown = [name for name in what if name not in BENCHMARKS]
    if unknown:
        raise InputError(f"there is no benchmark {unknown[0]!r}; choose from {', '.join(BENCHMARKS)}")
    if full and not {"decode", "evaluate"} & set(what):
        raise InputError("full is for the benchmarks decode and evaluate alone; leave it out")
    if device not in ("cpu", "cuda"):
        raise InputError(f"device={device}: benchmarks run on cpu or cuda")
    if device != "cpu" and not {"decode", "train"} & set(what):
        raise InputError("device is for the benchmarks decode and train alone; leave it out")
    if repeats < 1:
        raise InputError(f"repeats={repeats}: nothing would be measured; give 1 or more")
    if json and not Path(json).parent.is_dir():
        raise InputError(f"{json}: its folder does not exist; make it first")
    described, console, log = machine(), Console(), Console(stderr=True)
    if pick_device(device) == "cuda":
        described |= {"gpu": cuda.get_device_name(), "threads": get_num_threads()}
    rows: list[Row] = []

    def keep(measured: list[Row]) -> None:
        if json:
            write_rows(json, described, [*rows, *measured])

    benchmarks: dict[str, Callable[..., list[Row]]] = {
        **BENCHMARKS,
        "decode": partial(_decode, full=full, device=device, keep=keep),
        "evaluate": partial(_evaluate, full=full),
        "train": partial(_train, device=device, keep=keep),
    }
    for name in dict.fromkeys(what):
        with one_thread() if device == "cpu" else nullcontext():
            measured = benchmarks[name](repeats, quick, lambda text: log.print(f"{text} ...", highlight=False))
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


def _evaluate(repeats: int, quick: bool, say: Callable[[str], None], full: bool = False) -> "list[Row]":
    from experiments.benchmarks.evaluate import evaluate_rows

    return evaluate_rows(repeats, quick, full, say)


def _decode(
    repeats: int,
    quick: bool,
    say: Callable[[str], None],
    full: bool = False,
    device: str = "cpu",
    keep: "Callable[[list[Row]], object]" = lambda rows: None,
) -> "list[Row]":
    """Turns are steps, of which there are enough; on a GPU rows are kept as soon as they are measured."""
    from experiments.benchmarks.decode import decode_rows
    from experiments.benchmarks.decode_gpu import gpu_decode_rows

    return gpu_decode_rows(quick, keep, say) if device == "cuda" else decode_rows(quick, full, say)


def _train(
    repeats: int,
    quick: bool,
    say: Callable[[str], None],
    device: str = "cpu",
    keep: "Callable[[list[Row]], object]" = lambda rows: None,
) -> "list[Row]":
    """On a GPU rows are kept as soon as they are measured."""
    from experiments.benchmarks.train import train_rows
    from experiments.benchmarks.train_gpu import gpu_train_rows

    if device == "cuda":
        return gpu_train_rows(quick, keep, lambda text: print(text, flush=True))
    return train_rows(repeats, quick, say)


def _plan(repeats: int, quick: bool, say: Callable[[str], None]) -> "list[Row]":
    from experiments.benchmarks.plan import plan_rows

    return plan_rows(quick, say)


def _processes(repeats: int, quick: bool, say: Callable[[str], None]) -> "list[Row]":
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from experiments.benchmarks.processes import process_rows

    with TemporaryDirectory(prefix="mgl-bench-") as folder:
        return process_rows(Path(folder), quick, say)


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


BENCHMARKS = {
    "data": _data,
    "codec": _codec,
    "metrics": _metrics,
    "evaluate": _evaluate,
    "decode": _decode,
    "train": _train,
    "plan": _plan,
    "processes": _processes,
    "kills": _kills,
}
