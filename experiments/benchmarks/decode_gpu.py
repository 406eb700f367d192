"""``mgl bench decode --device cuda``: steps beside reading the weights and beside transformers, and a job.

Random weights of the paper's three shapes in bfloat16, guidance 3, 16 tokens of text. Each row is printed and written
as soon as it is measured; what could not be measured says why, and the rest goes on. What may fail comes last.

Shape letters: B items, R rows (2 B with guidance), L places of the text, D width.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import InputError
from experiments.benchmarks.decode import GUIDANCE, TEXT_DIM, TOKENS, WORDS, peer_of
from experiments.benchmarks.decode_job import measure_job
from experiments.benchmarks.decode_plan import DTYPE, SIZES, Measured, Plan, random_lm, synchronised
from experiments.benchmarks.measuring import Row
from lightning_modules.conditioning.conditions import Condition, Conditions
from lightning_modules.generation.decoder import Decoder
from lightning_modules.generation.engine import Drawing, forced_logits
from lightning_modules.generation.graphs import Replayed
from lightning_modules.generation.guidance import Branches, branches
from lightning_modules.generation.sampling import Sampling
from lightning_modules.lm.model import LanguageModel

_WITHIN = {"small": 4.0, "medium": 2.0, "large": 1.6}  # of the floor


def gpu_decode_rows(
    quick: bool, keep: Callable[[list[Row]], object], say: Callable[[str], object], device: str = "cuda"
) -> list[Row]:
    """Everything `mgl bench decode --device cuda` measures.

    Args:
        quick: tiny models and few steps: the figures mean little.
        keep: is given the rows so far each time that there is one more.
        say: is told what is being done, and each row.
        device: "cuda"; "cpu" goes the same way without graphs, to rehearse.

    Raises:
        InputError: there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda: torch sees no GPU here; leave device out to measure this processor")
    plan, measured = Plan(quick, torch.device(device)), Measured(keep, say)
    rate = copy_rate(plan)
    measured.add(Row("reading memory", "GB/s", rate / 1e9))
    best: dict[str, float] = {}
    for size in SIZES:
        with measured.part(f"{size}: graphs"):
            best[size] = _stepping(measured, plan, size, rate)
    with measured.part("small beside transformers"):
        seconds = _peer_seconds(plan, compiled=False)
        row = Row("small, batch 1, beside transformers' generate", "steps/s", 1 / best["small"], 1 / seconds)
        measured.add(replace(row, wanted="ratio >= 8"))
    with measured.part("a job"):
        measure_job(measured, plan)
    for size in SIZES:
        _fused(measured, plan, size, rate, best)
    with measured.part("fused kernels beside plain ones"):
        measured.add(_agreement(plan))
    with measured.part("small beside transformers, compiled"):
        seconds = _peer_seconds(plan, compiled=True)
        what = "small, batch 1, beside transformers with a static cache, compiled"
        measured.add(Row(what, "steps/s", 1 / best["small"], 1 / seconds, wanted="ratio >= 1.5"))
    return measured.rows


def _fused(measured: Measured, plan: Plan, size: str, rate: float, best: dict[str, float]) -> None:
    with measured.part(f"{size}: fused kernels"):
        best[size] = min(best.get(size, 1.0), _stepping(measured, plan, size, rate, fused=True))


def copy_rate(plan: Plan) -> float:
    """Bytes a second at which the device reads and writes in a large copy, or reads in a sum: the best of five each."""
    memory = torch.ones(2**20 if plan.quick else 2**30, dtype=torch.float32, device=plan.device)
    other = torch.empty_like(memory)
    size, best = memory.numel() * memory.element_size(), 0.0
    for function, count in ((lambda: other.copy_(memory), 2), (lambda: memory.sum(), 1)):
        for _ in range(5):
            begun = synchronised(plan.device)
            function()
            best = max(best, count * size / (synchronised(plan.device) - begun))
    return best


def _given(plan: Plan, lm: LanguageModel) -> Branches:
    """One text of random embeddings, and none."""
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(1, TOKENS, TEXT_DIM, generator=generator).to(plan.device)
    text = Condition(embeddings, torch.ones(1, TOKENS, dtype=torch.bool, device=plan.device))
    return branches(Conditions({"text": text}), ["text"], GUIDANCE)


def _stepping(measured: Measured, plan: Plan, size: str, rate: float, *, fused: bool = False) -> float:
    """Seconds of a step, with rows about it."""
    cuda = plan.device.type == "cuda"
    if cuda:  # nothing of what was measured before is counted
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    lm = random_lm(plan, size)
    begun = synchronised(plan.device)
    with torch.inference_mode():
        decoder = Decoder(lm, fused=fused)
        _steps(plan, decoder, 5)
        warm = synchronised(plan.device) - begun
        seconds, drawing = _steps(plan, decoder, plan.steps)
    request = drawing.request
    assert (request.fused is not None) == fused
    kept = sum(memory.numel() * memory.element_size() for memory in request.memory)
    if request.cross is not None:
        kept += sum(memory.numel() * memory.element_size() for memory in request.cross.memory)
    # Half full on average.
    floor = (_read_weights(lm) + kept / 2) / rate
    what = f"{size}, batch 1, {plan.steps:,} steps, {'fused kernels' if fused else 'plain kernels'}"
    wanted = f"floor / ours <= {_WITHIN[size]:g}"
    measured.add(Row(what, "steps/s", 1 / seconds, floor=1 / floor, wanted=wanted))
    measured.add(Row(f"{what}: of the floor's time", "times", seconds / floor, wanted=f"<= {_WITHIN[size]:g}"))
    measured.add(Row(f"{what}: warm-up", "s", warm, wanted="< 30", small_is_good=True))
    if cuda:
        weights = sum(parameter.numel() * parameter.element_size() for parameter in lm.parameters())
        extra = torch.cuda.max_memory_reserved() / (weights + kept) - 1
        name = f"{what}: peak memory beyond weights and caches"
        measured.add(Row(name, "%", 100 * extra, wanted="<= 25", small_is_good=True))
    return seconds


def _steps(plan: Plan, decoder: Decoder, steps: int) -> tuple[float, Drawing]:
    """The median of a step's seconds as the device tells them, and what was drawn."""
    with torch.autocast(plan.device.type, enabled=False):
        frames = steps - decoder.lm.config.codebooks + 1
        drawing = Drawing(decoder, _given(plan, decoder.lm), max(1, frames), [0], Sampling())
        request = drawing.request
        cuda = plan.device.type == "cuda"
        advance: Callable[[int], object] = drawing.advance
        if cuda:
            advance = Replayed(drawing.advance, request.places, request.bucket)
        marks: list[Any] = []
        for step in range(1, drawing.sequence.shape[2]):
            advance(request.prefix + step)
            if cuda:
                marks.append(torch.cuda.Event(enable_timing=True))
                marks[-1].record()
            else:
                marks.append(time.perf_counter())
        synchronised(plan.device)
    between = pairwise(marks[2:])
    return median([a.elapsed_time(b) / 1000 if cuda else b - a for a, b in between]), drawing


def _read_weights(lm: LanguageModel) -> int:
    """Bytes of the weights that every step reads: all products but those of the text's keys and values."""
    read = [
        module.weight
        for name, module in lm.named_modules()
        if isinstance(module, nn.Linear) and "key_value" not in name and not name.startswith("projections")
    ]
    return sum(weight.numel() * weight.element_size() for weight in read)


@torch.inference_mode()
def _agreement(plan: Plan) -> Row:
    """Logits of the fused kernels beside those of the plain ones in float32, as a share of their deviation."""
    lm = random_lm(plan, "small").float()
    given, config = _given(plan, lm), lm.config
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(config.entries, (1, config.codebooks, 8 if plan.quick else 60), generator=generator)
    codes = codes.to(plan.device)
    wanted, mask = forced_logits(Decoder(lm, fused=False), given, codes)
    made, _ = forced_logits(Decoder(lm, fused=True), given, codes)
    plain, _ = forced_logits(Decoder(lm.to(DTYPE), fused=False), given, codes)
    low, _ = forced_logits(Decoder(lm, fused=True), given, codes)
    deviation = wanted[mask].std()
    exact, ours, peer = (float((one - wanted)[mask].std() / deviation) for one in (made, low, plain))
    what = (
        "deviation of guided logits from float32's, of theirs: bfloat16 fused, peer bfloat16 plain, floor float32 fused"
    )
    return Row(what, "%", 100 * ours, 100 * peer, 100 * exact, small_is_good=True)


class _Stamps:
    """Looks like a logits processor, and notes when each step's logits are there."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.times = device, [0.0]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.times.append(synchronised(self.device))
        return scores


def _peer_seconds(plan: Plan, *, compiled: bool) -> float:
    """Seconds of a step of transformers' ``generate`` with a model of the shape of ``small``."""
    from transformers import EncoderDecoderCache, LogitsProcessorList, StaticCache

    peer = peer_of(random_lm(plan, "small")).to(plan.device, DTYPE)
    steps = 12 if plan.quick else 150
    tokens = torch.randint(1, WORDS, (1, TOKENS), generator=torch.Generator().manual_seed(0)).to(plan.device)
    stamps = _Stamps(plan.device)
    options: dict[str, Any] = {}
    if compiled:  # MusicGen passes over cache_implementation="static", but on a GPU compiles what is given a static one
        lengths = (steps + 1, TOKENS)
        own, cross = (StaticCache(config=peer.config.decoder, max_cache_len=length) for length in lengths)
        options["past_key_values"] = EncoderDecoderCache(own, cross)
    peer.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        guidance_scale=GUIDANCE,
        do_sample=True,
        top_k=250,
        max_new_tokens=steps,
        logits_processor=LogitsProcessorList([stamps]),
        **options,
    )
    half = len(stamps.times) // 2  # compiling and recording lie in the first
    return median([b - a for a, b in pairwise(stamps.times[half:])])
