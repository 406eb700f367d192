"""Which samples are trained without which conditions, for classifier-free guidance."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from datamodules.sample_order import uniform
from lightning_modules.conditioning.conditions import Conditions


@dataclass(frozen=True)
class ConditionDropout:
    """Draws of each sample's own: functions of (seed, sample number, condition).

    audiocraft draws once a batch, alike on every rank, and cannot drop a CLAP embedding at all.

    Attributes:
        everything: probability that a sample is trained without any condition (the paper: 0.2).
        each: by condition, the probability that it goes, whatever becomes of the others.
        seed: of the draws.
    """

    everything: float
    each: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def drops(self, number: int, name: str) -> bool:
        """Whether sample ``number`` is trained without the condition ``name``."""
        everything = uniform(self.seed, number, "condition dropout") < self.everything
        return everything or uniform(self.seed, number, f"{name} dropout") < self.each.get(name, 0.0)

    def __call__(self, conditions: Conditions, numbers: Tensor) -> Conditions:
        """The conditions of samples ``numbers`` [B], null where they are dropped."""
        known = numbers.tolist()  # asks the device once
        for name in conditions.items:
            rows = torch.tensor([self.drops(number, name) for number in known], device=numbers.device)
            conditions = conditions.drop(rows, [name])
        return conditions
