"""The transformer's blocks through ``torch.compile``."""

import torch
from torch import Tensor

from lightning_modules.lm.transformer import Block, Context


def compile_block(block: Block) -> None:
    """Compiles what a block computes in training and validation.

    Not the module but its ``forward``: names of parameters stay what they are, and whatever hangs on the module as a
    hook (sharding does) is not traced. All blocks share one compiled graph.
    """
    plain = block.forward
    fast = torch.compile(plain)

    def forward(x: Tensor, context: Context, mask: Tensor | None) -> Tensor:
        if context.cross is not None:
            _ = context.cross.attention_mask  # made once, and not by the graph
        made: Tensor = fast(x, context, mask)
        return made

    block.forward = forward  # type: ignore[method-assign]
