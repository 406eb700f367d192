"""Pieces of any length: window after window, batch after batch.

Shape letters: K codebooks, T frames.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from datamodules.sample_order import derived_seed
from lightning_modules.generation.batches import batches, most_at_once, select, text_kinds
from lightning_modules.generation.decoder import Decoder
from lightning_modules.generation.engine import Progress, draw_codes, steps_to_draw, stream_codes
from lightning_modules.generation.guidance import Branches
from lightning_modules.generation.requests import Sample
from lightning_modules.generation.sampling import Sampling
from lightning_modules.generation.windows import Window

Heard = Callable[[Sequence[Window | None]], Branches]


@dataclass(frozen=True)
class Asked:
    """What is asked of a model.

    Attributes:
        samples: one a prompt.
        windows: those of each sample.
        heard: branches of all samples, of the window of each, or None where a sample has no more.
        sampling: how to draw.
        progress: called after each step.
    """

    samples: Sequence[Sample]
    windows: Sequence[Sequence[Window]]
    heard: Heard
    sampling: Sampling
    progress: Progress

    def seed(self, item: int, number: int) -> int:
        """Of a sample's window: the first has the sample's own."""
        seed = self.samples[item].seed
        return derived_seed(seed, number) if number else seed


def draw_all(decoder: Decoder, asked: Asked) -> list[Tensor]:
    """Draws all samples.

    Returns:
        Codes [K, T] of each, on the model's device.

    Raises:
        InputError: memory does not suffice for one of them.
    """
    lm, count = decoder.lm, len(asked.samples)
    made = [sample.given.to(lm.embedding.weight.device) for sample in asked.samples]
    rounds = list(zip_longest(*asked.windows))  # the first windows of all samples, the second of those that have one
    first = asked.heard(rounds[0])
    # Melodies go on from window to window; texts, and so what may share a batch, stay.
    kinds, most = text_kinds(first, count, lm), _most(decoder, asked, first)
    plan = [(number, items) for number, each in enumerate(rounds) for items in batches(each, kinds, most)]
    total = sum(_steps(decoder, rounds[number], items) for number, items in plan)
    begun, heard, at = 0, first, 0
    for number, items in plan:
        if number > at:
            heard, at = asked.heard(rounds[number]), number
        progress = _later(asked.progress, begun, total)
        _draw(decoder, asked, number, items, select(heard, items, count, lm), made, progress)
        begun += _steps(decoder, rounds[number], items)
    return made


def draw_streamed(decoder: Decoder, asked: Asked) -> Iterator[Tensor]:
    """Draws the only sample that is asked for.

    Returns:
        An iterator of codes [K, n] on the model's device, each as soon as it is there: first what is given.

    Raises:
        InputError: memory does not suffice.
    """
    first = asked.heard([asked.windows[0][0]])
    _most(decoder, asked, first)
    return _streamed(decoder, asked, first)


def _streamed(decoder: Decoder, asked: Asked, first: Branches) -> Iterator[Tensor]:
    sample, plan = asked.samples[0], asked.windows[0]
    total = sum(_steps(decoder, [window], [0]) for window in plan)
    tail, begin = sample.given.to(decoder.lm.embedding.weight.device), 0  # what is made, from this frame on
    if tail.shape[1]:
        yield tail
    begun = 0
    for number, window in enumerate(plan):
        heard = select(asked.heard([window]) if number else first, [0], 1, decoder.lm)
        tail, begin = tail[:, window.start - begin :], window.start
        parts, progress = [tail], _later(asked.progress, begun, total)
        given = tail if window.given else None
        for codes in stream_codes(
            decoder, heard, window.frames, asked.seed(0, number), asked.sampling, given, progress
        ):
            parts.append(codes)
            yield codes
        tail = torch.cat(parts, 1)
        begun += _steps(decoder, [window], [0])


def _most(decoder: Decoder, asked: Asked, heard: Branches) -> int:
    """Samples that memory suffices for at once."""
    longest = max(window.frames for plan in asked.windows for window in plan)
    return most_at_once(decoder.lm, heard, decoder.lm.pattern.length(longest), len(asked.samples))


def _draw(
    decoder: Decoder,
    asked: Asked,
    number: int,
    items: Sequence[int],
    heard: Branches,
    made: list[Tensor],
    progress: Progress,
) -> None:
    """Draws the same window of some samples, and appends it to what is made of them."""
    drawn = [asked.windows[item][number] for item in items]
    codes = draw_codes(
        decoder,
        heard,
        [window.frames for window in drawn],
        [asked.seed(item, number) for item in items],
        asked.sampling,
        [made[item][:, window.start :] for item, window in zip(items, drawn, strict=True)],
        progress,
    )
    for item, window, whole in zip(items, drawn, codes, strict=True):
        made[item] = torch.cat([made[item][:, : window.start], whole], 1)


def _steps(decoder: Decoder, windows: Sequence[Window | None], items: Sequence[int]) -> int:
    """Steps of a batch."""
    drawn = [window for window in (windows[item] for item in items) if window is not None]
    return steps_to_draw(decoder.lm.pattern, [window.frames for window in drawn], drawn[0].given)


def _later(progress: Progress, begun: int, total: int) -> Progress:
    """The progress of a part of the whole."""
    return lambda done, _: progress(begun + done, total)
