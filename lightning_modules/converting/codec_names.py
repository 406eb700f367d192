"""EnCodec under the names that others have for its settings and tensors.

An EnCodec of transformers, one of audiocraft and ours are the same modules in the same places: what differs is what
they are called, and how the weight norm of a convolution is written down.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.errors import InputError
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.quantizer import Codebook
from lightning_modules.converting.tensors import DIRECTION, GAIN, ForeignTensors, with_state

_CODEBOOK = {"entries": "embed", "size": "cluster_size", "total": "embed_avg"}
_MAY_BE_NONE = ("lstm_layers", "residual_units")


class Naming(NamedTuple):
    """What another code calls the places of our tensors.

    Attributes:
        layers: what stands before the index of a layer of encoder and decoder.
        convolution: the convolution within such a layer, ``conv`` with us.
        transposed: the same of a transposed one.
        codebook: the k-th codebook, which holds embed, cluster_size, embed_avg and inited.
    """

    layers: str
    convolution: str
    transposed: str
    codebook: str


HUGGINGFACE = Naming("layers", "conv", "conv", "quantizer.layers.{}.codebook")
AUDIOCRAFT = Naming("model", "conv.conv", "convtr.convtr", "quantizer.vq.layers.{}._codebook")


def read_encodec(config: CodecConfig, tensors: ForeignTensors, naming: Naming, where: str) -> EnCodec:
    """An EnCodec of this shape with tensors that are called otherwise.

    Args:
        config: the shape.
        tensors: the checkpoint's, none but the codec's.
        naming: what they are called.
        where: what an error begins with.

    Raises:
        InputError: a tensor is missing, unknown or of another shape; told under its name there.
    """
    # Nothing is drawn for weights that are about to be replaced, and no memory taken for a shape that is nonsense.
    with torch.device("meta"):
        codec = EnCodec(config)
    shapes = {name: tensor.shape for name, tensor in codec.state_dict().items()}
    made: dict[str, Tensor] = {}
    for ours, theirs in tensor_names(codec, naming).items():
        if ours.endswith(GAIN):
            place = theirs.removesuffix("." + GAIN)
            direction = ours.removesuffix(GAIN) + DIRECTION
            made[ours], made[direction] = tensors.normed(place, shapes[direction])
        elif ours not in made:
            made[ours] = tensors.take(theirs, shapes[ours])
    inited = [tensors.take(f"{naming.codebook.format(k)}.inited", (1,)) for k in range(config.codebooks)]
    tensors.finish(where)
    made["quantizer.initialised"] = torch.cat(inited).bool().all()
    return with_state(codec, made)


def encodec_state(codec: EnCodec, naming: Naming) -> dict[str, Tensor]:
    """The tensors of an EnCodec under another naming, weight norm as PyTorch names it now."""
    state = codec.state_dict()
    inited = state["quantizer.initialised"].float()[None]
    made = {theirs: state[ours] for ours, theirs in tensor_names(codec, naming).items()}
    made.update({f"{naming.codebook.format(k)}.inited": inited for k in range(codec.codebooks)})
    return made


def tensor_names(codec: EnCodec, naming: Naming) -> dict[str, str]:
    """Our name -> theirs, of every tensor but ``quantizer.initialised``, for which they have one a codebook."""
    names = {}
    for place, module in codec.named_modules():
        part, _, rest = place.partition(".")
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            inner = naming.transposed if isinstance(module, nn.ConvTranspose1d) else naming.convolution
            theirs = f"{part}.{naming.layers}.{rest.removesuffix('conv')}{inner}"
            names.update({f"{place}.{name}": f"{theirs}.{name}" for name in (GAIN, DIRECTION, "bias")})
        elif isinstance(module, nn.LSTM):
            theirs = f"{part}.{naming.layers}.{rest}"
            names.update({f"{place}.{name}": f"{theirs}.{name}" for name, _ in module.named_parameters()})
        elif isinstance(module, Codebook):
            theirs = naming.codebook.format(place.rpartition(".")[2])
            names.update({f"{place}.{ours}": f"{theirs}.{name}" for ours, name in _CODEBOOK.items()})
    return names


def codec_config(values: Mapping[str, Any], names: Mapping[str, str], where: str) -> CodecConfig:
    """The shape of an EnCodec from values that someone else wrote down.

    Args:
        values: of every field of ``CodecConfig``.
        names: what the fields are called there, for the error.
        where: what an error begins with.

    Raises:
        InputError: a value that is none of its field's.
    """
    for field in fields(CodecConfig):
        value = values[field.name]
        if field.name == "ratios":
            good = isinstance(value, list | tuple) and positive(value)
        elif field.name == "pad_mode":
            good = value in ("reflect", "constant")
        elif isinstance(field.default, bool):
            good = isinstance(value, bool)
        else:
            least = 0 if field.name in _MAY_BE_NONE else 1
            good = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if not good:
            raise InputError(f"{where}: {names[field.name]} is {value!r}, which this codec cannot be")
    return CodecConfig(**{**values, "ratios": tuple(values["ratios"])})


def positive(value: Any) -> bool:
    """Whether a value is a whole number above zero, or one or more of them in a list."""
    if isinstance(value, list | tuple):
        return len(value) > 0 and all(isinstance(item, int) and positive(item) for item in value)
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
