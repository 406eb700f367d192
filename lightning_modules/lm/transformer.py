"""The decoder: pre-norm blocks of causal self-attention, cross-attention to conditions, and feed-forward.

MusicGen, section 2.4; exact in the details that its published checkpoints depend on: sinusoidal positions with the
cosines first, no biases in attention and feed-forward, the exact GELU.

Shape letters: B items, S steps, D width, H heads, L condition length.
"""

from dataclasses import dataclass
from functools import cached_property
from math import log, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

_MAX_PERIOD = 10000


class KeyValueCache:
    """Keys and values of the steps decoded so far, in buffers that never move.

    Attributes:
        self_attention: per layer, keys and values [2, B, H, S_max, D/H].
        cross_attention: per layer, keys and values [2, B, H, L, D/H] of the conditions, computed once; None without.
        length: steps held.
    """

    def __init__(self, layers: int, batch: int, heads: int, steps: int, head_dim: int, like: Tensor) -> None:
        shape = (2, batch, heads, steps, head_dim)
        self.self_attention = [torch.empty(shape, dtype=like.dtype, device=like.device) for _ in range(layers)]
        self.cross_attention: list[Tensor | None] = [None] * layers
        self.length = 0


@dataclass(frozen=True)
class Source:
    """Conditions at the model's width.

    Attributes:
        states: [B, L, D], zero where there is nothing.
        mask: [B, L], true where attention goes.
    """

    states: Tensor
    mask: Tensor

    @cached_property
    def attention_mask(self) -> Tensor:
        """[B, 1, 1, L] for cross-attention, made once for all layers and steps.

        A row that masks everything (the null condition) attends to its zero states instead. Their values are zero, as
        no bias follows, so its attention output is exactly zero, and never the NaN of a softmax over nothing.
        """
        return (self.mask | ~self.mask.any(1, keepdim=True))[:, None, None]

    @cached_property
    def hidden(self) -> bool:
        """Whether any place of a prefix is masked; asked once, for the answer has to come from the device."""
        return not bool(self.mask.all())


@dataclass(frozen=True)
class Context:
    """What a sequence is decoded under.

    Attributes:
        cross: what cross-attention looks at; None in a model without.
        prefix: what stands before the sequence; None for nothing.
    """

    cross: Source | None = None
    prefix: Source | None = None

    @property
    def places(self) -> int:
        """Steps that the prefix takes in a cache."""
        return self.prefix.mask.shape[1] if self.prefix is not None else 0

    def causal_mask(self, start: int, steps: int) -> Tensor | None:
        """Where each of ``steps`` steps after ``start`` may look, [B, 1, steps, start + steps].

        None where causality is all there is to say. A step always sees itself, be it hidden from others: the softmax
        over nothing would be NaN.
        """
        if self.prefix is None or not self.prefix.hidden:
            return None
        mask = self.prefix.mask
        total = start + steps
        shown = F.pad(mask, (0, max(0, total - mask.shape[1])), value=True)[:, :total]
        place = torch.arange(total, device=mask.device)
        query = place[start:, None]
        return ((place < query) & shown[:, None, None]) | (place == query)


class SelfAttention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None, cache: KeyValueCache | None, layer: int) -> Tensor:
        """[B, S, D] -> [B, S, D]; with a cache, x follows the steps that it holds. The mask is ``causal_mask``'s."""
        batch, steps, dim = x.shape
        query, keys, values = self.qkv(x).view(batch, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        causal = steps > 1
        if cache is not None:
            stop = cache.length + steps
            buffer = cache.self_attention[layer]
            buffer[0, :, :, cache.length : stop] = keys
            buffer[1, :, :, cache.length : stop] = values
            keys, values = buffer[0, :, :, :stop], buffer[1, :, :, :stop]
            assert not causal or cache.length == 0, "a prompt goes in first and whole, then one step at a time"
        causal = causal and mask is None
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, steps, dim))


class CrossAttention(nn.Module):
    """Multi-head attention from the sequence to the conditions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, cross: Source, cache: KeyValueCache | None, layer: int) -> Tensor:
        """[B, S, D] and conditions -> [B, S, D]."""
        batch, steps, dim = x.shape
        query = self.query(x).view(batch, steps, self.heads, -1).transpose(1, 2)
        stored = cache.cross_attention[layer] if cache is not None else None
        if stored is None:
            stored = self.key_value(cross.states).view(batch, -1, 2, self.heads, dim // self.heads)
            stored = stored.permute(2, 0, 3, 1, 4)
            if cache is not None:
                cache.cross_attention[layer] = stored
        mixed = F.scaled_dot_product_attention(query, stored[0], stored[1], attn_mask=cross.attention_mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, steps, dim))


class Block(nn.Module):
    """Self-attention, cross-attention where there are conditions, feed-forward; each on a normalised residual."""

    def __init__(self, dim: int, heads: int, hidden: int, *, cross_attention: bool) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(dim)
        self.self_attention = SelfAttention(dim, heads)
        self.norm_cross = nn.LayerNorm(dim) if cross_attention else None
        self.cross_attention = CrossAttention(dim, heads) if cross_attention else None
        self.norm_ff = nn.LayerNorm(dim)
        self.ff_in = nn.Linear(dim, hidden, bias=False)
        self.ff_out = nn.Linear(hidden, dim, bias=False)

    def forward(
        self, x: Tensor, context: Context, mask: Tensor | None, cache: KeyValueCache | None, layer: int
    ) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x = x + self.self_attention(self.norm_self(x), mask, cache, layer)
        if self.cross_attention is not None and self.norm_cross is not None:
            assert context.cross is not None, "a model with cross-attention needs conditions; the null condition is one"
            x = x + self.cross_attention(self.norm_cross(x), context.cross, cache, layer)
        return x + self.ff_out(F.gelu(self.ff_in(self.norm_ff(x))))


class Transformer(nn.Module):
    """A stack of blocks over embedded steps.

    Args:
        dim: width, D.
        layers: blocks.
        heads: attention heads, H.
        hidden: width of the feed-forward layers.
        cross_attention: whether blocks attend to conditions.

    Attributes:
        recompute: in training keep the activations between every so many blocks alone, and compute those within once
            more on the way back (activation checkpointing): less memory, a third more work. 0 keeps all.
    """

    def __init__(self, dim: int, layers: int, heads: int, hidden: int, *, cross_attention: bool) -> None:
        super().__init__()
        self.dim, self.heads = dim, heads
        self.recompute = 0
        self.blocks = nn.ModuleList([Block(dim, heads, hidden, cross_attention=cross_attention) for _ in range(layers)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, context: Context, cache: KeyValueCache | None = None) -> Tensor:
        """[B, S, D] -> [B, S, D], normalised; with a cache, x continues it and the cache grows by S steps.

        The context's prefix goes in before the first steps, takes the first positions, and comes out nowhere.
        """
        start = cache.length if cache is not None else 0
        places = 0
        if context.prefix is not None and start == 0:
            x = torch.cat([context.prefix.states, x], dim=1)
            places = context.places
        steps = x.shape[1]
        x = x + sinusoidal_positions(start, steps, self.dim, x)
        mask = context.causal_mask(start, steps)
        for first in range(0, len(self.blocks), self.recompute or len(self.blocks)):
            x = self._part(x, context, mask, cache, first)
        if cache is not None:
            cache.length += steps
        return self.norm(x)[:, places:]

    def _part(
        self, x: Tensor, context: Context, mask: Tensor | None, cache: KeyValueCache | None, first: int
    ) -> Tensor:
        """The blocks from ``first`` on, as many as are recomputed together; all, where none are."""
        blocks = self.blocks[first : first + (self.recompute or len(self.blocks))]

        def run(x: Tensor) -> Tensor:
            for layer, block in enumerate(blocks, start=first):
                x = block(x, context, mask, cache, layer)
            return x

        if self.recompute and torch.is_grad_enabled():
            made: Tensor = checkpoint(run, x, use_reentrant=False)
            return made
        return run(x)

    def new_cache(self, batch: int, steps: int) -> KeyValueCache:
        """An empty cache for ``batch`` rows and at most ``steps`` steps, in the weights' type and place."""
        like = self.norm.weight
        return KeyValueCache(len(self.blocks), batch, self.heads, steps, self.dim // self.heads, like)

    @torch.no_grad()
    def initialise(self) -> None:
        """Truncated normal at 3 sigma, sigma = 1 / sqrt(fan in), divided by sqrt(2 x depth) in block number ``depth``.

        The original leaves the fused query-key-value weights at PyTorch's default, as they are no ``nn.Linear`` there;
        here they follow the rule like all others.
        """
        for depth, block in enumerate(self.blocks, start=1):
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    truncated_normal_(module.weight, module.in_features, depth)


def truncated_normal_(weight: Tensor, fan_in: int, depth: float = 0.5) -> None:
    """Fills ``weight`` with a normal of standard deviation 1 / sqrt(fan_in * 2 * depth), cut at 3 of them."""
    std = 1 / sqrt(fan_in * 2 * depth)
    nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)


def sinusoidal_positions(start: int, steps: int, dim: int, like: Tensor) -> Tensor:
    """[steps, D] for positions start, start + 1, ...: cosines in the first half, sines in the second."""
    half = dim // 2
    rates = torch.exp(torch.arange(half, device=like.device) * (-log(_MAX_PERIOD) / (half - 1)))
    phase = torch.arange(start, start + steps, device=like.device)[:, None] * rates
    return torch.cat([phase.cos(), phase.sin()], dim=1).to(like.dtype)
