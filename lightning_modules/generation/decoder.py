"""The language model one step at a time: buffers that never move, and a step that waits for nothing.

Shape letters: R rows (branches x items), B items, S steps, P places of a prefix, L places of a condition, K codebooks,
V entries, D width, H heads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_modules.generation.graphs import BUCKET
from lightning_modules.generation.guidance import Branches
from lightning_modules.generation.packed import Product, product, require_int8
from lightning_modules.lm.model import LanguageModel
from lightning_modules.lm.transformer import Block, Source

if TYPE_CHECKING:
    from lightning_modules.generation.fused import FusedSteps

_ALIGNED = 16  # places
# Not cuDNN's, which would plan anew for every width.
_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Decoder:
    """A language model laid out for decoding.

    Args:
        lm: the model; its weights are copied where that makes steps faster, so what is learnt afterwards is not heard.
        int8: see ``packed.product``.
        alone: the model is used for nothing else: on a CPU it lets go of the weights that are laid out anew here, one
            after the other, so that they never lie there twice.
        fused: whether steps of few rows go by the kernels of ``fused``; by default on a GPU for which there is Triton.

    Raises:
        InputError: int8 where there is none.
    """

    def __init__(
        self, lm: LanguageModel, *, int8: bool = False, alone: bool = False, fused: bool | None = None
    ) -> None:
        if int8:
            require_int8(lm.heads.weight.device)
        self.lm = lm
        there = lm.heads.weight.is_cuda and find_spec("triton") is not None
        self.fused = there if fused is None else fused

        def laid_out(linear: nn.Linear) -> Product:
            return product(linear, int8=int8, alone=alone)

        self.layers = [_Layer.of(block, laid_out) for block in lm.transformer.blocks]  # type: ignore[arg-type]
        self.norm = lm.transformer.norm
        self.heads = laid_out(lm.heads)


@dataclass(frozen=True)
class _Layer:
    """A block's norms and products."""

    block: Block
    qkv: Product
    out: Product
    query: Product | None
    cross_out: Product | None
    ff_in: Product
    ff_out: Product

    @staticmethod
    def of(block: Block, laid_out: Callable[[nn.Linear], Product]) -> "_Layer":
        own, cross = block.self_attention, block.cross_attention
        return _Layer(
            block,
            laid_out(own.qkv),
            laid_out(own.out),
            laid_out(cross.query) if cross is not None else None,
            laid_out(cross.out) if cross is not None else None,
            laid_out(block.ff_in),
            laid_out(block.ff_out),
        )


class Request:
    """What one request decodes with: keys and values of its conditions, and room for those of its steps.

    Rows stand in an order of their own: those that hear something by cross-attention first. To the others it adds
    exactly zero, as their conditions are zeros and no bias follows, so it is left out.

    Args:
        decoder: the model.
        branches: R rows of conditions.
        items: B.
        steps: to be decoded at most.
        exact: whether attention reads as many places as there are; otherwise as many as ``logits`` is told, and those
            that have not been decoded are hidden: then a step's shapes, and the graph recorded of it, serve many steps.
            By default exact on CPUs.
    """

    def __init__(
        self, decoder: Decoder, branches: Branches, items: int, steps: int, *, exact: bool | None = None
    ) -> None:
        lm = decoder.lm
        weight = lm.embedding.weight
        context = lm.context(branches.conditions, _projected)
        rows, device = items * len(branches.weights), weight.device
        self.decoder, self.branches = decoder, branches
        self.exact = device.type == "cpu" if exact is None else exact
        hears = (context.cross.states != 0).flatten(1).any(1) if context.cross is not None else None
        self.heard = int(hears.sum()) if hears is not None else 0  # the one wait for the device
        order = torch.arange(rows, device=device)
        if hears is not None:
            order = torch.argsort(hears.logical_not(), stable=True)
        self.item, self.back = order % items, order.argsort()
        self.prefix = context.places
        self.places = self.prefix + steps
        if not self.exact:  # PyTorch's kernels copy masks of other widths, in every layer and step
            self.places = -(-self.places // _ALIGNED) * _ALIGNED
        # On a CPU keys and values are kept in float32: attention in bfloat16 takes 2 to 4 times as long there.
        self.kept = torch.float32 if device.type == "cpu" and weight.dtype == torch.bfloat16 else weight.dtype
        heads = lm.transformer.heads
        shape = (2, rows, heads, self.places, lm.config.dim // heads)
        # Zeros, for what is hidden from attention is still multiplied, and must not be NaN.
        self.memory = [torch.zeros(shape, dtype=self.kept, device=device) for _ in decoder.layers]
        self.cross = self._cross(context.cross, order[: self.heard]) if self.heard else None
        self.positions = lm.transformer.positions(self.places, weight)
        self.place = torch.zeros(1, dtype=torch.int64, device=device)
        self.counts = torch.arange(self.places, device=device)
        self.hidden = self._hidden(context.prefix, order)
        self.added = context.added[order] if context.added is not None else None
        self.fused = self._fused()
        if context.prefix is not None:
            self._start(context.prefix.states[order], context.causal_mask(self.prefix), order)

    def logits(self, codes: Tensor, width: int) -> Tensor:
        """Decodes one step more.

        Args:
            codes: [B, K], of the step before.
            width: places that attention reads: all so far, the prefix's and this one included, or more if not exact.

        Returns:
            Guided logits [B, K, V] of the step, in float32: guidance enlarges every rounding.
        """
        lm = self.decoder.lm
        embedded = F.embedding(codes + lm.offsets[:, 0], lm.embedding.weight).sum(1)
        x = embedded.index_select(0, self.item) + self.positions.index_select(0, self.place)
        if self.added is not None:
            x = x + lm.added(self.added, self.place - self.prefix)[:, 0]
        if self.fused is not None:
            logits = self.fused(x.float())
        else:
            x = self._layers(x, self.place, width, self._mask(width), causal=False)
            logits = self.decoder.heads(_normed(self.decoder.norm, x)).float()
        self.place += 1
        logits = logits.index_select(0, self.back)
        return self.branches.mix(logits).unflatten(-1, (lm.config.codebooks, lm.config.entries))

    @property
    def bucket(self) -> int:
        """Places of which steps can share a graph: all, where kernels read on the device how many there are."""
        return self.places if self.fused is not None else BUCKET

    def take_in(self, codes: Tensor) -> None:
        """Decodes the first steps [B, K, S] at once, before any other: those that are given rather than drawn."""
        lm, width = self.decoder.lm, self.prefix + codes.shape[2]
        places = self.counts[self.prefix : width]
        embedded = F.embedding(codes + lm.offsets, lm.embedding.weight).sum(1)
        x = embedded.index_select(0, self.item) + self.positions[self.prefix : width]
        if self.added is not None:
            x = x + lm.added(self.added, places - self.prefix)
        mask = self._added(self.counts[:width] <= places[:, None])[None, None]
        if self.hidden is not None:
            mask = mask + self.hidden[..., :width]
        self._layers(x.flatten(0, 1), places, width, mask, causal=False)
        self.place += codes.shape[2]

    def keep(self, items: Tensor) -> None:
        """Lets go of all items but these ([b] int64), which count from 0 in this order from now on."""
        number = torch.full_like(self.item, -1)  # no more items than rows
        number[items] = torch.arange(len(items), device=items.device)
        order = self.back.argsort()
        branch = order // (len(order) // len(self.branches.weights))
        rows = (number[self.item] >= 0).nonzero()[:, 0]
        hearing = rows[rows < self.heard]
        self.item, self.heard = number[self.item[rows]], len(hearing)
        self.back = (branch[rows] * len(items) + self.item).argsort()
        for layer, memory in enumerate(self.memory):  # one after the other, so that both lie there of one layer only
            self.memory[layer] = memory.index_select(1, rows)
        if self.cross is not None:
            mask = self.cross.mask[hearing] if self.cross.mask is not None else None
            heard = [memory.index_select(1, hearing) for memory in self.cross.memory]
            self.cross = _Cross(heard, mask) if self.heard else None
        self.hidden = self.hidden[rows] if self.hidden is not None else None
        self.added = self.added[rows] if self.added is not None else None
        self.fused = self._fused()

    @sdpa_kernel(_ATTENTION)
    def _layers(self, x: Tensor, place: Tensor, width: int, mask: Tensor | None, *, causal: bool) -> Tensor:
        """[R S, D] at S places -> [R S, D]; their keys and values are remembered."""
        for number, (layer, memory) in enumerate(zip(self.decoder.layers, self.memory, strict=True)):
            block = layer.block
            parts = self._heads(layer.qkv(_normed(block.norm_self, x)), 3)
            memory.index_copy_(3, place, parts[1:])
            keys, values = memory[:, :, :, :width]
            mixed = F.scaled_dot_product_attention(parts[0], keys, values, attn_mask=mask, is_causal=causal)
            x = x + layer.out(self._joined(mixed, x))
            if self.cross is not None:
                assert layer.query is not None
                assert layer.cross_out is not None
                assert block.norm_cross is not None
                hearing = x[: self.heard * len(place)]
                (query,) = self._heads(layer.query(_normed(block.norm_cross, hearing)), 1, self.heard)
                keys, values = self.cross.memory[number]
                mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=self.cross.mask)
                hearing += layer.cross_out(self._joined(mixed, x))
            x = x + layer.ff_out(F.gelu(layer.ff_in(_normed(block.norm_ff, x))))
        return x

    def _fused(self) -> "FusedSteps | None":
        """The step as few kernels, if it is one of few rows."""
        if not self.decoder.fused:
            return None
        from lightning_modules.generation.fused import FusedSteps, Heard, fits

        lm = self.decoder.lm
        if not fits(len(self.item), lm.config.dim // lm.transformer.heads):
            return None
        own, cross = Heard(self.memory, self.hidden, self.place), None
        if self.cross is not None:
            count = torch.full_like(self.place, self.cross.memory[0].shape[3])
            mask = self.cross.mask.contiguous() if self.cross.mask is not None else None
            cross = Heard(self.cross.memory, mask, count)
        return FusedSteps([layer.block for layer in self.decoder.layers], lm.transformer.norm, lm.heads, own, cross)

    def _heads(self, x: Tensor, parts: int, rows: int | None = None) -> Tensor:
        """[R S, parts D] -> [parts, R, H, S, D / H] in the type that attention is in."""
        rows = rows if rows is not None else len(self.item)
        heads = self.decoder.lm.transformer.heads
        return x.to(self.kept).view(rows, len(x) // rows, parts, heads, -1).permute(2, 0, 3, 1, 4)

    def _joined(self, mixed: Tensor, like: Tensor) -> Tensor:
        """[R, H, S, D / H] -> [R S, D]."""
        return mixed.transpose(1, 2).reshape(-1, like.shape[1]).to(like.dtype)

    def _cross(self, source: Source | None, rows: Tensor) -> "_Cross":
        """Keys and values of the rows that hear something."""
        assert source is not None
        states = source.states[rows]
        mask = source.attention_mask[rows]
        memory = []
        for layer in self.decoder.layers:
            attention = layer.block.cross_attention
            assert attention is not None
            # Laid out for this one use: the rows of a batch have a say in what ``F.linear`` makes of each.
            both = product(attention.key_value)(states.flatten(0, 1)).to(self.kept)
            both = both.view(len(rows), -1, 2, attention.heads, states.shape[2] // attention.heads)
            memory.append(both.permute(2, 0, 3, 1, 4).contiguous())
        if bool(mask.all()):
            return _Cross(memory, None)
        aligned = F.pad(mask, (0, -mask.shape[-1] % _ALIGNED))  # for the rows to begin where PyTorch's kernels want it
        return _Cross(memory, self._added(aligned)[..., : mask.shape[-1]])

    def _added(self, shown: Tensor) -> Tensor:
        """Zero where attention looks, minus infinity elsewhere: of booleans this would be made in every layer."""
        return torch.zeros_like(shown, dtype=self.kept).masked_fill_(~shown, -torch.inf)

    def _hidden(self, prefix: Source | None, order: Tensor) -> Tensor | None:
        """[R, 1, 1, places], minus infinity at masked places of the prefix; None where there are none."""
        if prefix is None or not prefix.hidden:
            return None
        shown = F.pad(prefix.mask[order], (0, self.places - self.prefix), value=True)
        return self._added(shown[:, None, None])

    def _mask(self, width: int) -> Tensor | None:
        """What a step adds to the attention to ``width`` places."""
        hidden = self.hidden[..., :width] if self.hidden is not None else None
        if self.exact:
            return hidden
        later = self._added(self.counts[:width] <= self.place)[None, None, None]
        return later if hidden is None else later + hidden

    def _start(self, states: Tensor, mask: Tensor | None, order: Tensor) -> None:
        """Takes in the prefix [R, P, D]."""
        x = (states + self.positions[: self.prefix]).flatten(0, 1)
        mask = self._added(mask[order]) if mask is not None else None
        self._layers(x, self.counts[: self.prefix], self.prefix, mask, causal=mask is None)
        self.place += self.prefix


@dataclass(frozen=True)
class _Cross:
    """What cross-attention hears.

    Attributes:
        memory: keys and values [2, R, H, L, D / H] of each layer.
        mask: added to the attention, [R, 1, 1, L]; None where nothing is masked.
    """

    memory: list[Tensor]
    mask: Tensor | None


def _projected(linear: nn.Linear, x: Tensor) -> Tensor:
    """A layer with its bias, laid out for this one use: in ``F.linear`` the rows of a batch have a say in each row."""
    if not x.numel():
        made: Tensor = linear(x)
        return made
    return product(linear)(x.flatten(0, 1)).view(*x.shape[:2], -1) + linear.bias


def _normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
