"""The decoding loop: one step of the pattern at a time, over a key/value cache.

Shape letters: B items, R branches of guidance, K codebooks, T frames, S steps.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_modules.generation.guidance import Branches
from lightning_modules.generation.sampling import Sampling, draw, noise
from lightning_modules.lm.model import LanguageModel


@torch.inference_mode()
def generate_codes(
    lm: LanguageModel,
    branches: Branches,
    frames: int,
    seeds: Sequence[int],
    sampling: Sampling,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Draws B x T frames of codes.

    Args:
        lm: the language model.
        branches: R x B rows of conditions.
        frames: T.
        seeds: one an item; an item's codes depend on its own seed and condition, not on its neighbours.
        sampling: how to draw.
        progress: called after each step with (steps done, steps in all).

    Returns:
        Codes [B, K, T] int64.
    """
    pattern = lm.pattern
    device = lm.embedding.weight.device
    total = pattern.length(frames)
    # Where the pattern has a code; elsewhere the special token stays.
    present = pattern.build(torch.zeros(1, pattern.codebooks, frames, dtype=torch.int64, device=device))[0] == 0
    sequence = torch.full((len(seeds), pattern.codebooks, total), pattern.special, device=device)
    uniform = noise(seeds, total, pattern.codebooks).to(device)
    versions = len(branches.weights)
    context = lm.context(branches.conditions)
    cache = lm.transformer.new_cache(versions * len(seeds), context.places + total - 1)
    for step in range(1, total):
        inputs = sequence[..., step - 1 : step].repeat(versions, 1, 1)
        # In float32, as transformers mixes: guidance enlarges every rounding.
        logits = branches.mix(lm(inputs, context, cache)[:, :, 0].float())
        codes = draw(logits, uniform[..., step], sampling)
        sequence[..., step] = torch.where(present[:, step], codes, pattern.special)
        progress(step, total - 1)
    return pattern.revert(sequence, frames)[0]
