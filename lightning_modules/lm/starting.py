"""The model that a training goes on from."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from datamodules.errors import InputError
from lightning_modules.checkpoints import Description, describe
from lightning_modules.codec.folder import codec_checksum


def starting_point(model: str, codec: str, given: Mapping[str, Any]) -> Description:
    """The model to go on from, which has to be what it is said to be.

    Args:
        model: its folder, or "embedded".
        codec: that is named beside it; "" for none.
        given: "lm", "text" and "melody" of the run.

    Raises:
        InputError: no such folder, not a language model, one of another shape (the fields are named), or one that was
            trained on another codec's codes.
    """
    found = describe(model)
    differences = []
    for name, ours in given.items():
        said, there = _fields(name, ours), _fields(name, getattr(found, name))
        fields = [field for field in {**said, **there} if said.get(field) != there.get(field)]
        differences += [f"{field} is {there.get(field)!r} there and {said.get(field)!r} here" for field in fields]
    if differences:
        raise InputError(f"{model}: is a model of another shape than the run's: {', '.join(differences)}; name its own")
    if codec and codec_checksum(codec) != codec_checksum(found.codec):
        raise InputError(f"{model}: was trained on the codes of another codec than {codec}; leave it out, for its own")
    return found


def _fields(name: str, config: Any) -> dict[str, Any]:
    """Of a section of a config by their whole names; which weights a text encoder had is no part of its shape."""
    if config is None:
        return {name: None}
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in asdict(config).items()}
    return {f"{name}.{key}": value for key, value in fields.items() if key != "checksum"}
