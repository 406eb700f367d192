"""Folders of transformers: a ``config.json`` and safetensors, in one file or in several; nothing else is read."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.errors import InputError
from datamodules.hub import quiet_transformers
from lightning_modules.model_folders import WEIGHTS, read_safetensors

CONFIG = "config.json"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
INDEX = "model.safetensors.index.json"
CODECS = ("encodec", "dac")
LANGUAGE_MODELS = ("musicgen", "musicgen_melody")


def read_config(folder: str | Path) -> dict[str, Any]:
    """The ``config.json`` of a codec or a language model.

    Raises:
        InputError: it is missing or unreadable, or of another kind of model.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise InputError(f"{folder}: not a folder of transformers ({CONFIG} is missing)")
    fields = _read_json(path)
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    if kind not in (*CODECS, *LANGUAGE_MODELS):
        raise InputError(
            f"{path}: model_type is {kind!r}; only these are converted: {', '.join((*CODECS, *LANGUAGE_MODELS))}"
        )
    return dict(fields)


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """The tensors of a folder; they stay in the files until they are looked at.

    Raises:
        InputError: no safetensors in it, one file of several is missing, or they are not readable.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        if not (folder / WEIGHTS).is_file():
            raise InputError(
                f"{folder}: {WEIGHTS} is missing, and no other file of weights is read; load the model with "
                "transformers and save_pretrained it again, which writes one"
            )
        return read_safetensors(folder / WEIGHTS)
    index = _read_json(folder / INDEX)
    places = index.get("weight_map") if isinstance(index, dict) else None
    # A name with a way in it would lead out of the folder.
    if not isinstance(places, dict) or any(Path(str(file)).name != file for file in places.values()):
        raise InputError(f"{folder / INDEX}: not an index of weights")
    state: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        state.update(read_safetensors(folder / file))
    return state


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Without transformers' progress bars and warnings: it warns of every MusicGen's own special token."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with quiet_transformers():
            yield
    finally:
        logging.set_verbosity(level)


def one_line(error: Exception) -> str:
    """What an error says, which transformers spreads over several lines."""
    return " ".join(str(error).split())[:300]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON") from error
