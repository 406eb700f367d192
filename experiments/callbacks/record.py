"""Writes down what a run was started with."""

from lightning.pytorch import Callback, LightningModule, Trainer

from experiments.environment import append_environment


class EnvironmentRecord(Callback):
    """Adds an entry to ``RUN/environment.json`` at every start of a training, a resumed one's too."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes, in process 0; only now is the step known that a resumed run goes on from."""
        if trainer.is_global_zero:
            devices = {"devices": trainer.world_size, "device": str(pl_module.device)}
            append_environment(trainer.default_root_dir, step=trainer.global_step, **devices)
