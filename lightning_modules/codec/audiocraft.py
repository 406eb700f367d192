"""Codecs of audiocraft: ``compression_state_dict.bin``, a file of torch.save with weights and a YAML config.

The config is Hydra's, written out with its references: "${sample_rate}" stands for the value of that key.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from datamodules.errors import InputError
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.foreign import AUDIOCRAFT, codec_config, read_encodec

FILE = "compression_state_dict.bin"
# Field of CodecConfig -> where it stands in the config, and what audiocraft takes where it does not.
_FIELDS: dict[str, tuple[str, Any]] = {
    "sample_rate": ("encodec.sample_rate", "${sample_rate}"),
    "channels": ("seanet.channels", 1),
    "filters": ("seanet.n_filters", 32),
    "ratios": ("seanet.ratios", [8, 5, 4, 2]),
    "dim": ("seanet.dimension", 128),
    "residual_units": ("seanet.n_residual_layers", 3),
    "lstm_layers": ("seanet.lstm", 0),
    "kernel": ("seanet.kernel_size", 7),
    "last_kernel": ("seanet.last_kernel_size", 7),
    "residual_kernel": ("seanet.residual_kernel_size", 3),
    "dilation_base": ("seanet.dilation_base", 2),
    "compress": ("seanet.compress", 2),
    "causal": ("seanet.causal", False),
    "pad_mode": ("seanet.pad_mode", "reflect"),
    "conv_shortcut": ("seanet.true_skip", True),
    "codebooks": ("rvq.n_q", 8),
    "entries": ("rvq.bins", 1024),
}
# What can be set besides, the values of it that our codec is, and what audiocraft takes by default. Convolutions
# without a norm are read as well: their weights are taken for folded ones, whatever disable_norm_outer_blocks says.
_FIXED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "compression_model": (("encodec",), None),
    "encodec.autoencoder": (("seanet",), None),
    "encodec.quantizer": (("rvq",), None),
    "encodec.renormalize": ((False,), False),
    "seanet.norm": (("weight_norm", "none"), "none"),
    "seanet.activation": (("ELU",), "ELU"),
    "seanet.activation_params": (({"alpha": 1.0},), {"alpha": 1.0}),
    "seanet.decoder.trim_right_ratio": ((1.0,), 1.0),
    "seanet.decoder.final_activation": ((None,), None),
}
_DECODER_ONLY = ("trim_right_ratio", "final_activation", "final_activation_params")
# audiocraft's names of codecs that it fetches -> the hub's.
_ELSEWHERE = {"dac_44khz": "descript/dac_44khz", "dac_24khz": "descript/dac_24khz"}
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def read_audiocraft(path: str | Path) -> EnCodec:
    """The codec in a file that audiocraft exported.

    Nothing is unpickled but tensors, numbers, text and their containers.

    Raises:
        InputError: not such a file, another model in it, a setting that our codec has not, or tensors that do not fit.
    """
    package = _read_package(Path(path))
    config = _Config(package["xp.cfg"], f"{path}: xp.cfg")
    _check(config, f"{path}: xp.cfg")
    fields = {ours: config.get(name, default) for ours, (name, default) in _FIELDS.items()}
    if isinstance(fields["conv_shortcut"], bool):  # a true skip is no convolution
        fields["conv_shortcut"] = not fields["conv_shortcut"]
    shape = codec_config(fields, {ours: name for ours, (name, _) in _FIELDS.items()}, f"{path}: xp.cfg")
    return read_encodec(shape, package["best_state"], AUDIOCRAFT, str(path))


def _check(config: "_Config", where: str) -> None:
    """No setting says what our codec has not."""
    for name, (allowed, default) in _FIXED.items():
        found = config.get(name, default)
        if found not in allowed:
            raise InputError(f"{where}: {name} is {found!r}; only {' or '.join(map(repr, allowed))} is converted")
    for side in ("encoder", "decoder"):
        alone = config.get(f"seanet.{side}", None)
        for name, value in alone.items() if isinstance(alone, Mapping) else ():
            if not (side == "decoder" and name in _DECODER_ONLY) and value != config.get(f"seanet.{name}", None):
                raise InputError(f"{where}: seanet.{side}.{name} is {value!r}; one side alone cannot be set here")


def _read_package(path: Path) -> dict[str, Any]:
    """``best_state``, tensors by name, and ``xp.cfg``, text, of an exported file."""
    try:
        package = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a file of anyone's can make it raise anything
        raise InputError(
            f"{path}: not a file of tensors, numbers and text; nothing else is read, for reading Python objects runs "
            "what they say. A checkpoint of a training run is exported by audiocraft.utils.export.export_encodec"
        ) from error
    if isinstance(package, dict) and "pretrained" in package:
        name = package["pretrained"]
        raise InputError(
            f"{path}: holds no codec but the name of one, {name!r}; convert that: mgl convert "
            f"{_ELSEWHERE.get(str(name), name)} OUT"
        )
    if not isinstance(package, dict) or not isinstance(package.get("xp.cfg"), str):
        raise InputError(f"{path}: not a codec that audiocraft exported (there is no xp.cfg in it)")
    state = package.get("best_state")
    # A training checkpoint has one more level.
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict):
        raise InputError(f"{path}: not a codec that audiocraft exported (there is no best_state in it)")
    return {"best_state": state, "xp.cfg": package["xp.cfg"]}


class _Config:
    """A Hydra config by dotted names, with its references followed.

    Raises:
        InputError: not a config, or that of a language model.
    """

    def __init__(self, text: str, where: str) -> None:
        try:
            tree = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"{where}: not readable as YAML") from error
        if not isinstance(tree, dict):
            raise InputError(f"{where}: not a config")
        if tree.get("lm_model") is not None:
            raise InputError(f"{where}: of a language model; language models are not converted yet, only codecs are")
        self._tree, self._where = tree, where

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
            raise InputError(f"{self._where}: {way[0]} is {value!r}, which cannot be followed")
        return self._followed(found, (*way, reference[1]))
