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

from lightning_modules.lm.linear import Linear

_MAX_PERIOD = 10000


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
        added: [B, L, D], what is added to the steps, a place a frame, zero where there is nothing; None for nothing.
    """

    cross: Source | None = None
    prefix: Source | None = None
    added: Tensor | None = None

    @property
    def places(self) -> int:
        """Places that the prefix takes before the sequence."""
        return self.prefix.mask.shape[1] if self.prefix is not None else 0

    def causal_mask(self, steps: int) -> Tensor | None:
        """Where each of ``steps`` places, the prefix's included, may look, [B, 1, steps, steps].

        None where causality is all there is to say. A step always sees itself, be it hidden from others: the softmax
        over nothing would be NaN.
        """
        if self.prefix is None or not self.prefix.hidden:
            return None
        mask = self.prefix.mask
        shown = F.pad(mask, (0, steps - mask.shape[1]), value=True)
        place = torch.arange(steps, device=mask.device)
        query = place[:, None]
        return ((place < query) & shown[:, None, None]) | (place == query)


class SelfAttention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, S, D] -> [B, S, D]. The mask is ``causal_mask``'s."""
        batch, steps, dim = x.shape
        query, keys, values = self.qkv(x).view(batch, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=mask is None)
        return self.out(mixed.transpose(1, 2).reshape(batch, steps, dim))


class CrossAttention(nn.Module):
    """Multi-head attention from the sequence to the conditions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(dim, dim)
        self.key_value = Linear(dim, 2 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, cross: Source) -> Tensor:
        """[B, S, D] and conditions -> [B, S, D]."""
        batch, steps, dim = x.shape
        query = self.query(x).view(batch, steps, self.heads, -1).transpose(1, 2)
        both = self.key_value(cross.states).view(batch, -1, 2, self.heads, dim // self.heads)
        keys, values = both.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=cross.attention_mask)
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
        self.ff_in = Linear(dim, hidden)
        self.ff_out = Linear(hidden, dim)

    def forward(self, x: Tensor, context: Context, mask: Tensor | None) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x = x + self.self_attention(self.norm_self(x), mask)
        if self.cross_attention is not None and self.norm_cross is not None:
            assert context.cross is not None, "a model with cross-attention needs conditions; the null condition is one"
            x = x + self.cross_attention(self.norm_cross(x), context.cross)
        return x + self.ff_out(F.gelu(self.ff_in(self.norm_ff(x))))


class Transformer(nn.Module):
    """A stack of blocks over embedded steps.

    Args:
        dim: width, D.
        layers: blocks.
        heads: attention heads, H.
        hidden: width of the feed-forward layers.
        cross_attention: whether blocks attend to conditions.
        position_scale: what positions are multiplied by.

    Attributes:
        recompute: in training keep the activations between every so many blocks alone, and compute those within once
            more on the way back (activation checkpointing): less memory, a third more work. 0 keeps all.
    """

    def __init__(
        self, dim: int, layers: int, heads: int, hidden: int, *, cross_attention: bool, position_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.position_scale = dim, heads, position_scale
        self.recompute = 0
        self.blocks = nn.ModuleList([Block(dim, heads, hidden, cross_attention=cross_attention) for _ in range(layers)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """[B, S, D] -> [B, S, D], normalised.

        The context's prefix goes in before the steps, takes the first positions, and comes out nowhere.
        """
        if context.prefix is not None:
            x = torch.cat([context.prefix.states, x], dim=1)
        steps = x.shape[1]
        x = x + self.positions(steps, x)
        mask = context.causal_mask(steps)
        for first in range(0, len(self.blocks), self.recompute or len(self.blocks)):
            x = self._part(x, context, mask, first)
        return self.norm(x)[:, context.places :]

    def positions(self, steps: int, like: Tensor) -> Tensor:
        """[steps, D], what is added to the first so many places."""
        return sinusoidal_positions(0, steps, self.dim, like) * self.position_scale

    def _part(self, x: Tensor, context: Context, mask: Tensor | None, first: int) -> Tensor:
        """The blocks from ``first`` on, as many as are recomputed together; all, where none are."""
        blocks = self.blocks[first : first + (self.recompute or len(self.blocks))]

        def run(x: Tensor) -> Tensor:
            for block in blocks:
                x = block(x, context, mask)
            return x

        if self.recompute and torch.is_grad_enabled():
            made: Tensor = checkpoint(run, x, use_reentrant=False)
            return made
        return run(x)

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
