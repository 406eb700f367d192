"""The decoding loop: one step of the pattern after the other.

Shape letters: B items, R branches of guidance, K codebooks, T frames, S steps, V entries.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_modules.generation.decoder import Decoder, Request
from lightning_modules.generation.graphs import Replayed
from lightning_modules.generation.guidance import Branches
from lightning_modules.generation.sampling import Sampling, draw, noise


@torch.inference_mode()
def generate_codes(
    decoder: Decoder,
    branches: Branches,
    frames: int,
    seeds: Sequence[int],
    sampling: Sampling,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Draws B x T frames of codes.

    Args:
        decoder: the language model.
        branches: R x B rows of conditions.
        frames: T.
        seeds: one an item; an item's codes depend on its own seed and condition, not on its neighbours.
        sampling: how to draw.
        progress: called after each step with (steps done, steps in all); on a GPU that runs ahead of the device.

    Returns:
        Codes [B, K, T] int64.
    """
    # The weights' type is what is asked for, also in a training run that computes in another.
    with torch.autocast(decoder.lm.embedding.weight.device.type, enabled=False):
        drawing = Drawing(decoder, branches, frames, seeds, sampling)
        total = drawing.sequence.shape[2] - 1
        request = drawing.request
        advance = drawing.advance if request.exact else Replayed(drawing.advance, request.places)
        for step in range(1, total + 1):
            advance(request.prefix + step)
            progress(step, total)
    return decoder.lm.pattern.revert(drawing.sequence, frames)[0]


class Drawing:
    """The sequence being drawn. All that changes from step to step lies in tensors: a recorded step can be replayed.

    Args: those of ``generate_codes``.

    Attributes:
        sequence: [B, K, S], the special token where nothing has been drawn.
        request: what it is decoded with.
    """

    def __init__(
        self, decoder: Decoder, branches: Branches, frames: int, seeds: Sequence[int], sampling: Sampling
    ) -> None:
        pattern = decoder.lm.pattern
        device = decoder.lm.embedding.weight.device
        total = pattern.length(frames)
        # Where the pattern has a code; elsewhere the special token stays.
        empty = torch.zeros(1, pattern.codebooks, frames, dtype=torch.int64, device=device)
        self.present = pattern.build(empty)[0] == 0
        self.sequence = torch.full((len(seeds), pattern.codebooks, total), pattern.special, device=device)
        self.uniform = noise(seeds, total, pattern.codebooks).to(device)
        self.step = torch.ones(1, dtype=torch.int64, device=device)
        self.sampling, self.special = sampling, pattern.special
        self.request = Request(decoder, branches, len(seeds), total - 1)

    def advance(self, width: int) -> Tensor:
        """Draws the next step, whose attention reads so many places, from the logits [B, K, V] that it returns."""
        before = self.sequence.index_select(2, self.step - 1)[..., 0]
        logits = self.request.logits(before, width)
        codes = draw(logits, self.uniform.index_select(2, self.step)[..., 0], self.sampling)
        present = self.present.index_select(1, self.step)[:, 0]
        self.sequence.index_copy_(2, self.step, codes.where(present, self.special)[..., None])
        self.step += 1
        return logits


@torch.inference_mode()
def forced_logits(decoder: Decoder, branches: Branches, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Guided logits [B, K, T, V] of given codes [B, K, T], one step after the other, and a mask [B, K, T].

    They are ``LanguageModel.logits`` of the branches, mixed: what generating these codes would have drawn them from.
    """
    pattern = decoder.lm.pattern
    inputs = pattern.build(codes, trim=True)[..., :-1]
    request = Request(decoder, branches, len(codes), inputs.shape[2])
    made = [request.logits(column, request.prefix + step) for step, column in enumerate(inputs.unbind(2), start=1)]
    return pattern.revert(torch.stack(made, 2), codes.shape[2], first_step=1)
