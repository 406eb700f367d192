"""Codes of whole tracks on disk, and random windows of them.

What a store is made of: ``format``. Reading: ``store`` (tracks, codes, chroma) -> ``windows`` (samples, batches, the
datamodule). Writing, a step each: ``plan`` (shards and the windows in which tracks are encoded) -> ``pieces`` (audio,
read in loader processes) -> ``shard`` (one shard's files) -> ``writer`` (all of them, and the index). For transport:
``packing``.
"""

from datamodules.tokens.windows import Collate, TokenDataModule, TokenDataset, TokenWindow, token_window

__all__ = ["Collate", "TokenDataModule", "TokenDataset", "TokenWindow", "token_window"]
