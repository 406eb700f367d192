"""What adapters in the blocks (LoRA) take: parameters, and arithmetic beside weights that are frozen."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from experiments.flops import Flops, sequence_steps, training_flops
from lightning_modules.lm.model import LanguageModelConfig


@dataclass(frozen=True)
class Product:
    """A linear layer of a block that gets an adapter.

    Attributes:
        inputs: its width.
        outputs: its width.
        of_conditions: whether it works at the places of conditions, not of the sequence.
    """

    inputs: int
    outputs: int
    of_conditions: bool = False


def products(config: LanguageModelConfig) -> list[Product]:
    """Those of one block."""
    dim, hidden = config.dim, config.ff_ratio * config.dim
    own = [Product(dim, 3 * dim), Product(dim, dim)]
    cross = [Product(dim, dim), Product(dim, 2 * dim, of_conditions=True), Product(dim, dim)]
    return [*own, *(cross if config.cross else []), Product(dim, hidden), Product(hidden, dim)]


def adapter_parameters(config: LanguageModelConfig, rank: int) -> int:
    """Of the adapters of all blocks."""
    return rank * config.layers * sum(one.inputs + one.outputs for one in products(config))


def adapted_parameters(config: LanguageModelConfig) -> int:
    """Of the products that have adapters."""
    return config.layers * sum(one.inputs * one.outputs for one in products(config))


def adapter_flops(
    config: LanguageModelConfig,
    dims: Mapping[str, int],
    places: Mapping[str, int],
    rank: int,
    *,
    crops: int,
    frames: int,
) -> Flops:
    """Counts a training step of adapters of this rank; the arguments are those of ``training_flops``.

    Frozen weights have no gradients of their own, nor have conditions: they take 4 operations a weight and place of the
    sequence, 2 of a condition, where an adapter's take 6.
    """
    whole = training_flops(config, dims, places, crops=crops, frames=frames)
    length = sequence_steps(config, frames) + sum(places[name] for name in config.prefix)
    heard = sum(places[name] for name in config.cross)
    conditions = config.layers * 2 * config.dim**2 * heard
    conditions += config.dim * sum(dims[name] * places[name] for name in config.conditions)
    work = sum((heard if one.of_conditions else length) * (one.inputs + one.outputs) for one in products(config))
    frozen = whole.weights * 2 / 3 - 2 * crops * conditions
    return replace(whole, weights=frozen + 6 * crops * rank * config.layers * work)
