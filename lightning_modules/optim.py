"""The optimiser and its schedule (MusicGen, section 3.1: AdamW or D-Adaptation, linear warm-up, cosine decay)."""

from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from math import cos, pi
from typing import Any, Literal

import torch
from torch import nn

from datamodules.errors import InputError


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser with warm-up and cosine decay; the defaults are the paper's.

    Attributes:
        lr: peak learning rate; with D-Adaptation what its own is multiplied by at the peak, 1 as a rule.
        betas: the moments' decays.
        weight_decay: decoupled weight decay, of all parameters.
        warmup_steps: optimiser steps of linear warm-up from zero.
        min_lr_ratio: the cosine ends at this share of the peak.
        algorithm: "adamw", or "dadaptation": Adam that finds its learning rate itself (Defazio and Mishchenko, 2023,
            arXiv 2301.07733), the paper's for 300M. It looks at all parameters together, so they must not be sharded.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    warmup_steps: int = 4000
    min_lr_ratio: float = 0.0
    algorithm: Literal["adamw", "dadaptation"] = "adamw"


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


def scheduled(parameters: Iterable[nn.Parameter], config: OptimConfig, max_steps: int) -> Any:
    """What ``configure_optimizers`` returns: an optimiser of all parameters, its schedule advanced at every step of it.

    Raises:
        InputError: D-Adaptation's package is not installed.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    make = _dadaptation if config.algorithm == "dadaptation" else torch.optim.AdamW
    optimizer = make(trained, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config, max_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _dadaptation(parameters: list[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    try:
        from dadaptation import DAdaptAdam
    except ImportError as error:
        raise InputError("D-Adaptation wants a package that is not installed: pip install dadaptation") from error
    with redirect_stdout(StringIO()):  # it prints that weight decay is decoupled
        made: torch.optim.Optimizer = DAdaptAdam(parameters, decouple=True, **options)
    return made
