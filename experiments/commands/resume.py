"""``mgl resume``: go on where a run stopped."""


def resume(run: str = "") -> None:
    """Goes on with an interrupted run from the last optimiser step of its newest checkpoint.

    Args:
        run: folder of the run; by default the interrupted one under runs/ whose checkpoint was written last.
    """
    from pathlib import Path

    from datamodules.errors import InputError
    from experiments.callbacks.model_folder import RECORD
    from experiments.cli import CHECKPOINTS, LAST, MODEL, fit_cli

    if run:
        found = [Path(run) / CHECKPOINTS / LAST]
    else:
        found = sorted(Path("runs").glob(f"**/{CHECKPOINTS}/{LAST}"), key=lambda path: path.stat().st_mtime)
        # A run that came to its end has its model; only an interrupted one is meant.
        found = [path for path in found if not (path.parent.parent / MODEL / RECORD).is_file()]
    if not found or not found[-1].exists():
        raise InputError(f"{run or 'runs/'}: holds no checkpoint to go on from")
    checkpoint = found[-1]
    config = checkpoint.parent.parent / "config.yaml"
    if not config.is_file():
        raise InputError(f"{config}: is missing, so the run cannot be composed again; start it anew")
    print(f"resuming {config.parent} from {checkpoint}")
    fit_cli(["fit", "-c", str(config), "--ckpt_path", str(checkpoint), "--weights_only", "true"])
