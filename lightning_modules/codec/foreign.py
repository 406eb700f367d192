"""EnCodec under the names that others have for its settings and tensors.

An EnCodec of transformers, one of audiocraft and ours are the same modules in the same places: what differs is what
they are called, and how the weight norm of a convolution is written down.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from datamodules.errors import InputError
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.quantizer import Codebook

GAIN, DIRECTION = "parametrizations.weight.original0", "parametrizations.weight.original1"
# PyTorch's weight norm as its newer and as its older releases name gain and direction.
_WEIGHT_NORMS = ((GAIN, DIRECTION), ("weight_g", "weight_v"))
_CODEBOOK = {"entries": "embed", "size": "cluster_size", "total": "embed_avg"}
_MAY_BE_NONE = ("lstm_layers", "residual_units")
_Module = TypeVar("_Module", bound=nn.Module)


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


class ForeignTensors:
    """The tensors of a checkpoint, taken one by one under the names they have there.

    Those that do not fit are noted, and told all at once by ``finish``; until then others stand in for them, which have
    a shape but no values.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        self._taken: set[str] = set()
        self._wrong: list[str] = []

    def take(self, name: str, shape: Sequence[int]) -> Tensor:
        """A tensor [*shape] in float32."""
        self._taken.add(name)
        found = self._state.get(name)
        if found is not None and found.shape == torch.Size(shape):
            return found.detach().float().contiguous()
        lacking = "is missing" if found is None else f"is {list(found.shape)}, wanted {list(shape)}"
        self._wrong.append(f"{name} {lacking}")
        return torch.empty(*shape, device="meta")

    def normed(self, place: str, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Gain [first, 1, 1] and direction [*shape] of a convolution; of a folded one the norm and the weight itself.

        The first dimension is that of the outputs, and in a transposed convolution that of the inputs.
        """
        for gain, direction in _WEIGHT_NORMS:
            if f"{place}.{gain}" in self._state or f"{place}.{direction}" in self._state:
                norms = self.take(f"{place}.{gain}", (shape[0], 1, 1))
                return norms, self.take(f"{place}.{direction}", shape)
        weight = self.take(f"{place}.weight", shape)
        norms = weight.flatten(1).norm(dim=1)[:, None, None]
        # A weight of zeros has no direction, and any will do: zero times zero over zero would be no number.
        return norms, torch.where(norms > 0, weight, 1.0)

    def folded(self, place: str, shape: Sequence[int]) -> Tensor:
        """The weight [*shape] at a place, made of gain and direction if that is how it is stored."""
        if f"{place}.weight" in self._state or not any(f"{place}.{gain}" in self._state for gain, _ in _WEIGHT_NORMS):
            return self.take(f"{place}.weight", shape)
        norms, direction = self.normed(place, shape)
        return norms * direction / direction.flatten(1).norm(dim=1)[:, None, None]

    def finish(self, where: str) -> None:
        """Says what did not fit.

        Raises:
            InputError: a tensor was missing or of another shape, or one was never asked for.
        """
        wrong = self._wrong + [f"{name} is unknown" for name in self._state if name not in self._taken]
        if wrong:
            raise InputError(f"{where}: {len(wrong)} tensors do not fit its config: {'; '.join(wrong[:3])}")


def read_encodec(config: CodecConfig, state: Mapping[str, Any], naming: Naming, where: str) -> EnCodec:
    """An EnCodec of this shape with tensors that are called otherwise.

    Args:
        config: the shape.
        state: the tensors.
        naming: what they are called.
        where: what an error begins with.

    Raises:
        InputError: a tensor is missing, unknown or of another shape; told under its name in ``state``.
    """
    # Nothing is drawn for weights that are about to be replaced, and no memory taken for a shape that is nonsense.
    with torch.device("meta"):
        codec = EnCodec(config)
    tensors = ForeignTensors(state)
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


def with_state(module: _Module, state: Mapping[str, Tensor]) -> _Module:
    """The module, built without memory, with these tensors in the place of its own; in evaluation mode."""
    module.load_state_dict(dict(state), assign=True)
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())), "a tensor without values"
    return module.eval()


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
