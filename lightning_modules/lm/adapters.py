"""Low-rank adapters (LoRA; Hu et al., 2021, arXiv 2106.09685) in the blocks of a language model, with ``peft``.

Every linear layer of the blocks gets a product of two small matrices beside it, W x + (alpha / rank) B A x, which
learns while W and all else stays. B begins as zero: an adapted model begins as the model itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from datamodules.errors import InputError
from lightning_modules.lm.model import LanguageModel

if TYPE_CHECKING:
    from peft.tuners.lora import Linear as AdaptedLinear

# The linear layers of a block by their names in it.
LAYERS = ("qkv", "out", "query", "key_value", "ff_in", "ff_out")
_NAME = "default"  # of the one adapter that each of them has, as peft calls it


@dataclass(frozen=True)
class AdapterConfig:
    """Shape of the adapters.

    Attributes:
        rank: of the product; 1 or more.
        alpha: the product is multiplied by alpha / rank, so that other ranks do with the same learning rate.
    """

    rank: int = 16
    alpha: float = 32.0


def adapt(lm: LanguageModel, config: AdapterConfig) -> None:
    """Puts adapters, in float32, into the blocks' linear layers, and freezes everything else.

    Raises:
        InputError: the rank is below 1, alpha is not above 0, or ``peft`` is not installed.
    """
    if config.rank < 1 or not config.alpha > 0:
        raise InputError(
            f"lora: rank {config.rank} and alpha {config.alpha:g}; give a rank of 1 or more, alpha above 0"
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise InputError("LoRA wants a package that is not installed: pip install peft") from error
    lm.requires_grad_(False)
    shape = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(LAYERS))  # type: ignore[arg-type]
    inject_adapter_in_model(shape, lm.transformer, _NAME)
    for _, layer in adapted(lm):
        # Else it would make a copy of each input in float32, which mixed precision takes back to 16 bits.
        layer.cast_input_dtype_enabled = False


def adapted(lm: LanguageModel) -> Iterator[tuple[str, "AdaptedLinear"]]:
    """The layers that have adapters, by their names in the language model."""
    for name, module in lm.named_modules():
        if name.startswith("transformer.") and hasattr(module, "base_layer"):
            yield name, module


def hold_in_bfloat16(lm: LanguageModel) -> None:
    """Holds the frozen weights beside adapters in bfloat16, in which mixed precision multiplies them anyway."""
    for _, layer in adapted(lm):
        layer.base_layer.to(torch.bfloat16)


@torch.no_grad()
def merged(lm: LanguageModel, base: LanguageModel) -> LanguageModel:
    """The base with the adapters' products added to its weights, in float32: a model like any other.

    Args:
        lm: has the adapters; stays as it is, for a merge in place could not be undone but for rounding.
        base: what it was before ``adapt``, in float32; its weights are those that are added to.

    Returns:
        ``base``.
    """
    for name, layer in adapted(lm):
        linear = base.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        delta: Tensor = layer.get_delta_weight(_NAME)
        linear.weight = nn.Parameter(linear.weight + delta.float().to(linear.weight.device))
    return base


def keep_out_of_checkpoints(module: nn.Module) -> None:
    """Leaves frozen parameters out of the module's state dict, and does not miss them in one that is loaded."""

    def frozen() -> set[str]:
        # Under all names: a text encoder has its embedding under two.
        named = module.named_parameters(remove_duplicate=False)
        return {name for name, parameter in named if not parameter.requires_grad}

    def leave_out(_: nn.Module, state: dict[str, Any], prefix: str, __: dict[str, Any]) -> None:
        for name in frozen():
            state.pop(prefix + name, None)

    def do_without(_: nn.Module, keys: Any) -> None:
        keys.missing_keys[:] = [name for name in keys.missing_keys if name not in frozen()]

    module.register_state_dict_post_hook(leave_out)
    module.register_load_state_dict_post_hook(do_without)


class BaseChecksum(nn.Module):
    """Checksum of the weights that adapters were trained beside, in every checkpoint of them.

    Args:
        checksum: sha256 in hexadecimal.
        folder: whose, for the error.
    """

    def __init__(self, checksum: str, folder: str) -> None:
        super().__init__()
        self.checksum, self.folder = checksum, folder

    def get_extra_state(self) -> Tensor:
        """The checksum's bytes."""
        return torch.frombuffer(bytearray.fromhex(self.checksum), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Compares.

        Raises:
            InputError: the adapters of the checkpoint were trained beside other weights.
        """
        found = bytes(state.tolist()).hex()
        if found != self.checksum:
            raise InputError(
                f"{self.folder}: its weights have changed since this run began (checksum {self.checksum[:12]}, not "
                f"{found[:12]}), and adapters are worth nothing beside others; put the old ones back"
            )
