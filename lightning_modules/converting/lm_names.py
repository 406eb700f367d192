"""The language model under the names that others have for its tensors.

All three hold the same numbers in the same order. We have one tensor where transformers has several: the codebooks'
tables and heads, and query, key and value, lie one below the other in ours. audiocraft stacks the latter too, and those
of cross-attention all three, of which we keep the query apart.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.converting.codec_names import positive
from lightning_modules.converting.tensors import ForeignTensors
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig
from lightning_modules.lm.patterns import build_pattern

Progress = Callable[[int, int], None]
_NUMBERS = ("dim", "layers", "heads", "ff_ratio", "codebooks", "entries")


class Piece(NamedTuple):
    """Rows of a tensor of theirs.

    Attributes:
        name: what the tensor is called.
        part: which of ``of`` equal blocks of its rows.
        of: how many such blocks it has.
    """

    name: str
    part: int = 0
    of: int = 1


class Naming(NamedTuple):
    """What another code calls our tensors.

    Attributes:
        embedding: the table of codebook {}.
        heads: the head of codebook {}.
        block: what stands before a tensor of block {}.
        norm: the last norm.
        norms: a block's norms, by our names.
        weights: a block's matrices: ours -> theirs, which lie one below the other in ours.
    """

    embedding: str
    heads: str
    block: str
    norm: str
    norms: Mapping[str, str]
    weights: Mapping[str, tuple[Piece, ...]]


HUGGINGFACE = Naming(
    embedding="decoder.model.decoder.embed_tokens.{}.weight",
    heads="decoder.lm_heads.{}.weight",
    block="decoder.model.decoder.layers.{}.",
    norm="decoder.model.decoder.layer_norm",
    norms={
        "norm_self": "self_attn_layer_norm",
        "norm_cross": "encoder_attn_layer_norm",
        "norm_ff": "final_layer_norm",
    },
    weights={
        "self_attention.qkv": tuple(Piece(f"self_attn.{which}_proj.weight") for which in "qkv"),
        "self_attention.out": (Piece("self_attn.out_proj.weight"),),
        "cross_attention.query": (Piece("encoder_attn.q_proj.weight"),),
        "cross_attention.key_value": tuple(Piece(f"encoder_attn.{which}_proj.weight") for which in "kv"),
        "cross_attention.out": (Piece("encoder_attn.out_proj.weight"),),
        "ff_in": (Piece("fc1.weight"),),
        "ff_out": (Piece("fc2.weight"),),
    },
)
AUDIOCRAFT = Naming(
    embedding="emb.{}.weight",
    heads="linears.{}.weight",
    block="transformer.layers.{}.",
    norm="out_norm",
    norms={"norm_self": "norm1", "norm_cross": "norm_cross", "norm_ff": "norm2"},
    weights={
        "self_attention.qkv": (Piece("self_attn.in_proj_weight"),),
        "self_attention.out": (Piece("self_attn.out_proj.weight"),),
        "cross_attention.query": (Piece("cross_attention.in_proj_weight", 0, 3),),
        "cross_attention.key_value": tuple(Piece("cross_attention.in_proj_weight", part, 3) for part in (1, 2)),
        "cross_attention.out": (Piece("cross_attention.out_proj.weight"),),
        "ff_in": (Piece("linear1.weight"),),
        "ff_out": (Piece("linear2.weight"),),
    },
)


def tensor_pieces(
    config: LanguageModelConfig, naming: Naming, projections: Mapping[str, str]
) -> dict[str, tuple[Piece, ...]]:
    """What each of our tensors is made of, its rows from the first to the last.

    Args:
        config: the model's shape.
        naming: what the tensors are called.
        projections: what the projection of each condition is called; those that are left out are left out.
    """
    books = range(config.codebooks)
    made = {
        "embedding.weight": tuple(Piece(naming.embedding.format(k)) for k in books),
        "heads.weight": tuple(Piece(naming.heads.format(k)) for k in books),
    }
    for kind in ("weight", "bias"):
        made[f"transformer.norm.{kind}"] = (Piece(f"{naming.norm}.{kind}"),)
        made.update({f"projections.{name}.{kind}": (Piece(f"{it}.{kind}"),) for name, it in projections.items()})
    for layer in range(config.layers):
        block, theirs = f"transformer.blocks.{layer}.", naming.block.format(layer)
        for ours, name in naming.norms.items():
            made.update({f"{block}{ours}.{kind}": (Piece(f"{theirs}{name}.{kind}"),) for kind in ("weight", "bias")})
        for ours, pieces in naming.weights.items():
            made[f"{block}{ours}.weight"] = tuple(piece._replace(name=theirs + piece.name) for piece in pieces)
    if not config.cross:
        made = {name: pieces for name, pieces in made.items() if "cross" not in name}
    return made


def read_state(
    config: LanguageModelConfig,
    dims: Mapping[str, int],
    tensors: ForeignTensors,
    pieces: Mapping[str, tuple[Piece, ...]],
    where: str,
    progress: Progress = lambda done, total: None,
) -> dict[str, Tensor]:
    """Our tensors out of theirs, in the types that they are stored in.

    Nothing is read before all of them are known to be there. What need not be stacked stays in the file.

    Args:
        config: the model's shape.
        dims: width of each condition's embeddings.
        tensors: theirs.
        pieces: what ours are made of; ours that are not named are not made.
        where: what an error begins with.
        progress: called after each tensor with (done, all).

    Raises:
        InputError: a tensor of theirs is missing, unknown or of another shape.
    """
    parts: dict[str, list[Tensor]] = {}
    for ours, shape in tensor_shapes(config, dims, where).items():
        parts[ours] = []
        for name, part, of in pieces.get(ours, ()):
            rows = shape[0] // len(pieces[ours])
            whole = tensors.take(name, (rows * of, *shape[1:]), stored=True)
            parts[ours].append(whole[part * rows : (part + 1) * rows])
    tensors.finish(where)
    made = {}
    for done, ours in enumerate(list(parts), start=1):
        if stacked := parts.pop(ours):
            made[ours] = torch.cat(stacked) if len(stacked) > 1 else stacked[0]
        progress(done, done + len(parts))
    return made


def foreign_state(state: Mapping[str, Tensor], pieces: Mapping[str, tuple[Piece, ...]]) -> dict[str, Tensor]:
    """Their tensors out of ours, as views of these; for namings whose pieces are whole tensors."""
    made: dict[str, Tensor] = {}
    for ours, names in pieces.items():
        assert all(piece.of == 1 for piece in names), "a part of a tensor alone is no tensor to write"
        made.update(zip((piece.name for piece in names), state[ours].chunk(len(names)), strict=True))
    return made


def tensor_shapes(config: LanguageModelConfig, dims: Mapping[str, int], where: str) -> dict[str, tuple[int, ...]]:
    """The shapes of our tensors.

    Raises:
        InputError: no machine has room for such a model.
    """
    try:
        with torch.device("meta"):
            lm = LanguageModel(config, dims)
    except (RuntimeError, OverflowError) as error:
        raise InputError(f"{where}: not the shape of a language model: {config}") from error
    return {name: tuple(tensor.shape) for name, tensor in lm.state_dict().items()}


def language_model_config(
    values: Mapping[str, Any], names: Mapping[str, str], tensors: int, where: str
) -> LanguageModelConfig:
    """The shape of a language model from values that someone else wrote down.

    Args:
        values: fields of ``LanguageModelConfig``, and ``ff`` in place of ff_ratio, if that is what is known.
        names: what the fields are called there, for the error.
        tensors: how many the checkpoint has: there cannot be more layers.
        where: what an error begins with.

    Raises:
        InputError: a value that is none of its field's.
    """
    found = dict(values)
    for name in (name for name in (*_NUMBERS, "ff") if name in found):
        if isinstance(found[name], list) or not positive(found[name]):
            raise InputError(f"{where}: {names[name]} is {found[name]!r}, which a language model cannot have")
    scale = found.get("position_scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < inf:
        raise InputError(f"{where}: {names['position_scale']} is {scale!r}, which a language model cannot have")
    for name in ("layers", "codebooks"):
        if found[name] > tensors:
            raise InputError(f"{where}: {names[name]} is {found[name]}, and there are {tensors} tensors in all")
    if found["dim"] % found["heads"] or found["dim"] % 2 or found["dim"] < 4:
        raise InputError(
            f"{where}: {names['dim']} is {found['dim']}; wanted is an even multiple of {names['heads']}, "
            f"{found['heads']}, of 4 or more"
        )
    if "ff" in found:
        hidden = found.pop("ff")
        if hidden % found["dim"]:
            raise InputError(f"{where}: {names['ff']} is {hidden}, no multiple of {names['dim']}, {found['dim']}")
        found["ff_ratio"] = hidden // found["dim"]
    assert found.keys() <= {field.name for field in fields(LanguageModelConfig)}, "a field of its own"
    try:
        build_pattern(found["pattern"], found["codebooks"])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return LanguageModelConfig(**found)
