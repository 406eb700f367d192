"""What is measured of decoding on a GPU, how much of it, and models of random weights to do it with."""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from rich.markup import escape
from torch import Tensor

from experiments.benchmarks.decode import TEXT_DIM
from experiments.benchmarks.measuring import Row
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig

SIZES = {
    "small": LanguageModelConfig(),
    "medium": LanguageModelConfig(dim=1536, layers=48, heads=24),
    "large": LanguageModelConfig(dim=2048, layers=48, heads=32),
}
_TINY = LanguageModelConfig(dim=64, layers=2, heads=4, entries=64)
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Plan:
    """How much is measured; ``quick`` is a tiny rehearsal."""

    quick: bool
    device: torch.device

    @property
    def steps(self) -> int:
        """Of one request."""
        return 12 if self.quick else 503

    @property
    def seconds(self) -> float:
        """Of a clip of the job."""
        return 0.2 if self.quick else 10.0

    @property
    def trial(self) -> float:
        """Seconds of a clip by which batches are tried."""
        return self.seconds / 4

    @property
    def captions(self) -> int:
        """Of the job."""
        return 5 if self.quick else 500

    @property
    def batches(self) -> tuple[int, ...]:
        """That are tried."""
        return (2, 3) if self.quick else (64, 128, 256)

    def shape(self, size: str) -> LanguageModelConfig:
        """Of the model."""
        return replace(_TINY, layers=1 + list(SIZES).index(size)) if self.quick else SIZES[size]


class Measured:
    """The rows so far, printed and written one by one.

    Args:
        keep: is given all rows each time.
        say: is told each row.
    """

    def __init__(self, keep: Callable[[list[Row]], object], say: Callable[[str], object]) -> None:
        self.rows: list[Row] = []
        self.keep, self.say, self.begun = keep, say, time.perf_counter()

    def add(self, row: Row) -> None:
        """Takes a row in."""
        self.rows.append(row)
        told = {name: value for name, value in row.record().items() if value is not None}
        self.tell(f"{told} {row.wanted}")
        self.keep(self.rows)

    def tell(self, text: str) -> None:
        """Says it with the time."""
        self.say(escape(f"{time.perf_counter() - self.begun:.0f} s: {text}"))

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """One that fails says so in a line, and where, and the rest goes on."""
        self.tell(what)
        try:
            yield
        except Exception as error:
            self.tell(f"{what}: not measured: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            traceback.print_exc()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def synchronised(device: torch.device) -> float:
    """The time when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.no_grad()
def random_lm(plan: Plan, size: str, text_dim: int = TEXT_DIM) -> LanguageModel:
    """A model with random weights, made where it is used."""
    with torch.device("meta"):
        lm = LanguageModel(plan.shape(size), {"text": text_dim})
    generator = torch.Generator(plan.device).manual_seed(0)
    state: dict[str, Tensor] = {}
    for name, parameter in lm.named_parameters():
        made = torch.empty(parameter.shape, dtype=DTYPE, device=plan.device)
        if parameter.dim() == 2:
            state[name] = made.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
        else:
            state[name] = made.fill_(1.0 if name.endswith("weight") else 0.0)
    lm.load_state_dict(state, assign=True)
    return lm.to(plan.device).eval().requires_grad_(False)
