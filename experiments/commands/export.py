"""``mgl export``: a model folder out of a run that has not ended."""


def export(run: str, out: str, half: bool = False) -> None:
    """Writes the model of a run's newest checkpoint, with its averaged weights, as a model folder.

    A run that comes to its end does this by itself; meanwhile, or after an interruption, one can listen to how far it
    is. The run is not touched.

    Args:
        run: folder of the run.
        out: folder to write.
        half: stores float16, half the size, for a model that is sent around.
    """
    from pathlib import Path

    from datamodules.errors import InputError
    from experiments.cli import CHECKPOINTS, LAST, instantiated
    from experiments.console import require_folder
    from lightning_modules.callbacks import WeightAverage
    from lightning_modules.whole_checkpoints import WholeCheckpoints

    checkpoint, config = Path(run) / CHECKPOINTS / LAST, Path(run) / "config.yaml"
    for file in (checkpoint, config):
        if not file.is_file():
            raise InputError(f"{run}: no run that can be exported ({file.relative_to(run)} is missing)")
    module, callbacks = instantiated(str(config))
    state = WholeCheckpoints().load_checkpoint(checkpoint, lambda storage, _: storage, weights_only=True)
    module.load_state_dict(state["state_dict"])
    average = next(callback for callback in callbacks if isinstance(callback, WeightAverage))
    average.load_state_dict(state["callbacks"][average.state_key])
    with average.applied(module):
        module.export(require_folder(out), *([half] if half else []))  # type: ignore[operator]
    print(f"step {state['global_step']:,} of {run}: {out}")
