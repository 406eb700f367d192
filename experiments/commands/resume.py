"""``mgl resume``: go on where a run stopped."""


def resume(run: str = "") -> None:
    """Goes on with an interrupted run from the last optimiser step of its newest checkpoint, by its saved config.

    `mgl train` goes on by itself where it is given the same run again, and deals its crops anew to the devices there
    are; this command takes the batch of a device as it was.

    Args:
        run: folder of the run; by default the interrupted one under runs/ whose checkpoint was written last.
    """
    from pathlib import Path

    from datamodules.errors import InputError
    from experiments.cli import CHECKPOINTS, LAST, fit_cli
    from experiments.ownership import CONFIG
    from experiments.resuming import goes_on_from, is_finished

    if run:
        found = [Path(run) / CHECKPOINTS / LAST]
    else:
        found = sorted(Path("runs").glob(f"**/{CHECKPOINTS}/{LAST}"), key=lambda path: path.stat().st_mtime)
        # A run that came to its end has its model; only an interrupted one is meant.
        found = [path for path in found if not is_finished(path.parent.parent)]
    if not found or not found[-1].exists():
        raise InputError(f"{run or 'runs/'}: holds no checkpoint to go on from")
    checkpoint = found[-1]
    config = checkpoint.parent.parent / CONFIG
    if not config.is_file():
        raise InputError(f"{config}: is missing, so the run cannot be composed again; start it anew")
    print(f"resuming {config.parent} from {checkpoint}")
    fit_cli(["fit", "-c", str(config), *goes_on_from(checkpoint)])
