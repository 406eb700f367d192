"""The decoding loop: one step of the pattern after the other.

Shape letters: B items, R branches of guidance, K codebooks, T frames, P given frames, S steps, V entries.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from lightning_modules.generation.decoder import Decoder, Request
from lightning_modules.generation.graphs import Replayed
from lightning_modules.generation.guidance import Branches
from lightning_modules.generation.sampling import Sampling, draw, noise
from lightning_modules.lm.patterns import Pattern

Progress = Callable[[int, int], None]  # (steps done, steps in all)
_LEAVING = 256  # steps after which finished rows leave the batch on a GPU, where new graphs are recorded then


def silent(done: int, total: int) -> None:
    """Progress that nobody follows."""


def generate_codes(
    decoder: Decoder,
    branches: Branches,
    frames: int,
    seeds: Sequence[int],
    sampling: Sampling,
    progress: Progress = silent,
) -> Tensor:
    """Draws B x T frames of codes; the arguments are those of ``draw_codes``.

    Returns:
        Codes [B, K, T] int64.
    """
    return torch.stack(draw_codes(decoder, branches, [frames] * len(seeds), seeds, sampling, None, progress))


def draw_codes(
    decoder: Decoder,
    branches: Branches,
    frames: Sequence[int],
    seeds: Sequence[int],
    sampling: Sampling,
    given: Sequence[Tensor] | None = None,
    progress: Progress = silent,
) -> list[Tensor]:
    """Draws codes, of each item as many frames as it is to have.

    Args:
        decoder: the language model.
        branches: R x B rows of conditions.
        frames: T of each item.
        seeds: one an item; an item's codes depend on its own seed and condition, not on its neighbours.
        sampling: how to draw.
        given: codes [K, P] that each item begins with, of the same P in all and shorter than its T.
        progress: called after each step; on a GPU that runs ahead of the device.

    Returns:
        Codes [K, T] int64 of each item, the given ones included.
    """
    drawing = Drawing(decoder, branches, frames, seeds, sampling, given)
    first, total = drawing.next, drawing.total
    while drawing.next < total:
        drawing.draw_next()
        progress(drawing.next - first, total - first)
    return [codes.clone() for codes in drawing.codes()]


def stream_codes(
    decoder: Decoder,
    branches: Branches,
    frames: int,
    seed: int,
    sampling: Sampling,
    given: Tensor | None = None,
    progress: Progress = silent,
) -> Iterator[Tensor]:
    """Draws the codes of one item; the arguments are those of ``draw_codes`` for it.

    Yields:
        Codes [K, n] as soon as these frames have all of them; the given ones are left out.
    """
    drawing = Drawing(decoder, branches, [frames], [seed], sampling, None if given is None else [given])
    steps = decoder.lm.pattern.steps(frames)
    ends = steps.amax(0).cummax(0).values.tolist()  # the step after which a frame and all before it are complete
    steps = steps.to(drawing.sequence.device)
    books = torch.arange(len(steps), device=steps.device)[:, None]
    first, total = drawing.next, drawing.total
    ready = given.shape[1] if given is not None else 0
    while drawing.next < total:
        drawing.draw_next()
        progress(drawing.next - first, total - first)
        complete = bisect_right(ends, drawing.next - 1)
        if complete > ready:
            yield drawing.sequence[0][books, steps[:, ready:complete]].clone()
            ready = complete


def steps_to_draw(pattern: Pattern, frames: Sequence[int], given: int) -> int:
    """Steps that a batch of items of so many frames, of which so many are given, is decoded in."""
    return pattern.length(max(frames)) - 1 - given * pattern.per_frame


class Drawing:
    """The sequences being drawn. All that changes from step to step lies in tensors: a recorded step can be replayed.

    Args: those of ``draw_codes``, or one number of frames for all items.

    Attributes:
        sequence: [B, K, S] of the items that are still drawn, the special token where nothing has been drawn.
        request: what it is decoded with.
        next: the step that is drawn next.
        total: the step after the last.
    """

    def __init__(
        self,
        decoder: Decoder,
        branches: Branches,
        frames: int | Sequence[int],
        seeds: Sequence[int],
        sampling: Sampling,
        given: Sequence[Tensor] | None = None,
    ) -> None:
        self.frames = [frames] * len(seeds) if isinstance(frames, int) else list(frames)
        self.pattern = decoder.lm.pattern
        self.device = decoder.lm.embedding.weight.device
        self.total = self.pattern.length(max(self.frames))
        known = given[0].shape[1] if given is not None else 0
        self.next = self.total - steps_to_draw(self.pattern, self.frames, known)
        self.items = list(range(len(seeds)))  # those that are still drawn
        self._drawn: dict[int, Tensor] = {}
        with _as_it_is(self.device):
            self.sequence, self.unknown = self._laid_out(given)
            self.uniform = noise(seeds, self.total, self.pattern.codebooks).to(self.device)
            self.step = torch.full((1,), self.next, device=self.device)
            self.sampling = sampling
            self.request = Request(decoder, branches, len(seeds), self.total - 1)
            if self.next > 1:
                self.request.take_in(self.sequence[..., : self.next - 1])
            self._advance = self._stepper()

    def draw_next(self) -> None:
        """Draws the next step of all items that have one; those that have none leave."""
        with _as_it_is(self.device):
            self._leave()
            self._advance(self.request.prefix + self.next)
        self.next += 1

    def advance(self, width: int) -> Tensor:
        """Draws a step, whose attention reads so many places, from the logits [B, K, V] that it returns."""
        before = self.sequence.index_select(2, self.step - 1)[..., 0]
        logits = self.request.logits(before, width)
        codes = draw(logits, self.uniform.index_select(2, self.step)[..., 0], self.sampling)
        here, unknown = (whole.index_select(2, self.step)[..., 0] for whole in (self.sequence, self.unknown))
        self.sequence.index_copy_(2, self.step, codes.where(unknown, here)[..., None])
        self.step += 1
        return logits

    def codes(self) -> list[Tensor]:
        """Codes [K, T] of every item, after the last step."""
        with _as_it_is(self.device):
            self._put_by(range(len(self.items)))
        return [self._drawn[item] for item in range(len(self.frames))]

    def _laid_out(self, given: Sequence[Tensor] | None) -> tuple[Tensor, Tensor]:
        """The sequence [B, K, S] with what is given in it, and where codes are to be drawn [B, K, S] bool."""
        special = self.pattern.special
        rows = torch.full((len(self.frames), self.pattern.codebooks, self.total), special)
        for number, (row, frames) in enumerate(zip(rows, self.frames, strict=True)):
            codes = torch.full((self.pattern.codebooks, frames), -1)
            if given is not None:
                codes[:, : given[number].shape[1]] = given[number]
            built = self.pattern.build(codes[None])[0]
            row[:, : built.shape[1]] = built
        unknown = rows < 0
        return rows.masked_fill_(unknown, special).to(self.device), unknown.to(self.device)

    def _stepper(self) -> Callable[[int], object]:
        request = self.request
        return self.advance if request.exact else Replayed(self.advance, request.places, request.bucket)

    def _leave(self) -> None:
        """Lets finished items go: on a CPU at once, on a GPU every ``_LEAVING`` steps."""
        left = [place for place, item in enumerate(self.items) if self.pattern.length(self.frames[item]) > self.next]
        if len(left) == len(self.items) or not (self.request.exact or self.next % _LEAVING == 0):
            return
        self._put_by(place for place in range(len(self.items)) if place not in left)
        places = torch.tensor(left, device=self.device)
        self.sequence, self.unknown, self.uniform = (x[places] for x in (self.sequence, self.unknown, self.uniform))
        self.request.keep(places)
        self.items = [self.items[place] for place in left]
        self._advance = self._stepper()  # what was recorded writes into the tensors of before

    def _put_by(self, places: "Sequence[int] | Iterator[int]") -> None:
        """Keeps the codes of finished items."""
        for place in places:
            frames = self.frames[self.items[place]]
            sequence = self.sequence[place : place + 1, :, : self.pattern.length(frames)]
            self._drawn[self.items[place]] = self.pattern.revert(sequence, frames)[0][0]


@contextmanager
def _as_it_is(device: torch.device) -> Iterator[None]:
    """No gradients; and the weights' type is what is asked for, also in a training run that computes in another."""
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        yield


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
