"""What was heard before, by the content of the sound and who heard it: kept on disk, so that nothing is heard twice.

A folder of its own, never the data's: ``heard/`` in the cache (MGL_CACHE, by default ~/.cache/musicgen-lightning). A
sound is known by the sha256 of its file's bytes, by how much of it was heard and how loud, so a clip that is made anew
under an old name is heard anew, and so is one that another protocol makes louder. Every file is whole, and the folder
may be removed at any time.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from datamodules.cache import Cache

# Raise with every change by which the same judge would hear something else in the same sound.
_REVISION = "3"


class HeardBefore:
    """Tensors by (who heard, what was heard).

    Args:
        folder: where they lie; made when something is kept. None keeps nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = Path(folder) if folder is not None else None

    @classmethod
    def from_environment(cls) -> "HeardBefore":
        """In the cache's folder (MGL_CACHE)."""
        return cls(Cache.from_environment().folder / "heard")

    def get(self, ear: str, sound: str) -> dict[str, Tensor] | None:
        """What was heard, mapped into memory; None where it was not heard before, or its file is damaged."""
        path = self._path(ear, sound)
        if path is None or not path.is_file():
            return None
        try:
            return load_file(path)
        except (SafetensorError, OSError):
            return None

    def keep(self, ear: str, sound: str, heard: Mapping[str, Tensor]) -> None:
        """Keeps what was heard. A disk that is full or not to be written to keeps nothing: it is a help, no result."""
        path = self._path(ear, sound)
        if path is None:
            return
        partial = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
            os.close(handle)
            save_file({name: tensor.contiguous() for name, tensor in heard.items()}, partial)
            os.replace(partial, path)
        except (OSError, SafetensorError):
            return
        finally:  # after Ctrl-C, too
            if partial is not None:
                Path(partial).unlink(missing_ok=True)

    def _path(self, ear: str, sound: str) -> Path | None:
        if self.folder is None:
            return None
        who, what = (hashlib.sha256(f"{_REVISION} {key}".encode()).hexdigest()[:32] for key in (ear, sound))
        return self.folder / who / what[:2] / f"{what}.safetensors"


def content_key(path: str | Path) -> str:
    """sha256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
