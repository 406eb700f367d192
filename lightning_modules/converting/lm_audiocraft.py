"""Language models of audiocraft: ``state_dict.bin``, weights and a config that says what shape they have.

What a config leaves out is what audiocraft's own lm/default.yaml says, which is not what MusicGen is.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.errors import InputError
from datamodules.features.chroma import ChromaExtractor
from lightning_modules.codec.contract import Codec
from lightning_modules.conditioning.conditioners import MELODY, TEXT
from lightning_modules.conditioning.melody import MelodyConfig
from lightning_modules.conditioning.text import TextEncoderConfig
from lightning_modules.converting.audiocraft_files import HydraConfig
from lightning_modules.converting.audiocraft_patterns import pattern_name
from lightning_modules.converting.lm_names import (
    AUDIOCRAFT,
    Progress,
    language_model_config,
    read_state,
    tensor_pieces,
)
from lightning_modules.converting.lm_native import ConvertedModel, condition_dims, matching_codec
from lightning_modules.converting.tensors import ForeignTensors
from lightning_modules.converting.text_encoders import hub_t5

FILE = "state_dict.bin"
# Field of LanguageModelConfig -> where it stands in the config, and what audiocraft takes where it does not.
_FIELDS: dict[str, tuple[str, Any]] = {
    "dim": ("transformer_lm.dim", 512),
    "layers": ("transformer_lm.num_layers", 8),
    "heads": ("transformer_lm.num_heads", 8),
    "ff_ratio": ("transformer_lm.hidden_scale", 4),
    "codebooks": ("transformer_lm.n_q", 8),
    "entries": ("transformer_lm.card", 1024),
    "position_scale": ("transformer_lm.positional_scale", 1.0),
}
_OFF = (False, None)
# What can be set besides, the values of it that our language model is, and what audiocraft takes by default. What
# only training knows (dropout, initialisation) or only says how to compute the same is not looked at.
_FIXED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "lm_model": (("transformer_lm",), None),
    "transformer_lm.norm_first": ((True,), False),
    "transformer_lm.norm": (("layer_norm",), "layer_norm"),
    "transformer_lm.activation": (("gelu",), "gelu"),
    "transformer_lm.bias_ff": (_OFF, True),
    "transformer_lm.bias_attn": (_OFF, True),
    "transformer_lm.bias_proj": (_OFF, True),
    "transformer_lm.causal": ((True,), True),
    "transformer_lm.past_context": ((None,), None),
    "transformer_lm.positional_embedding": (("sin",), "sin"),
    "transformer_lm.max_period": ((10_000,), 10_000),
    "transformer_lm.xpos": (_OFF, False),
    "transformer_lm.layer_scale": ((None,), None),
    "transformer_lm.qk_layer_norm": (_OFF, False),
    "transformer_lm.qk_layer_norm_cross": (_OFF, False),
    "transformer_lm.kv_repeat": ((1,), 1),
    "transformer_lm.attention_as_float32": ((True, False), False),
    "fuser.cross_attention_pos_emb": (_OFF, False),
    "fuser.sum": (([], None), []),
    "fuser.input_interpolate": (([], None), []),
    "interleave_stereo_codebooks.per_timestep": (_OFF, False),
}
_TEXT_FIXED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "finetune": (_OFF, False),
    "normalize_text": (_OFF, False),
}
_CHROMA_FIXED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "n_chroma": ((12,), None),
    "radix2_exp": ((14,), None),
    "argmax": ((True,), False),
    "winlen": ((None,), None),
    "winhop": ((None,), None),
}
# The T5s that audiocraft knows besides those of google-t5.
_FLAN = tuple(f"google/flan-t5-{size}" for size in ("small", "base", "large", "xl", "xxl"))


class _Conditioning(NamedTuple):
    """What a config says of conditions; the names are those that its conditioners have."""

    cross: tuple[str, ...]
    prefix: tuple[str, ...]
    names: Mapping[str, str]
    text: TextEncoderConfig | None
    melody: MelodyConfig | None


def read_audiocraft_lm(
    state: Mapping[str, Any], config: HydraConfig, path: Path, codec: Callable[[], Codec], progress: Progress
) -> ConvertedModel:
    """The language model that audiocraft exported with these tensors and this config, and its codec.

    The text encoder is not among the tensors and stays a name.

    Args:
        state: the tensors by name.
        config: of the run that trained it.
        path: the file, for the errors.
        codec: gives the codec of its codes.
        progress: called with (tensors done, all).

    Raises:
        InputError: a setting that our model has not, or tensors that do not fit.
    """
    _require(config, "", _FIXED)
    heard = _conditioning(config)
    tensors = ForeignTensors({_plain(name): tensor for name, tensor in state.items()})
    values: dict[str, Any] = {ours: config.get(name, default) for ours, (name, default) in _FIELDS.items()}
    values.update(cross=heard.cross, prefix=heard.prefix, mask_padded_text=False)
    values["pattern"] = pattern_name(config, values["codebooks"])
    names = {ours: name for ours, (name, _) in _FIELDS.items()}
    shape = language_model_config(values, names, len(tensors), config.where)
    stereo = bool(config.get("interleave_stereo_codebooks.use", False))
    matched = matching_codec(codec(), shape, config.where, stereo=stereo)
    modules = {ours: f"condition_provider.conditioners.{name}" for ours, name in heard.names.items()}
    projections = {ours: f"{module}.output_proj" for ours, module in modules.items()}
    if heard.melody is not None:
        tensors.skip(f"{modules[MELODY]}.chroma.spec.window")
    dims = condition_dims(shape, tensors, projections)
    pieces = tensor_pieces(shape, AUDIOCRAFT, projections)
    made = read_state(shape, dims, tensors, pieces, str(path), progress)
    return ConvertedModel(shape, made, matched, heard.text, heard.melody)


def codec_checkpoint(config: HydraConfig) -> str | None:
    """The codec that a language model was trained on, if that is one that audiocraft fetches by its name."""
    name = config.get("compression_model_checkpoint", None)
    return name if isinstance(name, str) and name.startswith("//pretrained/") else None


def _plain(name: str) -> str:
    """A tensor's name; PyTorch's own attention, which audiocraft can be set to, has one place more in it."""
    return name.replace("self_attn.mha.", "self_attn.").replace("cross_attention.mha.", "cross_attention.")


def _conditioning(config: HydraConfig) -> _Conditioning:
    """The conditions: at most one text and one melody."""
    places = {place: config.get(f"fuser.{place}", None) or [] for place in ("cross", "prepend")}
    found: dict[str, str] = {}
    text, melody = None, None
    for name in config.names("conditioners"):
        if name == "args":
            continue
        model = config.get(f"conditioners.{name}.model", None)
        ours = {"t5": TEXT, "chroma_stem": MELODY}.get(str(model))
        if ours is None or ours in found:
            raise InputError(
                f"{config.where}: conditioners.{name}.model is {model!r}; only one t5 and one chroma_stem are converted"
            )
        if sum(places[place].count(name) for place in places) != 1:
            raise InputError(f"{config.where}: {name} must stand once in fuser.cross or fuser.prepend")
        found[ours] = name
        section = f"conditioners.{name}.{model}."
        if ours == TEXT:
            text = _text(config, section)
        else:
            melody = _melody(config, section)
    known = [*places["cross"], *places["prepend"]]
    if len(known) != len(found):
        odd = next(name for name in known if name not in found.values())
        raise InputError(f"{config.where}: fuser names {odd!r}, of which there is no conditioner")
    # Whatever the order in the config, audiocraft puts the melody first.
    cross, prefix = (
        tuple(ours for ours in (MELODY, TEXT) if found.get(ours) in places[place]) for place in ("cross", "prepend")
    )
    return _Conditioning(cross, prefix, found, text, melody)


def _text(config: HydraConfig, section: str) -> TextEncoderConfig:
    _require(config, section, _TEXT_FIXED)
    name = config.get(f"{section}name", None)
    hub = hub_t5(str(name))
    if not hub.startswith("google-t5/") and hub not in _FLAN:
        raise InputError(f"{config.where}: {section}name is {name!r}, no T5 that audiocraft knows")
    return TextEncoderConfig(hub)


def _melody(config: HydraConfig, section: str) -> MelodyConfig:
    _require(config, section, _CHROMA_FIXED)
    rate, seconds = config.get("sample_rate", None), config.get("dataset.segment_duration", None)
    for name, value in (("sample_rate", rate), ("dataset.segment_duration", seconds)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise InputError(f"{config.where}: {name} is {value!r}; without it the length of a melody is not known")
    # Its windows stand in the middle of their frames, which makes one more than hops fit in.
    return MelodyConfig(frames=int(rate * seconds) // ChromaExtractor(int(rate)).hop + 1)


def _require(config: HydraConfig, section: str, fixed: Mapping[str, tuple[tuple[Any, ...], Any]]) -> None:
    """No setting says what our model has not."""
    for name, (allowed, default) in fixed.items():
        found = config.get(section + name, default)
        # 1 is True to Python.
        if not any(isinstance(found, bool) == isinstance(value, bool) and found == value for value in allowed):
            raise InputError(
                f"{config.where}: {section}{name} is {found!r}; only {' or '.join(map(repr, allowed))} is converted"
            )
