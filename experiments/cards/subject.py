"""What an exported folder holds: the parts of a language model or a codec, in words and numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule
from safetensors import safe_open
from torch import nn

from lightning_modules.checkpoints import Description, describe
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.folder import load_codec
from lightning_modules.codec.training import CodecTraining
from lightning_modules.conditioning.conditioners import MELODY, TEXT
from lightning_modules.generation.model import trained_window
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.model_folders import CONFIG, WEIGHTS, file_checksum

LANGUAGE_MODEL, CODEC = "language_model", "codec"
_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Part:
    """A part of a model: its name, what it is, and how many parameters it has."""

    name: str
    what: str
    parameters: int


@dataclass(frozen=True)
class Subject:
    """A model folder.

    Attributes:
        kind: "language_model" or "codec".
        checksum: sha256 of its weights file.
        stored: type and megabytes of that file.
        parts: what it is made of.
        codec: itself, or the codec that comes along with it.
        hears: conditions of a language model: "text", "melody".
        window: seconds that a language model draws at once; None where that is not known.
        about: everything that its config says.
    """

    kind: str
    checksum: str
    stored: str
    parts: list[Part]
    codec: Codec
    hears: tuple[str, ...]
    window: float | None
    about: Mapping[str, Any]


def read_subject(folder: Path, module: LightningModule) -> Subject | None:
    """Looks into a folder that a training has just exported; None where it is of a kind that no card is written for.

    Args:
        folder: the folder.
        module: the training; of its text encoder, which may not be in the folder, parameters are counted.
    """
    if not isinstance(module, LanguageModelTraining | CodecTraining):
        return None
    about = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    types, count = _tensors(folder / WEIGHTS)
    stored = f"{types}, {(folder / WEIGHTS).stat().st_size / 1e6:,.1f} MB"
    checksum = file_checksum(folder / WEIGHTS)
    if isinstance(module, CodecTraining):
        codec = load_codec(folder)
        return Subject(CODEC, checksum, stored, _codec_parts(codec), codec, (), None, about)
    found, codec = describe(folder), load_codec(folder / "codec")
    parts = [Part("language model", _shape(found), count)]
    if found.text is not None:
        where = "" if found.text_encoder else ", not in this folder"
        encoder = module.conditioners.text
        assert encoder is not None, "a model that hears texts has an encoder of them"
        groups = f", groups of them by {encoder.ngrams:,} hashes" if getattr(encoder, "ngrams", 0) else ""
        parts.append(Part("text encoder", f"{found.text.name}{groups}{where}", _count(encoder)))
    parts.append(Part("codec", codec_words(codec), _count(codec)))
    window = trained_window(found.about, found.melody, codec.sample_rate)
    return Subject(LANGUAGE_MODEL, checksum, stored, parts, codec, tuple(found.lm.conditions), window, about)


def codec_words(codec: Codec) -> str:
    """Rate, channels and codes."""
    return (
        f"{channels_word(codec)} at {codec.sample_rate:,} Hz, {codec.codebooks} codebooks of {codec.entries:,} "
        f"entries, {codec.frame_rate:g} frames a second, {codec.bitrate / 1000:.3g} kbit/s"
    )


def channels_word(codec: Codec) -> str:
    """Mono, stereo, or how many."""
    return {1: "mono", 2: "stereo"}.get(codec.channels, f"{codec.channels} channels")


def _shape(found: Description) -> str:
    names = {TEXT: "texts", MELODY: "melodies"}
    heard = [
        f"{' and '.join(names.get(one, one) for one in some)} {how}"
        for some, how in (
            (found.lm.cross, "by cross-attention"),
            (found.lm.prefix, "before the sequence"),
            (found.lm.added, "added to the steps"),
        )
        if some
    ]
    shape = f"{found.lm.layers} blocks, {found.lm.dim} wide, {found.lm.heads} heads, pattern {found.lm.pattern}"
    quiet = [] if found.lm.position_scale == 1 else [f"positions times {found.lm.position_scale:g}"]
    return "; ".join([shape, *quiet, *heard])


def _codec_parts(codec: Codec) -> list[Part]:
    if not isinstance(codec, EnCodec):
        return [Part("codec", codec_words(codec), _count(codec))]
    latents = f"{codec.config.dim} wide"
    books = Part("codebooks", f"{latents}; values that no gradient trains", _values(codec))
    encoder = Part("encoder", f"audio to latents, {latents}", _count(codec.encoder))
    return [encoder, books, Part("decoder", "latents to audio", _count(codec.decoder))]


def _values(codec: EnCodec) -> int:
    return codec.codebooks * codec.entries * codec.config.dim


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _tensors(path: Path) -> tuple[str, int]:
    """Types of the weights in a file, and how many numbers stand in it; none is read."""
    with safe_open(path, "pt") as file:
        tensors = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 - it is no mapping
        found = {tensor.get_dtype() for tensor in tensors}
        types = " and ".join(name for key, name in _TYPES.items() if key in found)
        return types, sum(prod(tensor.get_shape()) for tensor in tensors)
