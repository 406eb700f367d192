"""The transformer's blocks through ``torch.compile``."""

import torch
from torch import Tensor

from lightning_modules.lm.transformer import Block, Context, KeyValueCache


def compile_block(block: Block) -> None:
    """Compiles what a block computes in training and validation.

    Not the module but its ``forward``: names of parameters stay what they are, and whatever hangs on the module as a
    hook (sharding does) is not traced. All blocks share one compiled graph. Decoding with a cache, where every step
    has another length, is left as it is.
    """
    plain = block.forward
    fast = torch.compile(plain)

    def forward(x: Tensor, context: Context, mask: Tensor | None, cache: KeyValueCache | None, layer: int) -> Tensor:
        if cache is not None:
            return plain(x, context, mask, cache, layer)
        if context.cross is not None:
            _ = context.cross.attention_mask  # made once, and not by the graph
        # Without a cache the layer's number means nothing, and would be a graph for each.
        made: Tensor = fast(x, context, mask, None, 0)
        return made

    block.forward = forward  # type: ignore[method-assign]
