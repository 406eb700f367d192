"""Scalars of the optimiser: gradient norms by part, learning rate, loss scale."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lightning_modules.lm.training import LanguageModelTraining


class OptimiserScalars(Callback):
    """Logs what the optimiser of a language model is about to do, every ``log_every_n_steps`` steps.

    - ``grad/PART``: the 2-norm of the gradient of each of the module's ``parts()``, and ``grad/all`` of all;
    - ``optim/lr``, with D-Adaptation the rate that it has found;
    - ``optim/loss_scale`` where losses are scaled (16-mixed).

    Gradients are those that processes have averaged, unscaled, and before they are clipped.
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Logs when it is time to; this step is not counted yet."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not isinstance(pl_module, LanguageModelTraining) or (trainer.global_step + 1) % every:
            return
        norms = {name: gradient_norm(parameters) for name, parameters in pl_module.parts().items()}
        norms["all"] = torch.stack(list(norms.values())).norm()
        scalars: dict[str, Any] = {f"grad/{name}": norm for name, norm in norms.items()}
        group = optimizer.param_groups[0]
        scalars["optim/lr"] = group["lr"] * group.get("d", 1.0)  # D-Adaptation's own estimate
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            scalars["optim/loss_scale"] = scaler.get_scale()
        pl_module.log_dict(scalars, batch_size=1)


def gradient_norm(parameters: list[torch.nn.Parameter]) -> Tensor:
    """2-norm of the gradients of these, of all shards where they are sharded; 0 where there are none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm.to(parameters[0].device)
