"""How much arithmetic training takes, and how much a GPU could do: what MFU, the model FLOPs utilisation, is made of.

Counted are the model's own operations alone (Chowdhery et al., 2022, arXiv 2204.02311, appendix B): 6 for a weight and
a place that it works at (2 forward, 4 backward), causal attention over the half that it sees, cross-attention over the
conditions. Not counted are embeddings, norms and softmaxes, the text encoder and the codec, and what activation
checkpointing computes twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.planning.gpus import gpu_named
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.patterns import build_pattern

COUNTING = "6 FLOPs a weight and place, causal and cross-attention"


@dataclass(frozen=True)
class Flops:
    """Floating-point operations, forward and backward, a multiplication and an addition being two.

    Attributes:
        weights: of the products with weights.
        self_attention: of queries with keys and of weights with values, as far as causality lets them see.
        cross_attention: the same with the conditions.
    """

    weights: float
    self_attention: float
    cross_attention: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.self_attention + self.cross_attention


def training_flops(
    config: LanguageModelConfig, dims: Mapping[str, int], places: Mapping[str, int], *, crops: int, frames: int
) -> Flops:
    """Counts a training step of the language model on ``crops`` crops of ``frames`` frames.

    Args:
        config: shape of the model.
        dims: width of each condition's embeddings.
        places: length of each condition: tokens of a text, chroma frames of a melody, padded ones too.
        crops: items of the batch.
        frames: of the codec, in each crop.
    """
    steps = sequence_steps(config, frames)
    length = steps + sum(places[name] for name in config.prefix)
    heard = sum(places[name] for name in config.cross)
    # A block: queries, keys, values and output of self-attention, the two of feed-forward, and where it attends to
    # conditions a query and an output more; keys and values of these are made once for each of their places.
    block = (4 + 2 * config.ff_ratio + 2 * bool(config.cross)) * config.dim**2
    weights = config.layers * (block * length + 2 * config.dim**2 * heard)
    weights += config.dim * sum(dims[name] * places[name] for name in config.conditions)
    weights += config.dim * config.codebooks * config.entries * steps
    # A pair of places costs two products of the width, each 2 operations forward and 4 backward.
    pair = 12 * config.dim * config.layers
    return Flops(6 * crops * weights, pair * crops * length * (length + 1) / 2, pair * crops * length * heard)


def sequence_steps(config: LanguageModelConfig, frames: int) -> int:
    """Steps of the pattern that a crop of ``frames`` frames is trained on."""
    return build_pattern(config.pattern, config.codebooks, config.entries).trimmed_length(frames) - 1


def peak_flops(device: str) -> float | None:
    """The dense bfloat16 peak in FLOP/s of a GPU by its driver's name; None where it is not known or has none."""
    gpu = gpu_named(device)
    return gpu.peak if gpu is not None and gpu.bfloat16 else None
