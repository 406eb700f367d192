"""Checkpoints that are there whole or not at all, on whatever disk they lie."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from datamodules.errors import InputError
from datamodules.whole_files import write_whole


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it.

    Lightning writes it into the system's folder for temporary files and moves it. Where that folder lies on another
    disk than the run, moving is copying onto the old file, and a process that is killed meanwhile leaves half a
    ``last.ckpt`` and no whole one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes ``checkpoint``; to an URL as Lightning does.

        Raises:
            InputError: the disk is full; the checkpoint before it stays.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Reads a checkpoint as Lightning does.

        Raises:
            InputError: it is one in shards, which only a sharded run goes on from.
        """
        if Path(path).is_dir():
            raise InputError(
                f"{path}: is a sharded checkpoint; go on from it with -c cluster/sharded (--trainer.devices 1 will do)"
            )
        return super().load_checkpoint(path, *arguments, **options)
