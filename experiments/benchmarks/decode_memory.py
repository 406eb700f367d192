"""How much memory decoding takes on a CPU beside its weights and its keys and values, and whether it grows."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from experiments.benchmarks.measuring import Row
from experiments.benchmarks.memory import in_fresh_process
from lightning_modules.conditioning.conditions import Condition, Conditions
from lightning_modules.generation.decoder import Decoder
from lightning_modules.generation.engine import Drawing
from lightning_modules.generation.guidance import branches
from lightning_modules.generation.sampling import Sampling
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig

_MEGABYTE = 1e6
_SETTLED = 5  # steps after which it should grow no more


def memory_rows(config: LanguageModelConfig, text_dim: int, steps: int) -> list[Row]:
    """Rows of float32 and bfloat16, guidance 3, batch 1, each in a process of its own."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        own, needed, growth = in_fresh_process(decode_and_watch, config, text_dim, dtype, steps)
        name = f"{steps:,} steps, batch 1, {str(dtype).removeprefix('torch.')}: memory"
        beyond = 100 * (own / needed - 1)
        rows.append(Row(f"{name} beyond weights and caches", "%", beyond, wanted="<= 15", small_is_good=True))
        rows.append(Row(f"{name} that steps add", "MB", growth, wanted="0", small_is_good=True))
    return rows


def decode_and_watch(
    config: LanguageModelConfig, text_dim: int, dtype: torch.dtype, steps: int
) -> tuple[float, float, float]:
    """The most MB that a model that only decodes takes, those of weights and caches, and how much steps add."""
    torch.set_num_threads(1)
    before = own_memory()
    lm = _random_lm(config, text_dim, dtype)
    needed = _size(lm.parameters())
    most = own_memory()
    decoder = Decoder(lm, alone=True)
    most = max(most, own_memory())
    text = Condition(torch.randn(1, 16, text_dim), torch.ones(1, 16, dtype=torch.bool))
    with torch.inference_mode():
        drawing = Drawing(decoder, branches(Conditions({"text": text}), ["text"], 3.0), steps, [0], Sampling())
        request = drawing.request
        caches = [*request.memory, *(request.cross.memory if request.cross is not None else [])]
        for memory in request.memory:
            memory.zero_()  # the system gives pages when they are written to: now
        needed += _size(caches)
        settled = 0.0
        for step in range(1, steps + 1):
            drawing.advance(request.prefix + step)
            now = own_memory()
            most = max(most, now)
            settled = now if step == min(_SETTLED, steps) else settled
    return most - before, needed, max(0.0, now - settled)


def own_memory() -> float:
    """MB that this process alone holds: what is mapped from files is not in it."""
    (kilobytes,) = (
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")
    )
    return int(kilobytes) * 1024 / _MEGABYTE


def _size(tensors: Iterable[Tensor]) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / _MEGABYTE


def _random_lm(config: LanguageModelConfig, text_dim: int, dtype: torch.dtype) -> LanguageModel:
    """A model with random weights in this type, made in no other before."""
    with torch.device("meta"):
        lm = LanguageModel(config, {"text": text_dim})
    state: dict[str, Tensor] = {}
    for name, parameter in lm.named_parameters():
        made = torch.empty(parameter.shape, dtype=dtype)
        scale = parameter.shape[-1] ** -0.5
        state[name] = made.uniform_(-scale, scale) if parameter.dim() == 2 else made.fill_("weight" in name)
    lm.load_state_dict(state, assign=True)
    return lm.eval().requires_grad_(False)
