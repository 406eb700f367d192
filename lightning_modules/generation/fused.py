"""A step of few rows on a GPU as eight kernels a layer, written in Triton.

Such a step does little but read its weights, and the time between kernels counts as much as that. So whatever surrounds
a product is done by the kernel that reads its weights: the norm before it, GELU and the residual after it. Attention
reads the places that have been decoded and no others, in parts side by side; the next product joins the parts. How many
places that is, is read on the device, so that one recorded graph serves every step.

Sums are in float32, and so are the residual and everything between two kernels.

``TRITON_INTERPRET=1`` runs the kernels on a CPU, to test them.

Shape letters: R rows, I inputs and O outputs of a product, D width, H heads, P places, S parts of an attention.
"""

# ruff: noqa: ANN001, ANN202
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

MOST_ROWS = 4  # with more, a product's arithmetic takes longer than reading its weights
_TILE = 16384  # weights that a program reads at once, at most
_PER_WARP = 2048  # of them
_PROGRAMS = 128  # so many at least, for every multiprocessor to have one
_BLOCK = 128  # places of an attention at a time
_PLAIN, _NORM, _JOIN = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    x, peaks, totals, scale, bias, weight, out, outputs, eps,
    ROWS: tl.constexpr, INPUTS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SOURCE: tl.constexpr,
    PARTS: tl.constexpr, HEAD: tl.constexpr, GELU: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """What x [R, I], or the parts of an attention [R, S, I], times weight [O, I] is: out [R, O], BLOCK a program."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, WIDTH)
    there = k < INPUTS
    # First of all, for everything up to the product goes on while they are on their way.
    weights = tl.load(
        weight + n[:, None] * INPUTS + k[None, :], mask=(n < outputs)[:, None] & there[None, :], other=0.0
    )
    if SOURCE == _NORM:
        gain = tl.load(scale + k, mask=there, other=0.0).to(tl.float32)
        shift = tl.load(bias + k, mask=there, other=0.0).to(tl.float32)
    for row in tl.static_range(ROWS):
        if SOURCE == _JOIN:
            head = k // HEAD
            top = tl.full([WIDTH], -1.0e30, tl.float32)
            for part in tl.static_range(PARTS):
                at = (row * PARTS + part) * (INPUTS // HEAD) + head
                top = tl.maximum(top, tl.load(peaks + at, mask=there, other=-1.0e30))
            mixed = tl.zeros([WIDTH], tl.float32)
            total = tl.zeros([WIDTH], tl.float32)
            for part in tl.static_range(PARTS):
                at = (row * PARTS + part) * (INPUTS // HEAD) + head
                share = tl.exp(tl.load(peaks + at, mask=there, other=-1.0e30) - top)
                mixed += share * tl.load(x + (row * PARTS + part) * INPUTS + k, mask=there, other=0.0)
                total += share * tl.load(totals + at, mask=there, other=1.0)
            values = mixed / total
        else:
            values = tl.load(x + row * INPUTS + k, mask=there, other=0.0).to(tl.float32)
        if SOURCE == _NORM:
            values = tl.where(there, values - tl.sum(values, 0) / INPUTS, 0.0)
            values = values * tl.rsqrt(tl.sum(values * values, 0) / INPUTS + eps) * gain + shift
        made = tl.sum(weights.to(tl.float32) * values[None, :], 1)
        if GELU:
            made = 0.5 * made * (1.0 + tl.erf(made * 0.7071067811865476))
        at = out + row * outputs + n
        if ADD:
            made += tl.load(at, mask=n < outputs, other=0.0)
        tl.store(at, made, mask=n < outputs)


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    query, memory, hidden, count, mixed, peaks, totals, places, stride, half,
    HEADS: tl.constexpr, HEAD: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
    NEW: tl.constexpr, HIDDEN: tl.constexpr,
):  # fmt: skip
    """One part of one head's attention in one row: sums of its values by its own peak, that peak, and their total.

    With NEW the query [R, D] is followed by the step's keys and values: they are remembered at place ``count``, and
    heard by the first part.
    """
    row, head, part = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS, tl.program_id(1)
    d = tl.arange(0, HEAD)
    asked = query + row * stride + head * HEAD + d
    q = tl.load(asked).to(tl.float32) * (HEAD**-0.5)
    keys = memory + (row * HEADS + head) * places * HEAD
    values = keys + half
    known = tl.load(count).to(tl.int32)
    peak = tl.full([1], -1.0e30, tl.float32)  # finite: the difference of two infinities is NaN
    total = tl.zeros([1], tl.float32)
    made = tl.zeros([HEAD], tl.float32)
    if NEW:
        first = part == 0
        new_key = tl.load(asked + HEADS * HEAD).to(memory.dtype.element_ty)
        new_value = tl.load(asked + 2 * HEADS * HEAD).to(memory.dtype.element_ty)
        tl.store(keys + known * HEAD + d, new_key, mask=(d < HEAD) & first)
        tl.store(values + known * HEAD + d, new_value, mask=(d < HEAD) & first)
        peak = tl.where(first, tl.sum(q * new_key.to(tl.float32), 0), peak)
        total = tl.where(first, 1.0, total)
        made = tl.where(first, new_value.to(tl.float32), made)
    share_of = tl.cdiv(tl.cdiv(known, PARTS), BLOCK) * BLOCK
    begin = part * share_of
    end = tl.minimum(begin + share_of, known)
    while begin < end:
        place = begin + tl.arange(0, BLOCK)
        there = place < end
        at = place[:, None] * HEAD + d[None, :]
        key = tl.load(keys + at, mask=there[:, None], other=0.0).to(tl.float32)
        value = tl.load(values + at, mask=there[:, None], other=0.0).to(tl.float32)
        score = tl.sum(q[None, :] * key, 1)
        if HIDDEN:
            score += tl.load(hidden + row * places + place, mask=there, other=0.0).to(tl.float32)
        score = tl.where(there, score, float("-inf"))
        top = tl.maximum(peak, tl.max(score, 0))
        share = tl.exp(score - top)
        kept = tl.exp(peak - top)
        made = made * kept + tl.sum(share[:, None] * value, 0)
        total = total * kept + tl.sum(share, 0)
        peak = top
        begin += BLOCK
    at = (row * PARTS + part) * HEADS + head
    tl.store(mixed + at * HEAD + d, made)
    one = tl.arange(0, 1)
    tl.store(peaks + at + one, peak)
    tl.store(totals + at + one, total)


@dataclass(frozen=True)
class Heard:
    """What an attention of the rows that hear something looks at.

    Attributes:
        memory: keys and values [2, R, H, P, D / H] of each layer.
        mask: added to the attention, [R, 1, 1, P]; None where nothing is hidden.
        count: [1] int64, how many of the places there are so far.
    """

    memory: list[Tensor]
    mask: Tensor | None
    count: Tensor

    @property
    def rows(self) -> int:
        """R."""
        return self.memory[0].shape[1]


def fits(rows: int, head_dim: int) -> bool:
    """Whether steps of so many rows, with heads of this width, are for these kernels."""
    return rows <= MOST_ROWS and head_dim == triton.next_power_of_2(head_dim)


class FusedSteps:
    """The blocks, the last norm and the heads of a language model, for one step of few rows.

    Args:
        blocks: its blocks.
        norm: its last norm.
        heads: the product of its logits.
        own: what self-attention looks at, with room for the step at ``count``.
        cross: the same of cross-attention, in the first rows; None where no row hears anything.
    """

    def __init__(
        self, blocks: list[Any], norm: nn.LayerNorm, heads: nn.Linear, own: Heard, cross: Heard | None
    ) -> None:
        self.blocks, self.norm, self.heads, self.own, self.cross = blocks, norm, heads, own, cross
        rows, (dim, width) = own.rows, (heads.in_features, blocks[0].ff_in.out_features)
        count = own.memory[0].shape[2]
        self.parts = triton.cdiv(_PROGRAMS, rows * count)  # of self-attention

        def room(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=heads.weight.device)

        self.qkv, self.query = room(rows, 3 * dim), room(rows, dim)
        self.wide = room(rows, width).to(heads.weight.dtype)
        self.mixed = room(rows, self.parts, dim)
        self.peaks, self.totals = room(rows, self.parts, count), room(rows, self.parts, count)
        self.made = room(rows, heads.out_features)

    def __call__(self, x: Tensor) -> Tensor:
        """Takes x [R, D] float32, which is changed -> logits [R, O] float32, in a buffer that the next step writes to.

        The step's keys and values are remembered at place ``count``, which the caller moves on.
        """
        with torch.cuda.device_of(x):
            for number, block in enumerate(self.blocks):
                self._normed(block.norm_self, x, block.self_attention.qkv, self.qkv)
                self._attend(self.qkv, self.own, number, new=True)
                self._joined(block.self_attention.out, x, self.parts)
                if self.cross is not None:
                    hearing = x[: self.cross.rows]
                    self._normed(block.norm_cross, hearing, block.cross_attention.query, self.query)
                    self._attend(self.query, self.cross, number, new=False)
                    self._joined(block.cross_attention.out, hearing, 1)
                self._normed(block.norm_ff, x, block.ff_in, self.wide, gelu=True)
                self._product(self.wide, block.ff_out, x, _PLAIN, add=True)
            self._normed(self.norm, x, self.heads, self.made)
        return self.made

    def _normed(self, norm: nn.LayerNorm, x: Tensor, linear: nn.Linear, out: Tensor, *, gelu: bool = False) -> None:
        self._product(x, linear, out, _NORM, norm=norm, gelu=gelu)

    def _joined(self, linear: nn.Linear, x: Tensor, parts: int) -> None:
        """Adds to x what this product makes of the parts of the attention before it."""
        self._product(self.mixed, linear, x, _JOIN, parts=parts, add=True)

    def _product(
        self,
        x: Tensor,
        linear: nn.Linear,
        out: Tensor,
        source: tl.constexpr,
        *,
        norm: nn.LayerNorm | None = None,
        parts: int = 1,
        gelu: bool = False,
        add: bool = False,
    ) -> None:
        outputs, inputs = linear.weight.shape
        width = triton.next_power_of_2(inputs)
        block = max(1, _TILE // width)
        while block > 1 and triton.cdiv(outputs, block) < _PROGRAMS:
            block //= 2
        scale, bias, eps = (norm.weight, norm.bias, norm.eps) if norm is not None else (x, x, 0.0)
        rows = len(out) if source.value == _JOIN.value else len(x)
        _product[(triton.cdiv(outputs, block),)](
            x, self.peaks, self.totals, scale, bias, linear.weight, out, outputs, eps,
            ROWS=rows, INPUTS=inputs, WIDTH=width, BLOCK=block, SOURCE=source.value, PARTS=parts,
            HEAD=inputs // self.peaks.shape[2] if source.value == _JOIN.value else 1, GELU=gelu, ADD=add,
            num_warps=max(1, block * width // _PER_WARP),
        )  # fmt: skip

    def _attend(self, query: Tensor, heard: Heard, number: int, *, new: bool) -> None:
        memory, parts = heard.memory[number], self.parts if new else 1
        _, rows, heads, places, head = memory.shape
        mask = heard.mask if heard.mask is not None else memory
        _attend[(rows * heads, parts)](
            query, memory, mask, heard.count, self.mixed, self.peaks, self.totals,
            places, query.shape[1], memory[0].numel(),
            HEADS=heads, HEAD=head, PARTS=parts, BLOCK=_BLOCK, NEW=new, HIDDEN=heard.mask is not None, num_warps=4,
        )  # fmt: skip
