"""The tensors of other people's checkpoints, each asked for by its name there, and what does not fit told by it."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from datamodules.errors import InputError

GAIN, DIRECTION = "parametrizations.weight.original0", "parametrizations.weight.original1"
# PyTorch's weight norm as its newer and as its older releases name gain and direction.
_WEIGHT_NORMS = ((GAIN, DIRECTION), ("weight_g", "weight_v"))
_STORED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_Module = TypeVar("_Module", bound=nn.Module)


class ForeignTensors:
    """The tensors of a checkpoint, taken one by one under the names they have there.

    Those that do not fit are noted, and told all at once by ``finish``; until then others stand in for them, which have
    a shape but no values.

    Args:
        state: the tensors; what else is in it is left out.
        prefix: what stands before their names in the checkpoint, for the errors.
    """

    def __init__(self, state: Mapping[str, Any], prefix: str = "") -> None:
        self._state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        self._prefix = prefix
        self._taken: set[str] = set()
        self._wrong: list[str] = []

    def __len__(self) -> int:
        return len(self._state)

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def under(self, prefix: str) -> "ForeignTensors":
        """A part of the checkpoint, whose names begin with ``prefix``; it tells what does not fit by itself."""
        part = {name.removeprefix(prefix): value for name, value in self._state.items() if name.startswith(prefix)}
        self._taken.update(prefix + name for name in part)
        return ForeignTensors(part, self._prefix + prefix)

    def skip(self, name: str) -> None:
        """Nothing is wrong with this tensor, whether it is there or not."""
        self._taken.add(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; () of one that is not there."""
        return tuple(self._state[name].shape) if name in self._state else ()

    def take(self, name: str, shape: Sequence[int], *, stored: bool = False) -> Tensor:
        """A tensor [*shape] in float32, or, ``stored``, in the floating type that it has, as it lies in the file."""
        self._taken.add(name)
        found = self._state.get(name)
        lacking = None
        if found is None:
            lacking = "is missing"
        elif found.shape != torch.Size(shape):
            lacking = f"is {list(found.shape)}, wanted {list(shape)}"
        elif stored and found.dtype not in _STORED:
            lacking = f"is of {found.dtype}, wanted floating numbers of 16 bits or more"
        if found is not None and lacking is None:
            return found.detach() if stored else found.detach().float().contiguous()
        self._wrong.append(f"{self._prefix}{name} {lacking}")
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
        unknown = [f"{self._prefix}{name} is unknown" for name in self._state if name not in self._taken]
        wrong = list(dict.fromkeys(self._wrong)) + unknown  # a tensor that is taken in parts is told once
        if wrong:
            raise InputError(f"{where}: {len(wrong)} tensors do not fit its config: {'; '.join(wrong[:3])}")


def with_state(module: _Module, state: Mapping[str, Tensor]) -> _Module:
    """The module, built without memory, with these tensors in the place of its own; in evaluation mode."""
    module.load_state_dict(dict(state), assign=True)
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())), "a tensor without values"
    return module.eval()
