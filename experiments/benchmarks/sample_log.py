"""The samples and losses of every optimiser step of a training, in a file that survives a kill, and its check."""

from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch import Callback, LightningModule, Trainer


class SampleLog(Callback):
    """Appends a line "step n1 n2 ... | l1 l2 ..." for each optimiser step, before the checkpoint of that step.

    The numbers are those of its samples, the losses those of its micro-batches, to the last bit.

    Args:
        path: the log of the first process; others have one each, of the name that ``log_of`` tells. A resumed run
            appends to it.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._out: TextIO | None = None
        self._numbers: list[int] = []
        self._losses: list[str] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the log; of a line that a kill cut short the rest is removed."""
        path = log_of(self.path, trainer.global_rank)
        if path.exists():
            text = path.read_bytes()
            with path.open("r+b") as file:
                file.truncate(text.rfind(b"\n") + 1)
        self._out = path.open("a", encoding="ascii")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Gathers what there is to tell of micro-batches and writes it when their step is finished."""
        self._numbers += batch.numbers.tolist()
        self._losses.append(float(outputs["loss"]).hex())
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        assert self._out is not None, "training has not started"
        self._out.write(" ".join(map(str, [trainer.global_step, *self._numbers, "|", *self._losses])) + "\n")
        self._out.flush()
        self._numbers, self._losses = [], []
        # No process must save a step that another has not put down.
        trainer.strategy.barrier()


def log_of(path: Path, rank: int) -> Path:
    """Where the process of this rank writes."""
    return path if rank == 0 else path.with_suffix(f".{rank}{path.suffix}")


def logged_steps(text: str) -> list[tuple[int, str]]:
    """The whole lines of a log, in their order: (step, its samples and losses)."""
    lines = [line.partition(" ") for line in text.split("\n")[:-1]]
    return [(int(step), made) for step, _, made in lines]


def log_faults(text: str, undisturbed: str) -> list[str]:
    """What is wrong with the log of a training that was killed and resumed; nothing, if the list is empty.

    Steps that a kill took back are made again, so a step may come more than once, but with the same samples and losses;
    and no step may be left out.

    Args:
        text: the log; what stands behind its last line break was cut short and does not count.
        undisturbed: the log of the same training without a kill.
    """
    wanted = dict(logged_steps(undisturbed))
    faults = []
    seen: set[int] = set()
    before = 0
    for step, made in logged_steps(text):
        if step > before + 1:
            faults.append(f"step {before + 1} to {step - 1} left out before step {step}")
        if step not in wanted:
            faults.append(f"step {step} is none of the undisturbed run")
        elif made != wanted[step]:
            faults.append(f"step {step} is {made}, not {wanted[step]}")
        seen.add(step)
        before = step
    faults += [f"step {step} is missing" for step in wanted if step not in seen]
    return faults
