"""``mgl bench train``: a training step of the ``small`` model beside transformers' with the same weights, on a CPU.

What a GPU does is in ``train_gpu``.

Shape letters: B items, K codebooks, T frames, S steps, L places of the text, D width.
"""

import ctypes
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from gc import collect
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.errors import InputError
from experiments.benchmarks.decode import peer_of
from experiments.benchmarks.measuring import Row
from experiments.benchmarks.memory import in_fresh_process, peak_memory, start_memory
from experiments.flops import sequence_steps
from lightning_modules.conditioning.conditions import Condition, Conditions
from lightning_modules.lm.losses import codebook_means, cross_entropy_sums
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig
from lightning_modules.lm.transformer import Block

_TINY = LanguageModelConfig(dim=64, layers=2, heads=2, entries=64)
_TEXT_DIM, _PLACES, _FRAMES = 768, 64, 1500
_MOST_TURNS = 3  # a turn of both takes a minute
_WANTED = "ratio >= 1.11"
_MMAP_THRESHOLD = -3  # of glibc's mallopt


@dataclass(frozen=True)
class Material:
    """What both sides learn: a crop and its text.

    Attributes:
        codes: [1, K, T].
        text: embeddings [1, L, D of the text encoder].
    """

    codes: Tensor
    text: Tensor

    @property
    def mask(self) -> Tensor:
        """[1, L]: no place is padded."""
        return torch.ones(self.text.shape[:2], dtype=torch.bool)


def train_rows(repeats: int, quick: bool = False, say: Callable[[str], object] = lambda text: None) -> list[Row]:
    """Everything `mgl bench train` measures on a CPU.

    A step is forward and backward of one crop in bfloat16 autocast, without dropout; both sides are given the text's
    embeddings. The optimiser is the same for both and left out.

    Args:
        repeats: turns of the two sides, three at most.
        quick: a tiny model and short crops: the figures mean little.
        say: is told what is being done.
    """
    config, frames = (_TINY, 100) if quick else (LanguageModelConfig(), _FRAMES)
    lm, material = built(config), material_of(config, frames)
    peer = peer_of(lm).train()
    rows = [*parity_rows(lm, peer, material)]
    say("train: both agree; turns of a step each")
    rows.append(speed_row(lm, peer, material, min(repeats, _MOST_TURNS), say))
    del lm, peer
    collect()
    say("train: peak memory, each in a process of its own")
    state = 2 * 4 * sum(parameter.numel() for parameter in _meta(config).parameters()) / 1e6
    peak = "peak memory of a step, forward and backward"
    for what, given_back in ((peak, False), (f"{peak}; what is freed is given back at once", True)):
        ours, theirs = (in_fresh_process(step_memory, config, frames, side, given_back) for side in ("ours", "peer"))
        rows.append(Row(what, "MB", ours, theirs, state, _WANTED, small_is_good=True))
    return rows


def built(config: LanguageModelConfig) -> LanguageModel:
    """The model of both sides, always of the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LanguageModel(config, {"text": _TEXT_DIM})


def material_of(config: LanguageModelConfig, frames: int) -> Material:
    """Random codes and embeddings."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(config.entries, (1, config.codebooks, frames), generator=generator)
    return Material(codes, torch.randn(1, _PLACES, _TEXT_DIM, generator=generator))


def our_loss(lm: LanguageModel, material: Material) -> Tensor:
    """As ``LanguageModelTraining.training_step`` has it, under mixed precision."""
    lengths = torch.tensor([material.codes.shape[-1]])
    with torch.autocast("cpu", torch.bfloat16):
        conditions = Conditions({"text": Condition(material.text, material.mask)})
        logits, targets = lm.teacher_forced(material.codes, conditions, lengths)
        share, _ = codebook_means(*cross_entropy_sums(logits, targets, lm.config.entries))
        return share.mean()


def peer_loss(peer: Any, material: Material) -> Tensor:
    """The same of transformers, which is given the delayed sequence: its own has no last steps."""
    config = peer.config.decoder
    special = config.pad_token_id
    batch, books, frames = material.codes.shape
    sequence = torch.full((batch, books, frames + 1), special)
    for book in range(books):
        sequence[:, book, book + 1 :] = material.codes[:, book, : frames - book]
    with torch.autocast("cpu", torch.bfloat16):
        loss: Tensor = peer(
            encoder_outputs=(material.text,),
            attention_mask=material.mask.long(),
            decoder_input_ids=sequence[..., :-1].flatten(0, 1),
            labels=sequence[..., 1:].transpose(1, 2),
            use_cache=False,
        ).loss
        return loss


def parity_rows(lm: LanguageModel, peer: Any, material: Material) -> Iterator[Row]:
    """Both sides' loss, and how far gradients are from the peer's."""
    ours, theirs = our_loss(lm, material), peer_loss(peer, material)
    ours.backward()
    theirs.backward()
    yield Row("loss", "nats", ours.item(), theirs.item(), wanted="equal")
    heads = torch.cat([head.weight.grad for head in peer.decoder.lm_heads])
    yield _difference("the heads", lm.heads.weight.grad, heads)
    block = lm.transformer.blocks[0]
    assert isinstance(block, Block)
    yield _difference("the first block", block.ff_in.weight.grad, peer.decoder.model.decoder.layers[0].fc1.weight.grad)


def speed_row(lm: LanguageModel, peer: Any, material: Material, repeats: int, say: Callable[[str], object]) -> Row:
    """Seconds of a step: medians of turns, after the steps that have warmed both up."""
    sides: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "ours": (lm, lambda: our_loss(lm, material)),
        "peer": (peer, lambda: peer_loss(peer, material)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, (module, loss) in sides.items():
            module.zero_grad(set_to_none=True)
            begun = time.process_time()
            loss().backward()
            seconds[name].append(time.process_time() - begun)
            module.zero_grad(set_to_none=True)
            say(f"train: turn {turn + 1} of {repeats}, {name}: {seconds[name][-1]:.1f} s")
    floor = floor_seconds(lm.config, material)
    return Row(
        "a step of one crop, forward and backward",
        "s",
        median(seconds["ours"]),
        median(seconds["peer"]),
        floor,
        _WANTED,
        small_is_good=True,
    )


def floor_seconds(config: LanguageModelConfig, material: Material) -> float:
    """Seconds of a step's matrix products and attention alone, each shape timed by itself in bfloat16."""
    steps = sequence_steps(config, material.codes.shape[-1])
    total = 0.0
    for rows, width, out, count in products(config, steps):
        total += count * product_seconds(rows, width, out)
    shape = (1, config.heads, steps, config.dim // config.heads)
    heard = (1, config.heads, _PLACES, config.dim // config.heads)
    total += config.layers * attention_seconds(shape, shape, causal=True)
    return total + config.layers * attention_seconds(shape, heard, causal=False)


def products(config: LanguageModelConfig, steps: int) -> Iterator[tuple[int, int, int, int]]:
    """Rows, width, width of the result, and number of the products with weights."""
    dim, hidden = config.dim, config.ff_ratio * config.dim
    yield _PLACES, _TEXT_DIM, dim, 1
    yield steps, dim, 3 * dim, config.layers
    yield steps, dim, dim, 3 * config.layers
    yield _PLACES, dim, 2 * dim, config.layers
    yield steps, dim, hidden, config.layers
    yield steps, hidden, dim, config.layers
    yield steps, dim, config.codebooks * config.entries, 1


def product_seconds(rows: int, width: int, out: int) -> float:
    """Of a product with a weight, of its input's gradient, and of its weight's: the best of three."""
    x, weight = torch.randn(rows, width).bfloat16(), torch.randn(out, width).bfloat16()
    gradient = torch.randn(rows, out).bfloat16()
    return _best(lambda: (x @ weight.T, gradient @ weight, gradient.T @ x))


def attention_seconds(queries: tuple[int, ...], keys: tuple[int, ...], *, causal: bool) -> float:
    """Of attention, there and back: the best of three."""
    q, k, v = (torch.randn(shape).bfloat16().requires_grad_() for shape in (queries, keys, keys))
    gradient = torch.randn(queries).bfloat16()

    def attend() -> object:
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return torch.autograd.grad(mixed, (q, k, v), gradient)

    return _best(attend)


def step_memory(config: LanguageModelConfig, frames: int, side: str, given_back: bool) -> float:
    """MB that a side takes at most in its second step: weights, gradients and all that is kept for the way back.

    Args:
        config: of the model.
        frames: of the crop.
        side: "ours" or "peer".
        given_back: whether the C library hands what is freed back to the system at once. By default it keeps it, in
            holes that the next tensors do not fit in: then more is resident than is needed.

    Raises:
        InputError: no such thing is told here, or memory is not given back so.
    """
    if given_back:
        try:
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 2**18)
        except AttributeError as error:
            raise InputError(
                "memory is measured with glibc's mallopt; run this benchmark where there is one"
            ) from error
    before = start_memory()
    lm, material = built(config), material_of(config, frames)
    if side == "ours":
        module: nn.Module = lm
        loss: Callable[[], Tensor] = lambda: our_loss(lm, material)  # noqa: E731
    else:
        peer = peer_of(lm).train()
        del lm
        module, loss = peer, lambda: peer_loss(peer, material)
    for _ in range(2):
        module.zero_grad(set_to_none=True)
        collect()
        start_memory()
        loss().backward()
    return peak_memory() - before


def _difference(what: str, ours: Tensor | None, theirs: Tensor) -> Row:
    assert ours is not None
    share = float((ours - theirs).norm() / theirs.norm())
    return Row(f"gradient of {what}, difference", "of its norm", share, wanted="< 0.01")


def _meta(config: LanguageModelConfig) -> LanguageModel:
    with torch.device("meta"):
        return LanguageModel(config, {"text": _TEXT_DIM})


def _best(function: Callable[[], object]) -> float:
    taken = []
    for _ in range(3):
        begun = time.process_time()
        function()
        taken.append(time.process_time() - begun)
    return min(taken)
