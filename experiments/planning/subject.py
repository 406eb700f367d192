"""What is trained: everything that a plan counts from, out of a composed recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from datamodules.errors import InputError
from datamodules.features.chroma import PITCH_CLASSES
from datamodules.hub import local_first
from experiments.compose import merged
from experiments.flops import Flops, sequence_steps, training_flops
from experiments.planning.adapters import adapted_parameters, adapter_flops, adapter_parameters
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.folder import load_codec
from lightning_modules.conditioning.conditioners import MELODY, TEXT
from lightning_modules.conditioning.t5 import fresh_byte_encoder
from lightning_modules.conditioning.text import BYTES, TextEncoderConfig
from lightning_modules.lm.adapters import AdapterConfig
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig

# Bytes of what is kept for the way back, by the run's precision; weights are in float32 in each of them.
PRECISIONS = {"bf16-mixed": 2, "16-mixed": 2, "32-true": 4}
_FLOAT = 4


@dataclass(frozen=True)
class Encoder:
    """A text encoder from outside.

    Attributes:
        dim: width of its embeddings.
        parameters: of the encoder, without a decoder.
        tokens: length to which the longest text of a batch is assumed to be padded.
        trained: whether it learns along.
        layers: of it, where it is a T5.
        heads: attention heads, where it is a T5.
        linear: parameters of its products.
    """

    dim: int
    parameters: int
    tokens: int
    trained: bool = False
    layers: int = 0
    heads: int = 0
    linear: int = 0


# About as many places as a caption of MusicCaps takes.
_T5_TOKENS = 64
_BYTE_TOKENS = 256
# The pretrained ones that are layers of conditioning/.
PRETRAINED = {
    "google-t5/t5-base": Encoder(768, 109_628_544, _T5_TOKENS, layers=12, heads=12, linear=84_934_656),
    "google/flan-t5-base": Encoder(768, 109_628_544, _T5_TOKENS, layers=12, heads=12, linear=84_934_656),
    "laion/larger_clap_music": Encoder(
        512, 125_302_016, 1
    ),  # its text half; the other one is loaded along and not counted
}


@dataclass(frozen=True)
class CodecFacts:
    """What a plan needs to know of a codec: its size, and the codes that it makes; no checksum without weights."""

    name: str
    parameters: int
    codebooks: int
    entries: int
    frame_rate: float
    checksum: str = ""


@dataclass(frozen=True)
class Subject:
    """A language model in training.

    Attributes:
        lm: its shape.
        text: its text encoder; None for a model that hears no texts.
        text_name: which that is.
        codec: whose codes it learns.
        dims: width of each condition's embeddings.
        places: length of each condition.
        frames: of a crop.
        precision: as Lightning calls it.
        algorithm: optimiser.
        max_steps: optimiser steps of the run.
        lora: rank of the adapters that are trained in place of the model; 0 for none.
        compiled: whether blocks are.
    """

    lm: LanguageModelConfig
    text: Encoder | None
    text_name: str
    codec: CodecFacts
    dims: Mapping[str, int]
    places: Mapping[str, int]
    frames: int
    precision: str
    algorithm: str
    max_steps: int
    lora: int = 0
    compiled: bool = False

    @property
    def steps(self) -> int:
        """Sequence steps of a crop."""
        return sequence_steps(self.lm, self.frames)

    @cached_property
    def counts(self) -> "Counts":
        """Parameters by what becomes of them."""
        with torch.device("meta"):
            model = LanguageModel(self.lm, self.dims)
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        along = self.text if self.text is not None and self.text.trained else None
        adapters = adapter_parameters(self.lm, self.lora)
        beside = adapted_parameters(self.lm) if self.lora else 0
        copied = adapters or _linear(model.projections) + (along.linear if along else 0)
        if self.compiled and not (self.lora and self._held == 2):
            copied += _linear(model.transformer)
        block = sum(parameter.numel() for parameter in model.transformer.blocks[0].parameters())
        return Counts(
            lm=sum(sizes.values()),
            projections=sum(size for name, size in sizes.items() if name.startswith("projections.")),
            text_encoder=self.text.parameters if self.text else 0,
            codec=self.codec.parameters,
            trained=adapters or sum(sizes.values()) + (along.parameters if along else 0),
            linear=copied,
            block=block,
            beside=beside,
        )

    @property
    def frozen(self) -> int:
        """Bytes of the language model's weights that are not trained: where there are adapters, all."""
        if not self.lora:
            return 0
        return _FLOAT * (self.counts.lm - self.counts.beside) + self._held * self.counts.beside

    def flops(self, crops: int) -> Flops:
        """Of ``crops`` crops, forward and backward."""
        sizes = {"crops": crops, "frames": self.frames}
        if self.lora:
            return adapter_flops(self.lm, self.dims, self.places, self.lora, **sizes)
        return training_flops(self.lm, self.dims, self.places, **sizes)

    @property
    def _held(self) -> int:
        """Bytes of a frozen weight beside adapters."""
        return 2 if self.precision == "bf16-mixed" else _FLOAT


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters.

    Attributes:
        lm: language model with the projections of its conditions, as published sizes are counted.
        projections: these alone.
        text_encoder: the text encoder, frozen or not.
        codec: the codec.
        trained: what has gradients, optimiser state and an average.
        linear: of the products whose weights mixed precision keeps 16-bit copies of: adapters, or projections and a
            text encoder that learns along. Heads make theirs again (``lightning_modules.lm.linear``), and so do blocks,
            but the compiler, which finds the same twice, keeps one.
        block: one block.
        beside: of the products beside adapters, which are frozen; none without adapters.
    """

    lm: int
    projections: int
    text_encoder: int
    codec: int
    trained: int
    linear: int
    block: int
    beside: int = 0


def subject(recipe: Mapping[str, Any], codec: CodecFacts) -> Subject:
    """What a recipe of layers trains on a codec's codes.

    Raises:
        InputError: it names no text encoder, a precision, encoder or size that nothing here can count, or adapters that
            cannot be trained so.
    """
    model, data, trainer = recipe["model"]["init_args"], recipe["data"]["init_args"], recipe["trainer"]
    shape = LanguageModelConfig(**{**model["lm"], "codebooks": codec.codebooks, "entries": codec.entries})
    if model.get("text") is None:
        raise InputError("no text encoder was chosen; TEXT= names one: t5, flan_t5, clap, bytes (melody comes on top)")
    text = TextEncoderConfig(**model["text"])
    lora = _rank(model, trainer)
    encoder = _encoder(text)
    if lora:  # which leave everything else frozen
        encoder = replace(encoder, trained=False)
    melody = model.get("melody") or {}
    heard = round(melody.get("frames", 0) * (melody.get("spread") or 1))
    dims, places = {TEXT: encoder.dim, MELODY: PITCH_CLASSES}, {TEXT: encoder.tokens, MELODY: heard}
    precision = str(trainer.get("precision", "32-true"))
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r}: no plan is made for it; choose {', '.join(PRECISIONS)}")
    return Subject(
        lm=shape,
        text=encoder,
        text_name=text.name,
        codec=codec,
        dims={name: dims[name] for name in shape.conditions},
        places={name: places[name] for name in shape.conditions},
        frames=round(data["seconds"] * codec.frame_rate),
        precision=precision,
        algorithm=model["optim"].get("algorithm", "adamw"),
        max_steps=trainer["max_steps"],
        lora=lora,
        compiled=bool(model.get("compiled", False)),
    )


def _rank(model: Mapping[str, Any], trainer: Mapping[str, Any]) -> int:
    """Of the adapters; 0 without."""
    if not model.get("lora"):
        return 0
    rank = AdapterConfig(**model["lora"]).rank
    if rank < 1:
        raise InputError(f"lora: rank {rank}; give 1 or more, 16 say")
    if model["optim"].get("algorithm") == "dadaptation":
        raise InputError("lora: D-Adaptation was made for whole models, and is not tried with adapters; take AdamW")
    strategy = trainer.get("strategy", "auto")
    if isinstance(strategy, Mapping) and str(strategy.get("class_path")).endswith("ShardedStrategy"):
        raise InputError("lora: adapters and the weights beside them are not sharded; take cluster/gpus")
    return rank


def codec_facts(codec: str) -> CodecFacts:
    """Of a codec folder, or of "embedded".

    Raises:
        InputError: no such folder, no codec, or weights that do not fit its config.
    """
    return _facts(codec, load_codec(codec))


def codec_layer_facts(name: str) -> CodecFacts:
    """Of a layer of codec/, a shape without weights."""
    shape = merged([f"codec/{name}"])["model"]["init_args"]["codec"]
    with torch.device("meta"):
        return _facts(name, EnCodec(CodecConfig(**shape)))


def _facts(name: str, codec: Codec) -> CodecFacts:
    return CodecFacts(name, _size(codec), codec.codebooks, codec.entries, codec.frame_rate, codec.checksum)


def _encoder(text: TextEncoderConfig) -> Encoder:
    if text.name == BYTES:
        with torch.device("meta"):
            built = fresh_byte_encoder(text)
        return Encoder(text.dim, _size(built), _BYTE_TOKENS, True, text.layers, text.heads, _linear(built))
    return replace(PRETRAINED.get(text.name) or _from_config(text), trained=text.train)


def _from_config(text: TextEncoderConfig) -> Encoder:
    """Another T5, by the config that it came with; nothing but that is fetched."""
    from transformers import AutoConfig, T5EncoderModel

    if text.kind != "t5":
        raise InputError(f"text encoder {text.name}: no plan is made for it; choose {', '.join(PRETRAINED)} or a T5")
    shape = local_first(
        lambda name, local: AutoConfig.from_pretrained(name, local_files_only=local),
        text.name,
        "the text encoder",
        "choose TEXT=bytes",
    )
    with torch.device("meta"):
        built = T5EncoderModel(shape)
    return Encoder(shape.d_model, _size(built), _T5_TOKENS, False, shape.num_layers, shape.num_heads, _linear(built))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _linear(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))
