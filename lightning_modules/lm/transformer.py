"""The decoder: pre-norm blocks of causal self-attention, cross-attention to the conditions, and feed-forward.

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
class CrossInput:
    """What cross-attention looks at: states [B, L, D], zero where padded, and a mask [B, L], true where not."""

    states: Tensor
    mask: Tensor

    @cached_property
    def attention_mask(self) -> Tensor:
        """[B, 1, 1, L], made once for all layers and steps.

        A row that masks everything (the null condition) attends to its zero states instead. Their values are zero, as
        no bias follows, so its attention output is exactly zero, and never the NaN of a softmax over nothing.
        """
        return (self.mask | ~self.mask.any(1, keepdim=True))[:, None, None]


class SelfAttention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, cache: KeyValueCache | None, layer: int) -> Tensor:
        """[B, S, D] -> [B, S, D]; with a cache, x follows the steps that it holds."""
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
        mixed = F.scaled_dot_product_attention(query, keys, values, is_causal=causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, steps, dim))


class CrossAttention(nn.Module):
    """Multi-head attention from the sequence to the conditions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, cross: CrossInput, cache: KeyValueCache | None, layer: int) -> Tensor:
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

    def forward(self, x: Tensor, cross: CrossInput | None, cache: KeyValueCache | None, layer: int) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x = x + self.self_attention(self.norm_self(x), cache, layer)
        if self.cross_attention is not None and self.norm_cross is not None:
            assert cross is not None, "a model with cross-attention needs conditions; the null condition is one"
            x = x + self.cross_attention(self.norm_cross(x), cross, cache, layer)
        return x + self.ff_out(F.gelu(self.ff_in(self.norm_ff(x))))


class Transformer(nn.Module):
    """A stack of blocks over embedded steps.

    Args:
        dim: width, D.
        layers: blocks.
        heads: attention heads, H.
        hidden: width of the feed-forward layers.
        cross_attention: whether blocks attend to conditions.
    """

    def __init__(self, dim: int, layers: int, heads: int, hidden: int, *, cross_attention: bool) -> None:
        super().__init__()
        self.dim, self.heads = dim, heads
        self.blocks = nn.ModuleList([Block(dim, heads, hidden, cross_attention=cross_attention) for _ in range(layers)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, cross: CrossInput | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """[B, S, D] -> [B, S, D], normalised; with a cache, x continues it and the cache grows by S steps."""
        start = cache.length if cache is not None else 0
        x = x + sinusoidal_positions(start, x.shape[1], self.dim, x)
        for layer, block in enumerate(self.blocks):
            x = block(x, cross, cache, layer)
        if cache is not None:
            cache.length += x.shape[1]
        return self.norm(x)

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
