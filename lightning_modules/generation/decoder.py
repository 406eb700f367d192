"""The language model one step at a time: buffers that never move, and a step that waits for nothing.

Shape letters: R rows (branches x items), B items, S steps, P places of a prefix, L places of a condition, K codebooks,
V entries, D width, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.generation.guidance import Branches
from lightning_modules.generation.packed import Product, product, require_int8
from lightning_modules.lm.model import LanguageModel
from lightning_modules.lm.transformer import Block, Source, sinusoidal_positions


class Decoder:
    """A language model laid out for decoding.

    Args:
        lm: the model; its weights are copied where that makes steps faster, so what is learnt afterwards is not heard.
        int8: see ``packed.product``.

    Raises:
        InputError: int8 where there is none.
    """

    def __init__(self, lm: LanguageModel, *, int8: bool = False) -> None:
        if int8:
            require_int8(lm.heads.weight.device)
        self.lm = lm
        self.layers = [_Layer.of(block, int8) for block in lm.transformer.blocks]  # type: ignore[arg-type]
        self.norm = lm.transformer.norm
        self.heads = product(lm.heads, int8=int8)


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
    def of(block: Block, int8: bool) -> "_Layer":
        own, cross = block.self_attention, block.cross_attention
        return _Layer(
            block,
            product(own.qkv, int8=int8),
            product(own.out, int8=int8),
            product(cross.query, int8=int8) if cross is not None else None,
            product(cross.out, int8=int8) if cross is not None else None,
            product(block.ff_in, int8=int8),
            product(block.ff_out, int8=int8),
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
        context = lm.context(branches.conditions)
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
        # On a CPU keys and values are kept in float32: attention in bfloat16 takes 2 to 4 times as long there.
        self.kept = torch.float32 if device.type == "cpu" and weight.dtype == torch.bfloat16 else weight.dtype
        heads = lm.transformer.heads
        shape = (2, rows, heads, self.places, lm.config.dim // heads)
        # Zeros, for what is hidden from attention is still multiplied, and must not be NaN.
        self.memory = [torch.zeros(shape, dtype=self.kept, device=device) for _ in decoder.layers]
        self.cross = self._cross(context.cross, order[: self.heard]) if self.heard else None
        self.positions = sinusoidal_positions(0, self.places, lm.config.dim, weight)
        self.place = torch.zeros(1, dtype=torch.int64, device=device)
        self.counts = torch.arange(self.places, device=device)
        self.hidden = self._hidden(context.prefix, order)
        if context.prefix is not None:
            self._start(context.prefix.states[order], context.causal_mask(0, self.prefix), order)

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
        x = self._layers(x, self.place, width, self._mask(width), causal=False)
        self.place += 1
        logits = self.decoder.heads(_normed(self.decoder.norm, x)).float().index_select(0, self.back)
        return self.branches.mix(logits).unflatten(-1, (lm.config.codebooks, lm.config.entries))

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
        return _Cross(memory, None if bool(mask.all()) else self._added(mask))

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


def _normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
