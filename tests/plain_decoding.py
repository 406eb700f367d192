"""Decoding without cache, batch or prefix pass: what the engine is measured by."""

import numpy as np
import torch


@torch.no_grad()
def loop(model, given, frames, known, uniform):
    """One pass over everything drawn so far for every step; a code that is given takes its place, drawn or not."""
    steps = model.pattern.steps(frames)
    sequence = torch.full((len(uniform), model.pattern.codebooks, model.pattern.length(frames)), model.pattern.special)
    for step in range(1, sequence.shape[2]):
        logits = model(sequence[..., :step], model.context(given))[:, :, -1]
        null = model(sequence[..., :step], model.context(given.null()))[:, :, -1]
        weights = (null + 3 * (logits - null)).softmax(-1).numpy()
        for b, k in np.ndindex(weights.shape[:2]):
            for t in (steps[k] == step).nonzero()[:, 0]:
                order = np.argsort(-weights[b, k], kind="stable")
                place = np.searchsorted(np.cumsum(weights[b, k, order]), uniform[b, k, step].item())
                sequence[b, k, step] = int(known[b, k, t]) if t < known.shape[2] else order[place]
    return sequence[:, torch.arange(model.pattern.codebooks)[:, None], steps]
