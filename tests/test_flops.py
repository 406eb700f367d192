"""Counted arithmetic against torch's own counter, and peaks by the names that drivers give."""

import pytest
import tiny
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.compose import merged
from experiments.flops import peak_flops, sequence_steps, training_flops
from lightning_modules.conditioning.conditions import Condition, Conditions
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig

MELODY = {"cross": (), "prefix": ("melody", "text")}


def counted(config, dims, places, crops, frames):
    """What torch counts of a step: products as they are, attention over the whole square, not its causal half."""
    model = LanguageModel(config, dims)
    # Gradients of all inputs, as the convention of 6 operations has it: a frozen encoder saves its projection a third.
    items = {
        name: Condition(torch.randn(crops, places[name], dims[name], requires_grad=True),
                        torch.ones(crops, places[name], dtype=torch.bool))
        for name in config.conditions
    }  # fmt: skip
    codes = tiny.codes(crops, frames, config.codebooks, config.entries)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        logits, _ = model.teacher_forced(codes, Conditions(items))
        logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("shape", [{}, MELODY, {"pattern": "flatten"}, {"ff_ratio": 2, "codebooks": 8}])
@pytest.mark.parametrize(("frames", "words"), [(60, 9), (12, 40)])
def test_a_step_of_nano_is_what_torch_counts(shape, frames, words):
    nano = merged(["size/nano"])["model"]["init_args"]["lm"]
    config = LanguageModelConfig(**{**nano, "entries": 64, **shape})
    dims = {name: {"text": 24, "melody": 12}[name] for name in config.conditions}
    places = {name: {"text": words, "melody": 7}[name] for name in config.conditions}
    ours = training_flops(config, dims, places, crops=3, frames=frames)
    length = sequence_steps(config, frames) + sum(places[name] for name in config.prefix)
    square = ours.self_attention * 2 * length / (length + 1)
    theirs = counted(config, dims, places, 3, frames)
    assert ours.weights + square + ours.cross_attention == pytest.approx(theirs, rel=1e-6)
    assert (ours.cross_attention == 0) == (not config.cross)


def test_small_is_six_times_its_weights_and_attention():
    config = LanguageModelConfig()
    ours = training_flops(config, {"text": 768}, {"text": 1500}, crops=1, frames=1500)
    # As many words as steps, so that every weight works at every place: 6 N S, and 6 S^2 D a layer of causal attention.
    weights = 420_371_456 - 4 * 2049 * 1024 - 24 * 3 * 2 * 1024 - 2 * 1024 - 1024  # without embeddings, norms, bias
    assert ours.weights == 6 * weights * 1500
    assert ours.self_attention == pytest.approx(6 * 24 * 1024 * 1500**2, rel=1e-3)
    assert ours.cross_attention == 12 * 24 * 1024 * 1500**2


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 NVL", 835.5), ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5), ("NVIDIA B200", 2250), ("NVIDIA GB200", 2250), ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA H20", 148), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A10G", 70), ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362), ("NVIDIA L40", 181), ("NVIDIA L4", 121), ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 364.2), ("NVIDIA GeForce RTX 3090 Ti", 80), ("AMD Instinct MI300X", 1307.4),
        ("Tesla T4", None), ("Tesla V100-SXM2-16GB", None), ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4070", None), ("NVIDIA A1000", None),
    ],
)  # fmt: skip
def test_peaks_by_name(name, tera):
    assert peak_flops(name) == (None if tera is None else tera * 1e12)
