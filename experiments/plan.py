"""What a language-model run needs: parameters, memory, arithmetic. Estimates, and they say so."""

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_modules.lm.model import LanguageModelConfig, parameter_count
from lightning_modules.lm.patterns import build_pattern


@dataclass(frozen=True)
class Plan:
    """Figures of one run.

    Attributes:
        parameters: of the language model with the projections of its conditions.
        steps: sequence steps of one crop.
        crops: crops of an optimiser step, over all devices.
        codes: codes predicted in an optimiser step.
        state_bytes: weights, gradients, AdamW's two moments and the averaged weights in float32, a device without
            sharding.
        activation_bytes: held between forward and backward for one micro-batch, in 16 bits.
        flops: of one optimiser step, forward and backward, over all devices.
    """

    parameters: int
    steps: int
    crops: int
    codes: int
    state_bytes: int
    activation_bytes: int
    flops: float


def plan(config: LanguageModelConfig, dims: Mapping[str, int], *, frames: int, batch_size: int, crops: int) -> Plan:
    """Counts a run of ``crops`` crops of ``frames`` frames a step, ``batch_size`` of them at once on a device."""
    parameters = parameter_count(config, dims)
    steps = build_pattern(config.pattern, config.codebooks, config.entries).trimmed_length(frames) - 1
    embedding = config.codebooks * (config.entries + 1) * config.dim
    # Two operations a weight and step forwards, twice that backwards; causal attention sees half of the sequence.
    attention = 2 * 2 * config.layers * config.dim * steps / 2
    flops = 3 * crops * steps * (2 * (parameters - embedding) + attention)
    # A block keeps its inputs of norms and products: about 11 widths of attention and 2 hidden layers' worth a step.
    kept = steps * config.layers * config.dim * (11 + 2 * config.ff_ratio)
    logits = 4 * steps * config.codebooks * config.entries  # float32 logits and their gradient, in units of 2 bytes
    return Plan(
        parameters=parameters,
        steps=steps,
        crops=crops,
        codes=crops * frames * config.codebooks,
        state_bytes=parameters * 4 * 5,
        activation_bytes=batch_size * 2 * (kept + logits),
        flops=flops,
    )


def lines(figures: Plan) -> list[str]:
    """The plan in words."""
    gib = 2**30
    return [
        f"parameters    {figures.parameters:,} (language model with the projections of its conditions)",
        f"a step        {figures.crops} crops, {figures.crops * figures.steps:,} sequence steps, "
        f"{figures.codes:,} codes",
        f"memory        about {figures.state_bytes / gib:.1f} GiB of weights, gradients, moments and average, "
        f"and {figures.activation_bytes / gib:.1f} GiB of activations, a device (estimate)",
        f"arithmetic    {figures.flops / 1e12:,.0f} TFLOP a step; "
        f"{figures.flops / 4e14:,.1f} s on one GPU at 400 TFLOP/s (estimate)",
    ]
