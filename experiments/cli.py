"""``mgl fit|validate|test|predict``: LightningCLI with layered configs."""

import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from datamodules.errors import InputError
from experiments.callbacks.guards import Guards
from experiments.callbacks.model_folder import ModelFolder
from experiments.callbacks.progress import LineProgress, TrainingBar
from experiments.callbacks.record import EnvironmentRecord
from experiments.callbacks.samples import Samples
from experiments.callbacks.scalars import OptimiserScalars
from experiments.callbacks.speed import Speed
from experiments.callbacks.watch import Watch
from experiments.compose import resolve_layers
from experiments.loggers import Kind, run_logger
from experiments.out_of_memory import is_out_of_memory, what_to_change
from experiments.ownership import CHECKPOINTS as CHECKPOINTS
from experiments.ownership import require_architecture, require_own
from lightning_modules.callbacks import SaveOnExit, WeightAverage
from lightning_modules.whole_checkpoints import WholeCheckpoints

LAST = "last.ckpt"
MODEL = "model"
_OF_FIT = ("ckpt_path", "weights_only")  # what a saved config has for the subcommand itself


def fit_cli(arguments: list[str]) -> None:
    """Runs a subcommand; ``-c`` takes the name of a layer or a file, later ones win, flags come last."""
    _be_quiet()
    try:
        SuiteCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_class=_Parser,
            args=resolve_layers(arguments),
        )
    except SystemExit as stop:
        # Lightning ends an interrupted run with exit code 1, as if it had failed.
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise


def instantiated(config: str) -> tuple[LightningModule, list[Callback]]:
    """The module and the callbacks of a run's saved config; nothing is run."""
    _be_quiet()
    fields = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    # Here, wherever the run was: one process without a GPU will do, and no other is started.
    here = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true"}
    fields["trainer"] = {**fields.get("trainer", {}), **here, "logger": False}
    cli = SuiteCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,
        parser_class=_Parser,
        run=False,
        args={name: value for name, value in fields.items() if name not in _OF_FIT},
    )
    return cli.model, cli.trainer.callbacks  # type: ignore[attr-defined]


class _Parser(LightningArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError(_shortened(message)) from ex


class SuiteCLI(LightningCLI):
    """What every run has, besides its layers.

    ``run``, the folder that holds its config, logs, checkpoints and, in the end, the model; an average of the weights;
    a checkpoint every so often and when it is interrupted; a logger, and what one sees of it while it runs.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``run``, its logger, and the callbacks that every run has."""
        text = "folder of the run: config, logs, checkpoints, model"
        parser.add_argument("--run", type=str, required=True, help=text)
        text = "where scalars, sound and pictures go; trainer.logger takes its place"
        parser.add_argument("--logger", type=Kind, default="tensorboard", help=text)
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(WeightAverage, "average")
        parser.add_lightning_class_args(SaveOnExit, "save_on_exit")
        parser.add_lightning_class_args(ModelFolder, "model_folder")
        # After the average, which it hears as of the same step.
        parser.add_lightning_class_args(Samples, "samples")
        parser.add_lightning_class_args(Watch, "watch")
        # The last, which ends a run once every other has done its part of the step.
        parser.add_lightning_class_args(Guards, "guards")
        parser.link_arguments("run", "checkpoint.dirpath", compute_fn=lambda run: f"{run}/{CHECKPOINTS}")
        parser.link_arguments("run", "save_on_exit.path", compute_fn=lambda run: f"{run}/{CHECKPOINTS}/{LAST}")
        parser.link_arguments("run", "model_folder.folder", compute_fn=lambda run: f"{run}/{MODEL}")

    def before_instantiate_classes(self) -> None:
        """Nothing is made for a run that would write into another's folder."""
        if self.subcommand == "fit":
            require_own(self._get(self.config, "run"), self.config[self.subcommand].as_dict())

    def before_fit(self) -> None:
        """A checkpoint has to be of what is trained."""
        checkpoint = self._get(self.config, "ckpt_path")
        if checkpoint and Path(checkpoint).exists():
            require_architecture(checkpoint, self.config["fit"].as_dict(), self.model)

    def _parse_ckpt_path(self) -> None:
        # Lightning puts a checkpoint's hyperparameters in place of what the command line says, without a word.
        if self.config.get("subcommand") != "fit":
            super()._parse_ckpt_path()

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(what_to_change(error, self.config[subcommand].as_dict())) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Puts the logs into the run's folder, and lines instead of a bar where nobody watches."""
        run = self._get(self.config_init, "run")
        if Path(run).exists() and not Path(run).is_dir():
            raise InputError(f"{run}: is a file; --run names a folder")
        if self._get(self.config_init, "trainer.logger") is None:
            kwargs["logger"] = run_logger(run, self._get(self.config_init, "logger"))
        callbacks = self._get(self.config_init, "trainer.callbacks") or []
        watched = sys.stderr.isatty()
        kwargs["enable_progress_bar"] = watched
        seen = [Speed(), OptimiserScalars(), TrainingBar() if watched else LineProgress(), EnvironmentRecord()]
        plugins = self._get(self.config_init, "trainer.plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, WholeCheckpoints()]
        try:
            trainer = super().instantiate_trainer(default_root_dir=run, callbacks=[*callbacks, *seen], **kwargs)
        except (ValueError, MisconfigurationException) as error:
            raise InputError(f"trainer: {error}") from error
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if isinstance(environment, SLURMEnvironment):
            # The guards end the run after a whole step, and its job's script queues it again (experiments/cluster).
            environment.auto_requeue = False
        return trainer


def _shortened(message: str) -> str:
    """Of a wrong key jsonargparse tells every type that it tried; the key is enough."""
    key = re.search(r'Parser key "([^"]+)"', message)
    options = re.findall(r"Option '([^']+)' is not accepted", message)
    if key and options:
        return f"there is no option {', '.join(options)} under {key[1]}; --print_config shows those there are"
    return message


def _be_quiet() -> None:
    """Hides what Lightning says to everybody and what no user of ours can act on."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # We hand LightningCLI its arguments with the layers' names resolved.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    # Lightning's own use of a deprecated call.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    # Samples are numbered, so loaders have no length, and nothing is replayed on resume.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    warnings.filterwarnings("ignore", message=".*exists and is not empty")
    # What is logged of a validation are torchmetrics, which have added up over processes already.
    warnings.filterwarnings("ignore", message="It is recommended to use .self.log")
    # A decoder that is trained alone has an encoder in evaluation mode.
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
    # A checkpoint is of the weights after the step.
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
