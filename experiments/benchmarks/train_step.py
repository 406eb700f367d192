"""Training steps of the language model on made-up batches that lie on the device."""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from gc import collect
from multiprocessing.process import BaseProcess

import torch
from torch import Tensor

from experiments.compose import language_model_layers, merged
from experiments.planning.dealing import Deal, deals
from experiments.planning.memory import FREE, memory
from experiments.planning.subject import Subject, codec_layer_facts, subject
from lightning_modules.conditioning.conditions import Condition, Conditions
from lightning_modules.lm.compiled import compile_block
from lightning_modules.lm.losses import codebook_means, cross_entropy_sums
from lightning_modules.lm.model import LanguageModel
from lightning_modules.lm.transformer import Block
from lightning_modules.optim import OptimConfig, scheduled

_CROPS = 24  # of a device and step, where 8 devices share the recipe's 192
_COMPILERS = "4"  # processes that each process which compiles may start


@dataclass(frozen=True)
class Work:
    """One way of training one size.

    Attributes:
        size: of the model.
        planned: what is trained.
        deal: of a step's crops to micro-batches.
        compiled: whether the blocks are.
    """

    size: str
    planned: Subject
    deal: Deal
    compiled: bool = True

    @property
    def title(self) -> str:
        """For rows."""
        crops = f"{self.deal.batch} x {self.deal.accumulate} crops"
        return f"{self.size}, {crops}, {'compiled' if self.compiled else 'not compiled'}"

    @property
    def memory(self) -> int:
        """Bytes that are planned, without average, text encoder and codec, of which these steps have none."""
        held = memory(replace(self.planned, compiled=self.compiled), self.deal.batch)
        return replace(held, average=0, text_encoder=0, codec=0).total


def ways(size: str, device: torch.device, quick: bool = False) -> list[Work]:
    """Ways of training a size, of largest micro-batches first: those that a plan lets fit, and the smallest.

    Args:
        size: a layer of size/.
        device: whose memory it is that they have to fit.
        quick: 4 crops of 2 s in place of 24 of 30.
    """
    recipe = merged(language_model_layers(size, "delay", "t5", "gpus"))
    planned = subject(recipe, codec_layer_facts("encodec_32khz"))
    if quick:
        planned = replace(planned, frames=100)
    possible = [Work(size, planned, deal) for deal in deals(4 if quick else _CROPS, 1)]
    if device.type != "cuda":
        return possible[1:]
    room = (1 - FREE) * torch.cuda.get_device_properties(device).total_memory
    return [work for work in possible if work.memory <= room or work is possible[-1]]


class Step:
    """A training step as the recipe has it: mixed precision, gradients of micro-batches added up and clipped, AdamW.

    Args:
        work: what it is a step of.
        device: where.

    Attributes:
        places: of the text; its embeddings are random.
    """

    def __init__(self, work: Work, device: torch.device) -> None:
        torch.manual_seed(0)
        self.work, self.device, self.places = work, device, work.planned.places["text"]
        batch, lm = work.deal.batch, work.planned.lm
        with device:
            self.lm = LanguageModel(lm, work.planned.dims).to(device)
            self.codes = torch.randint(lm.entries, (batch, lm.codebooks, work.planned.frames))
            self.lengths = torch.full((batch,), work.planned.frames)
        if work.compiled:
            for block in self.lm.transformer.blocks:
                assert isinstance(block, Block)
                compile_block(block)
        self.parameters = list(self.lm.parameters())
        self.optimizer: torch.optim.Optimizer = scheduled(self.parameters, OptimConfig(), 1_000_000)["optimizer"]

    def __call__(self) -> None:
        """Does one."""
        for _ in range(self.work.deal.accumulate):
            (self.loss() / self.work.deal.accumulate).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def loss(self) -> Tensor:
        """Of a micro-batch, as ``LanguageModelTraining.training_step`` has it."""
        shape = (len(self.codes), self.places)
        text = torch.randn(*shape, self.work.planned.dims["text"], device=self.device)
        conditions = Conditions({"text": Condition(text, torch.ones(shape, dtype=torch.bool, device=self.device))})
        # Lightning's autocast keeps no casts of weights either.
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            logits, targets = self.lm.teacher_forced(self.codes, conditions, self.lengths)
            share, _ = codebook_means(*cross_entropy_sums(logits, targets, self.lm.config.entries))
            return share.mean()


@dataclass(frozen=True)
class Measured:
    """What steps took.

    Attributes:
        first: seconds of the first one, which compiles.
        seconds: of one, on average over those that were timed.
        peak: bytes that steps had allocated at most; None where the device does not tell.
    """

    first: float
    seconds: float
    peak: int | None


def measure(work: Work, device: torch.device, timed: int, ready: Callable[[], object] = lambda: None) -> Measured:
    """Two steps to warm up, and then so many; between the first and the second ``ready`` is called."""
    cuda = device.type == "cuda"
    others = torch.cuda.memory_allocated(device) if cuda else 0
    step = Step(work, device)
    first = _seconds(step, device, 1)
    ready()
    step()
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = _seconds(step, device, timed)
    return Measured(first, seconds, torch.cuda.max_memory_allocated(device) - others if cuda else None)


def release() -> None:
    """Gives back the memory of what is no longer used."""
    collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _seconds(step: Step, device: torch.device, count: int) -> float:
    """Of a step, on average over so many."""
    _wait(device)
    begun = time.perf_counter()
    for _ in range(count):
        step()
    _wait(device)
    return (time.perf_counter() - begun) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class WarmingUp:
    """Processes that each compile a block of one size into torch's cache on disk, where the measuring one finds it.

    Args:
        works: what is compiled.
        places: lengths of the text, one after the other: of several, torch makes a graph for any.
        device: where.
    """

    def __init__(self, works: Sequence[tuple[Work, tuple[int, ...]]], device: torch.device) -> None:
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", _COMPILERS)
        context = multiprocessing.get_context("spawn")
        self.processes: list[BaseProcess] = [
            context.Process(target=compile_one, args=(work, places, str(device))) for work, places in works
        ]
        for process in self.processes:
            process.start()

    def wait(self, seconds: float) -> bool:
        """Until all are done, but no longer; those that are not then are ended. Says whether all were."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        done = all(process.exitcode == 0 for process in self.processes)
        for process in self.processes:
            if process.is_alive():
                process.kill()
        return done


def compile_one(work: Work, places: Sequence[int], device: str) -> None:
    """A micro-batch through a model of one block."""
    one = replace(work.planned, lm=replace(work.planned.lm, layers=1))
    step = Step(replace(work, planned=one), torch.device(device))
    for step.places in places:
        step.loss().backward()
