"""Files that audiocraft exports: torch.save of weights by name and a YAML config, of which nothing else is read.

The config is Hydra's, written out with its references: "${sample_rate}" stands for the value of that key.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from datamodules.errors import InputError

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


class Exported(NamedTuple):
    """A model that audiocraft exported.

    Attributes:
        state: its tensors by name.
        config: of the run that trained it.
    """

    state: dict[str, Any]
    config: "HydraConfig"


def load_package(path: Path) -> Any:
    """What a file of torch.save holds, if that is tensors, numbers, text and their containers.

    The tensors stay in the file until they are looked at.

    Raises:
        InputError: it is no such file, or holds other things.
    """
    try:
        try:
            return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        except RuntimeError:  # the format of PyTorch before 1.6, whose tensors cannot be left in the file
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a file of anyone's can make it raise anything
        raise InputError(
            f"{path}: not a file of tensors, numbers and text; nothing else is read, for reading Python objects runs "
            "what they say. A checkpoint of a training run is exported by audiocraft.utils.export: export_encodec for "
            "a codec, export_lm for a language model"
        ) from error


def pretrained_name(package: Any) -> str | None:
    """The codec's name in a file that has no more than that, which is how audiocraft exports a codec of others."""
    return str(package["pretrained"]) if isinstance(package, dict) and "pretrained" in package else None


def exported_model(package: Any, path: Path) -> Exported:
    """Weights and config in what ``load_package`` read of a file.

    Args:
        package: what was read.
        path: the file, for the errors.

    Raises:
        InputError: audiocraft exported no such thing, or its config is not readable.
    """
    if not isinstance(package, dict) or not isinstance(package.get("xp.cfg"), str):
        raise InputError(f"{path}: not a model that audiocraft exported (there is no xp.cfg in it)")
    state = package.get("best_state")
    # A training checkpoint has one more level.
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict):
        raise InputError(f"{path}: not a model that audiocraft exported (there is no best_state in it)")
    return Exported(state, HydraConfig(package["xp.cfg"], f"{path}: xp.cfg"))


class HydraConfig:
    """A Hydra config by dotted names, with its references followed.

    Attributes:
        where: what an error about it begins with.

    Raises:
        InputError: not a config.
    """

    def __init__(self, text: str, where: str) -> None:
        try:
            tree = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"{where}: not readable as YAML") from error
        if not isinstance(tree, dict):
            raise InputError(f"{where}: not a config")
        self._tree = tree
        self.where = where

    @property
    def of_language_model(self) -> bool:
        """Whether it is the config of a language model, and not of a codec."""
        return self._tree.get("lm_model") is not None

    def names(self, section: str) -> list[str]:
        """The keys of a section, none of one that is missing."""
        found = self._find(section, None)
        return [str(name) for name in found] if isinstance(found, Mapping) else []

    def get(self, name: str, default: Any) -> Any:
        """The value at a name such as "seanet.causal", a section with all that is in it.

        Raises:
            InputError: a reference that leads nowhere, or in a circle, or asks for more than another value.
        """
        return self._followed(self._find(name, default), (name,))

    def _find(self, name: str, default: Any) -> Any:
        found: Any = self._tree
        for part in name.split("."):
            if not isinstance(found, Mapping) or part not in found:
                return default
            found = found[part]
        return found

    def _followed(self, value: Any, way: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            return {key: self._followed(item, (*way, str(key))) for key, item in value.items()}
        if isinstance(value, list):
            return [self._followed(item, way) for item in value]
        if not isinstance(value, str) or "${" not in value:
            return value
        nowhere = object()
        reference = _REFERENCE.fullmatch(value)
        found = self._find(reference[1], nowhere) if reference and len(way) < 16 else nowhere
        if reference is None or found is nowhere:
            raise InputError(f"{self.where}: {way[0]} is {value!r}, which cannot be followed")
        return self._followed(found, (*way, reference[1]))
