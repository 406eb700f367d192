"""Strangers' files of torch.save, read without running what they say."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch

from datamodules.errors import InputError


def read_pickle(path: str | Path, allowed: Sequence[Any] = ()) -> Any:
    """What a file of torch.save holds, if that is tensors, numbers, text, their containers and the allowed types.

    Args:
        path: the file; tensors stay on disk until they are used.
        allowed: types that may be made beside those, as for ``torch.serialization.safe_globals``: a type, or what
            stands in its place and the dotted name under which the file knows it.

    Raises:
        InputError: no such file, a damaged one, or one that holds other things, which only code of its own could make.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # a file of anyone's can make it raise anything
        foreign = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        why = f"holds {foreign[1]}, and reading that would run code" if foreign else "is damaged, or no file of weights"
        raise InputError(f"{path}: {why}; give the file as it was published") from error
