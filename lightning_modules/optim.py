"""The optimiser and its schedule (MusicGen, section 3.1: AdamW, linear warm-up, cosine decay)."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up and cosine decay; the defaults are the paper's.

    Attributes:
        lr: peak learning rate.
        betas: AdamW's moment decays.
        weight_decay: decoupled weight decay.
        warmup_steps: optimiser steps of linear warm-up from zero.
        min_lr_ratio: the cosine ends at this share of the peak.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    warmup_steps: int = 4000
    min_lr_ratio: float = 0.0


def learning_rate_factor(step: int, config: OptimConfig, max_steps: int) -> float:
    """Share of the peak learning rate at optimiser step ``step`` (counted from 0) of ``max_steps``.

    A run shorter than twice its warm-up warms up for a tenth of it instead: a rehearsal would otherwise never leave the
    ramp.
    """
    warmup = config.warmup_steps if config.warmup_steps * 2 <= max_steps else max(1, max_steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, max_steps - warmup))
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * 0.5 * (1 + cos(pi * progress))


def adamw(parameters: Iterable[nn.Parameter], config: OptimConfig, max_steps: int) -> Any:
    """What ``configure_optimizers`` returns: AdamW on all parameters, its schedule advanced at every optimiser step."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config, max_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
