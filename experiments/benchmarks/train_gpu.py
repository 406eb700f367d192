"""``mgl bench train --device cuda``: how fast a GPU trains, what of its peak that is, and how much memory it takes.

``python -m experiments.benchmarks.train_gpu`` runs the same at the nano size on a CPU, to see that all of it works.
"""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from experiments.benchmarks.measuring import Row
from experiments.benchmarks.train_runs import run_rate
from experiments.benchmarks.train_step import Measured, WarmingUp, Work, measure, release, ways
from experiments.flops import peak_flops

_BUDGET = 125.0  # seconds
_RUN_SECONDS, _SIZE_SECONDS, _EAGER_SECONDS = 35.0, 15.0, 8.0  # without which a part is not begun
_TIMED = {"small": 8, "large": 3}  # steps
_CHECKPOINTS = 1000  # steps between the recipe's


class Progress:
    """What has been measured, kept as soon as it is, and how much time is left.

    Args:
        keep: is given all rows so far whenever there are more.
        say: is told what is being done.
        budget: seconds for everything.
    """

    def __init__(self, keep: Callable[[list[Row]], object], say: Callable[[str], object], budget: float) -> None:
        self.rows: list[Row] = []
        self._keep, self._say, self._budget, self._begun = keep, say, budget, time.monotonic()

    @property
    def left(self) -> float:
        """Seconds."""
        return self._budget - (time.monotonic() - self._begun)

    def say(self, text: str) -> None:
        """With the time since the beginning."""
        self._say(f"[{time.monotonic() - self._begun:6.1f} s] {text}")

    def add(self, *rows: Row) -> None:
        """Keeps rows, and says them."""
        self.rows += rows
        self._keep(self.rows)
        for row in rows:
            beside = "" if row.peer is None else f", beside {row.peer:.5g} (ratio {row.ratio or 0:.3f})"
            self.say(f"{row.name}: {row.ours:.5g} {row.unit}{beside}")

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part whose failure does not end the others."""
        self.say(name)
        try:
            yield
        except Exception:  # whatever it is: what comes later may still be measured
            traceback.print_exc()
            self.say(f"{name}: FAILED")

    def enough(self, name: str, seconds: float) -> bool:
        """Whether there is time for a part; says so where there is not."""
        if self.left < seconds:
            self.say(f"{name}: left out; {self.left:.0f} s are left, and it may take {seconds:.0f}")
        return self.left >= seconds


def gpu_train_rows(
    quick: bool,
    keep: Callable[[list[Row]], object],
    say: Callable[[str], object],
    device: str = "cuda",
    budget: float = _BUDGET,
) -> list[Row]:
    """Everything that is measured of training on a GPU.

    A step is of made-up batches on the device: 24 crops of 30 s, what one of 8 GPUs has of the recipe's 192, in as
    large micro-batches as fit, with random embeddings of 64 places as texts. Then ``mgl fit`` trains on a token store,
    with its log, average and a checkpoint, and its rate is put beside that. Last, the same without ``torch.compile``.

    Args:
        quick: the nano size, short crops.
        keep: is given all rows so far whenever there are more, so that a run that is cut short loses none.
        say: is told what is being done, and when.
        device: "cuda", or "cpu" to see that everything works.
        budget: seconds; a part that it is too short for is left out, and said so.
    """
    progress, place = Progress(keep, say, budget), torch.device(device)
    sizes = ("nano",) if quick else ("small", "medium", "large")
    possible = {size: ways(size, place, quick) for size in sizes}
    progress.say("plans: " + "; ".join(works[0].title for works in possible.values()))
    first, *others = possible.values()
    text = first[0].planned.places["text"]
    # Texts of a run are of any length.
    warming = WarmingUp([(first[0], (text, text + 8)), *((works[0], (text,)) for works in others)], place)

    def ready() -> None:
        done = warming.wait(progress.left / 4)
        progress.say(f"the first step is done, the other blocks are {'' if done else 'NOT '}compiled")

    for number, (size, works) in enumerate(possible.items()):
        if number and not progress.enough(size, _SIZE_SECONDS):
            continue
        with progress.part(size):
            found = size_rows(works, place, progress, _TIMED.get(size, 4), ready)
            if not number and found and progress.enough("mgl fit", _RUN_SECONDS):
                run_rows(*found, place, progress, 24 if quick else 300)
        release()
        torch._dynamo.reset()  # else sizes that differ between models would be taken for ones that change
    for size, works in possible.items():
        if progress.enough(f"{size}, not compiled", _EAGER_SECONDS):
            with progress.part(f"{size}, not compiled"):
                size_rows([replace(work, compiled=False) for work in works], place, progress, 2)
            release()
    warming.wait(0)
    progress.say("done")
    return progress.rows


def size_rows(
    works: Sequence[Work],
    device: torch.device,
    progress: Progress,
    timed: int,
    ready: Callable[[], object] = lambda: None,
) -> tuple[Work, Measured] | None:
    """Rows of the first of these that fits, and what was measured of it; None where none does.

    Args:
        works: ways of training one size, of largest micro-batches first.
        device: where.
        progress: gets the rows.
        timed: steps that are timed.
        ready: called when the first step is done.
    """
    for work in works:
        try:
            found = measure(work, device, timed, ready)
        except torch.OutOfMemoryError:
            progress.say(f"{work.title}: does not fit")
        else:
            add_rows(work, found, device, progress)
            return work, found
        release()
        torch._dynamo.reset()
    return None


def add_rows(work: Work, found: Measured, device: torch.device, progress: Progress) -> None:
    """Codes a second, seconds of a step, MFU, and memory."""
    flops = work.planned.flops(work.deal.crops).total
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    codes = work.deal.crops * work.planned.lm.codebooks * work.planned.frames
    most = codes * peak / flops if peak is not None else None
    progress.add(
        Row(f"{work.title}: rate", "codes/s", codes / found.seconds, floor=most),
        Row(f"{work.title}: a step", "s", found.seconds, floor=codes / most if most else None, small_is_good=True),
        Row(f"{work.title}: the first step", "s", found.first, small_is_good=True),
    )
    if peak is not None:
        progress.add(Row(f"{work.title}: MFU", "%", 100 * flops / found.seconds / peak, floor=100.0))
    if found.peak is not None:
        name = f"{work.title}: memory, planned (ours) and measured (peer)"
        progress.add(Row(name, "GB", work.memory / 1e9, found.peak / 1e9, wanted="within 10 %"))


def run_rows(work: Work, found: Measured, device: torch.device, progress: Progress, most: int) -> None:
    """Steps of a real run beside those on made-up batches, as many as there is time for, ``most`` at most."""
    progress.say(f"{work.size}: mgl fit")
    made_up = work.deal.crops / found.seconds
    steps = max(16, min(most, int(progress.left / 5 / found.seconds)))
    release()
    real = run_rate(work, steps, device)
    title = f"{work.size}, {steps} steps of mgl fit (ours) and on made-up batches (peer)"
    every = _CHECKPOINTS * work.deal.crops
    progress.add(
        Row(title, "crops/s", real.crops, made_up, wanted="ratio >= 0.95"),
        Row(f"{work.size}: writing a checkpoint", "s", real.checkpoint, small_is_good=True),
        Row(
            f"{title}, with a checkpoint every {_CHECKPOINTS:,}",
            "crops/s",
            every / (every / real.crops + real.checkpoint),
            made_up,
            wanted="ratio >= 0.95",
        ),
    )


def rehearse(device: str = "cpu", budget: float = 600.0) -> None:
    """Runs everything at the nano size.

    Args:
        device: "cpu" or "cuda".
        budget: seconds.
    """
    gpu_train_rows(True, lambda rows: None, lambda text: print(text, flush=True), device, budget)


if __name__ == "__main__":
    import sys

    from experiments.call import call

    call(rehearse, "rehearse", sys.argv[1:])
