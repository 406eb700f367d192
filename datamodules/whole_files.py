"""Files that are there whole or not at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamodules.errors import InputError


def write_whole(path: Path, data: "bytes | Callable[[Any], None]") -> None:
    """Writes a file whole or not at all; ``data`` is its content, or writes it to the open file.

    Raises:
        InputError: the disk is full.
    """
    partial = partial_path(path)
    try:
        with partial.open("wb") as file:
            data(file) if callable(data) else file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"{path.parent}: {error.strerror}; make room and give the same command again: what is finished stays"
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Where a file lies until it is whole."""
    return path.with_name(path.name + ".partial")
