"""Codecs of audiocraft: ``compression_state_dict.bin``, weights and a config that says what shape they have."""

from collections.abc import Mapping
from typing import Any

from datamodules.errors import InputError
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.converting.audiocraft_files import HydraConfig
from lightning_modules.converting.codec_names import AUDIOCRAFT, codec_config, read_encodec
from lightning_modules.converting.tensors import ForeignTensors

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


def codec_name(named: str) -> str:
    """The hub's name of a codec that audiocraft fetches under this one."""
    return _ELSEWHERE.get(named.removeprefix("//pretrained/"), named.removeprefix("//pretrained/"))


def read_audiocraft(state: Mapping[str, Any], config: HydraConfig, where: str) -> EnCodec:
    """The codec that audiocraft exported with these tensors and this config.

    Args:
        state: the tensors by name.
        config: of the run that trained it.
        where: what an error about the tensors begins with.

    Raises:
        InputError: a setting that our codec has not, or tensors that do not fit.
    """
    _check(config)
    fields = {ours: config.get(name, default) for ours, (name, default) in _FIELDS.items()}
    if isinstance(fields["conv_shortcut"], bool):  # a true skip is no convolution
        fields["conv_shortcut"] = not fields["conv_shortcut"]
    shape = codec_config(fields, {ours: name for ours, (name, _) in _FIELDS.items()}, config.where)
    return read_encodec(shape, ForeignTensors(state), AUDIOCRAFT, where)


def _check(config: HydraConfig) -> None:
    """No setting says what our codec has not."""
    for name, (allowed, default) in _FIXED.items():
        found = config.get(name, default)
        if found not in allowed:
            raise InputError(
                f"{config.where}: {name} is {found!r}; only {' or '.join(map(repr, allowed))} is converted"
            )
    for side in ("encoder", "decoder"):
        alone = config.get(f"seanet.{side}", None)
        for name, value in alone.items() if isinstance(alone, Mapping) else ():
            if not (side == "decoder" and name in _DECODER_ONLY) and value != config.get(f"seanet.{name}", None):
                raise InputError(
                    f"{config.where}: seanet.{side}.{name} is {value!r}; one side alone cannot be set here"
                )
