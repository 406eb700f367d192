"""Language models written as folders of transformers, which its ``from_pretrained`` and pipelines read.

The model is built by transformers and filled with our tensors: it then checks every name and shape, and writes the
names that its own releases read.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from datamodules.errors import InputError
from datamodules.features.chroma import PITCH_CLASSES, ChromaExtractor
from lightning_modules.codec.dac import DAC
from lightning_modules.codec.stereo import StereoCodec
from lightning_modules.conditioning.conditioners import MELODY, TEXT
from lightning_modules.conditioning.t5 import T5TextEncoder, load_text_encoder
from lightning_modules.conditioning.text import require_checksum
from lightning_modules.converting.codec_huggingface import to_transformers
from lightning_modules.converting.huggingface_files import HUB_NAME, silent_transformers
from lightning_modules.converting.lm_huggingface import PROJECTIONS
from lightning_modules.converting.lm_names import HUGGINGFACE, foreign_state, tensor_pieces
from lightning_modules.converting.lm_native import ConvertedModel
from lightning_modules.lm.patterns import build_pattern

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin

_SHARD = "5GB"  # what a shard takes in memory while it is written, at most
_TIED = "text_encoder.encoder.embed_tokens.weight"
# As the published models have it, but for top_k, which they leave to transformers' 50; the original draws of 250.
_GENERATION = {"guidance_scale": 3.0, "max_length": 1500, "do_sample": True, "top_k": 250}


def write_huggingface_lm(folder: str | Path, model: ConvertedModel, tell: Callable[[str], None]) -> None:
    """Writes a folder with model, generation config and processor.

    Args:
        folder: where to.
        model: what.
        tell: told what transformers does otherwise, a line each.

    Raises:
        InputError: a model that transformers does not have, or its text encoder cannot be had.
    """
    _check(model)
    encoder = model.encoder
    if encoder is None:
        assert model.text is not None, "a model without texts has been refused"
        encoder = load_text_encoder(model.text.name, trained=False)
        require_checksum(encoder, model.text)
    if encoder.ngrams:
        raise InputError(f"text.ngrams is {encoder.ngrams}: T5 of transformers hears every byte by itself")
    heard = model.state[f"projections.{TEXT}.weight"].shape[1]
    if encoder.dim != heard:
        raise InputError(f"the text encoder's width is {encoder.dim}, and the language model hears texts of {heard}")
    with silent_transformers():
        built, processor = _built(model, encoder)
        built.save_pretrained(str(folder), max_shard_size=_SHARD)
        processor.save_pretrained(str(folder))
    if model.config.mask_padded_text == bool(model.melody):
        ours, theirs = (str(value).lower() for value in (model.config.mask_padded_text, not model.melody))
        # Hidden or not, the zeros of no text give nothing to cross-attention; in a prefix they have positions.
        more = ", and where there is no text, as in one half of guidance" if model.melody else ", and only there"
        tell(
            f"mask_padded_text is {ours} here, and in transformers {theirs}: the logits differ where texts of "
            f"different lengths stand in one batch{more}"
        )


def _built(model: ConvertedModel, encoder: T5TextEncoder) -> "tuple[PreTrainedModel, ProcessorMixin]":
    from transformers import (
        GenerationConfig,
        MusicgenForConditionalGeneration,
        MusicgenMelodyForConditionalGeneration,
        MusicgenMelodyProcessor,
        MusicgenProcessor,
    )

    codec, _ = to_transformers(_mono(model))
    # Its type is taken for that of all: in half precision the language model would be rounded when it is loaded.
    text = encoder.model.float()
    kind: Any = MusicgenMelodyForConditionalGeneration if model.melody else MusicgenForConditionalGeneration
    with torch.device("meta"):
        built: PreTrainedModel = kind(_config(model, encoder, codec.config))
    state = {f"text_encoder.{name}": tensor for name, tensor in text.state_dict().items()}
    state.update({f"audio_encoder.{name}": tensor for name, tensor in codec.state_dict().items()})
    state.update(_decoder_state(model, encoder.dim))
    found = built.load_state_dict(state, assign=True, strict=False)
    assert not found.unexpected_keys, f"transformers has no {found.unexpected_keys[:3]}"
    assert set(found.missing_keys) <= {_TIED}, f"transformers has a {found.missing_keys[:3]}"
    built.tie_weights()
    special = {f"{name}_token_id": model.config.entries for name in ("decoder_start", "pad", "bos")}
    built.generation_config = GenerationConfig(**_GENERATION, **special)
    if model.melody:
        return built.eval(), MusicgenMelodyProcessor(_melody_extractor(model), encoder.tokenizer)
    from transformers import EncodecFeatureExtractor

    extractor = EncodecFeatureExtractor(model.codec.channels, model.codec.sample_rate)
    return built.eval(), MusicgenProcessor(extractor, encoder.tokenizer)


def _config(model: ConvertedModel, encoder: T5TextEncoder, codec: "PretrainedConfig") -> "PretrainedConfig":
    from transformers import MusicgenConfig, MusicgenDecoderConfig, MusicgenMelodyConfig, MusicgenMelodyDecoderConfig

    shape = model.config
    decoder: dict[str, Any] = {
        "vocab_size": shape.entries,
        "hidden_size": shape.dim,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "ffn_dim": shape.ff_ratio * shape.dim,
        "num_codebooks": shape.codebooks,
        "audio_channels": model.codec.channels,
        "activation_function": "gelu",
        "dropout": 0.0,  # theirs is 0.1 by default, and ours was trained with none
        **{f"{name}_token_id": shape.entries for name in ("decoder_start", "pad", "bos")},
    }
    text = encoder.model.config
    assert model.text is not None, "a model without texts has been refused"
    text._name_or_path = model.text.name if HUB_NAME.fullmatch(model.text.name) else ""
    parts: dict[str, Any] = {"text_encoder": text, "audio_encoder": codec}
    if model.melody:
        parts.update(num_chroma=PITCH_CLASSES, chroma_length=model.melody.frames)
        return MusicgenMelodyConfig(decoder=MusicgenMelodyDecoderConfig(**decoder), **parts)
    return MusicgenConfig(decoder=MusicgenDecoderConfig(**decoder), **parts)


def _decoder_state(model: ConvertedModel, text_dim: int) -> dict[str, torch.Tensor]:
    """Decoder and projections under transformers' names, which has no projection between equal widths.

    Raises:
        InputError: ours does something there.
    """
    dims = {name: PITCH_CLASSES if name == MELODY else text_dim for name in model.config.conditions}
    for name, dim in dims.items():
        weight, bias = (model.state[f"projections.{name}.{kind}"] for kind in ("weight", "bias"))
        if dim == model.config.dim and not (torch.equal(weight, torch.eye(dim, dtype=weight.dtype)) and not bias.any()):
            raise InputError(
                f"projections.{name}: transformers has no projection where the {name} encoder is as wide as the "
                f"language model, {dim}, and this one's is not the identity; such a model cannot be written for it"
            )
    there = {name: PROJECTIONS[name] for name, dim in dims.items() if dim != model.config.dim}
    return foreign_state(model.state, tensor_pieces(model.config, HUGGINGFACE, there))


def _melody_extractor(model: ConvertedModel) -> Any:
    from transformers import MusicgenMelodyFeatureExtractor

    assert model.melody is not None, "only a melody model hears melodies"
    chroma = ChromaExtractor(model.codec.sample_rate)
    seconds = max(1, round(model.melody.frames * chroma.hop / chroma.sample_rate))
    return MusicgenMelodyFeatureExtractor(
        sampling_rate=chroma.sample_rate, n_fft=chroma.n_fft, hop_length=chroma.hop, chunk_length=seconds
    )


def _mono(model: ConvertedModel) -> Any:
    return model.codec.mono if isinstance(model.codec, StereoCodec) else model.codec


def _check(model: ConvertedModel) -> None:
    """Transformers has such a model, but for what its parts refuse."""
    shape, text = model.config, model.text
    stereo = isinstance(model.codec, StereoCodec)
    wanted = "stereo_partial_delay" if stereo else "delay"
    pattern, theirs = (build_pattern(name, shape.codebooks) for name in (shape.pattern, wanted))
    conditions = (shape.cross, shape.prefix, shape.added)
    if (pattern.per_frame, pattern.offsets, pattern.coarse_first) != (theirs.per_frame, theirs.offsets, False):
        kind = "stereo" if stereo else "mono"
        raise InputError(f"pattern {shape.pattern!r}: MusicGen of transformers has but {wanted!r} for a {kind} codec")
    if conditions not in (((TEXT,), (), ()), ((), (MELODY, TEXT), ())):
        cross, prefix, added = map(list, conditions)
        raise InputError(
            f"cross {cross}, prefix {prefix}, added {added}: MusicGen of transformers attends to text, or has melody "
            "and text, in this order, as a prefix"
        )
    if shape.position_scale != 1:
        raise InputError(f"lm.position_scale is {shape.position_scale:g}: MusicGen of transformers has 1 only")
    if text is None or text.kind != "t5":
        raise InputError("text.kind is not t5: MusicGen of transformers is written with a T5 encoder only")
    if isinstance(_mono(model), DAC):
        raise InputError("the codec is a DAC: MusicGen of transformers is written with an EnCodec only")
    if _mono(model).channels != 1:
        raise InputError(
            f"the codec has {model.codec.channels} channels: MusicGen of transformers has stereo as two passes of a "
            "mono codec"
        )
