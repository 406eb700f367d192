"""Language models of transformers, read: ``MusicgenForConditionalGeneration`` and its melody counterpart."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.features.chroma import PITCH_CLASSES
from lightning_modules.conditioning.conditioners import MELODY, TEXT
from lightning_modules.conditioning.melody import MelodyConfig
from lightning_modules.conditioning.t5 import T5TextEncoder
from lightning_modules.converting.codec_huggingface import encodec
from lightning_modules.converting.huggingface_files import (
    CONFIG,
    one_line,
    read_config,
    read_weights,
    silent_transformers,
)
from lightning_modules.converting.lm_names import (
    HUGGINGFACE,
    Progress,
    language_model_config,
    read_state,
    tensor_pieces,
)
from lightning_modules.converting.lm_native import ConvertedModel, matching_codec
from lightning_modules.converting.tensors import ForeignTensors
from lightning_modules.converting.text_encoders import read_text_encoder, text_encoder_config
from lightning_modules.lm.model import LanguageModelConfig

MELODY_KIND = "musicgen_melody"
PROJECTIONS = {TEXT: "enc_to_dec_proj", MELODY: "audio_enc_to_dec_proj"}
# Fields of ``LanguageModelConfig`` -> of the decoder's config.
_FIELDS = {
    "dim": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ff": "ffn_dim",
    "codebooks": "num_codebooks",
    "entries": "vocab_size",
}
_PARTS = {
    "text_encoder": ("t5",),
    "audio_encoder": ("encodec",),
    "decoder": ("musicgen_decoder", "musicgen_melody_decoder"),
}
# What the decoder's config can say besides, and the values of it that our language model is.
_FIXED: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu",),
    "tie_word_embeddings": (False,),
    "audio_channels": (1, 2),
}
# Older files hold the table of positions, which is computed.
_COMPUTED = "decoder.model.decoder.embed_positions.weights"


@dataclass(frozen=True)
class _Folder:
    """What is known of a folder before its weights are taken apart."""

    path: Path
    fields: Mapping[str, Any]
    config: Any  # MusicgenConfig or MusicgenMelodyConfig, whose parts are of no certain type
    tensors: ForeignTensors

    @property
    def where(self) -> str:
        """What an error about the config begins with."""
        return str(self.path / CONFIG)

    @property
    def melody(self) -> bool:
        """Whether it hears melodies."""
        return bool(self.fields["model_type"] == MELODY_KIND)

    @property
    def stereo(self) -> bool:
        """Whether its codes are of two channels in turn."""
        return bool(self.config.decoder.audio_channels == 2)


def read_huggingface_lm(folder: str | Path, progress: Progress) -> ConvertedModel:
    """The language model, codec and text encoder in a folder that transformers saved.

    Args:
        folder: with ``config.json``, safetensors in one file or several, and the tokenizer.
        progress: called with (tensors done, all).

    Raises:
        InputError: another model, a setting that ours has not, tensors that do not fit, or no tokenizer.
    """
    fields = read_config(folder)
    theirs = checked_config(Path(folder), fields)
    source = _Folder(Path(folder), fields, theirs, ForeignTensors(read_weights(folder)))
    config = _lm_config(source)
    audio = source.tensors.under("audio_encoder.")
    mono = encodec(fields["audio_encoder"], audio, source.path, "audio_encoder: ")
    codec = matching_codec(mono, config, source.where, stereo=source.stereo)
    encoder = read_text_encoder(theirs.text_encoder, source.tensors.under("text_encoder."), source.path)
    state = _lm_state(source, config, encoder, progress)
    text = text_encoder_config(encoder, fields["text_encoder"].get("_name_or_path"))
    melody = MelodyConfig(frames=theirs.chroma_length) if source.melody else None
    return ConvertedModel(config, state, codec, text, melody, encoder)


def checked_config(folder: Path, fields: Mapping[str, Any]) -> Any:
    """The config of a language model as transformers understands it.

    Args:
        folder: its own, for the errors.
        fields: what its ``config.json`` says.

    Raises:
        InputError: a part or a setting that our model has not.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import MusicgenConfig, MusicgenMelodyConfig

    where = folder / CONFIG
    for name, wanted in _PARTS.items():
        part = fields.get(name)
        found = part.get("model_type") if isinstance(part, Mapping) else None
        if found not in wanted:
            told = f"of model_type {found!r}" if isinstance(part, Mapping) else "missing"
            raise InputError(f"{where}: {name} is {told}; only a model with {wanted[0]} there is converted")
    kind = MusicgenMelodyConfig if fields["model_type"] == MELODY_KIND else MusicgenConfig
    try:
        with silent_transformers():
            theirs = kind.from_dict(dict(fields))
    except (StrictDataclassError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not the config of a MusicGen: {one_line(error)}") from error
    decoder: Any = theirs.decoder
    for name, allowed in {**_FIXED, "cross_attention_hidden_size": (None, decoder.hidden_size)}.items():
        value = getattr(decoder, name, allowed[0])
        if value not in allowed:
            raise InputError(
                f"{where}: decoder: {name} is {value!r}; only {' or '.join(map(repr, allowed))} is converted"
            )
    return theirs


def _lm_config(source: _Folder) -> LanguageModelConfig:
    """The shape of the language model."""
    decoder = source.config.decoder
    values: dict[str, Any] = {ours: getattr(decoder, theirs) for ours, theirs in _FIELDS.items()}
    values["pattern"] = "stereo_partial_delay" if source.stereo else "delay"
    values["cross"] = () if source.melody else (TEXT,)
    values["prefix"] = (MELODY, TEXT) if source.melody else ()
    values["mask_padded_text"] = not source.melody
    if source.melody:
        if source.config.num_chroma != PITCH_CLASSES:
            raise InputError(
                f"{source.where}: num_chroma is {source.config.num_chroma!r}; only {PITCH_CLASSES} is converted"
            )
        frames = source.config.chroma_length
        if not isinstance(frames, int) or frames < 1:
            raise InputError(f"{source.where}: chroma_length is {frames!r}, which a melody cannot have")
    return language_model_config(values, _FIELDS, len(source.tensors), f"{source.where}: decoder")


def _lm_state(
    source: _Folder, config: LanguageModelConfig, encoder: T5TextEncoder, progress: Progress
) -> dict[str, Tensor]:
    """Our tensors; where transformers has no projection, as the widths are the same, ours changes nothing."""
    tensors = source.tensors
    tensors.skip(_COMPUTED)
    dims = {name: PITCH_CLASSES if name == MELODY else encoder.dim for name in config.conditions}
    # As transformers decides; where a width of cross-attention is given, it has no projection of the text either.
    there = {name: PROJECTIONS[name] for name, dim in dims.items() if dim != config.dim}
    if getattr(source.config.decoder, "cross_attention_hidden_size", None) is not None and TEXT in there:
        raise InputError(
            f"{source.where}: decoder: cross_attention_hidden_size is {config.dim}, and the text encoder's width is "
            f"{encoder.dim}; without a projection from one to the other it cannot be converted"
        )
    pieces = tensor_pieces(config, HUGGINGFACE, there)
    state = read_state(config, dims, tensors, pieces, str(source.path), progress)
    dtype = state["heads.weight"].dtype
    for name in dims.keys() - there.keys():
        state[f"projections.{name}.weight"] = torch.eye(config.dim, dtype=dtype)
        state[f"projections.{name}.bias"] = torch.zeros(config.dim, dtype=dtype)
    return state
