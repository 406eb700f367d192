"""``mgl resume``: go on where a run stopped."""


def resume(run: str = "", args: str = "") -> None:
    """Goes on with an interrupted run from the last optimiser step of its newest checkpoint, by its saved config.

    On another number of devices a language model's steps have as many crops as before: batch and accumulation are
    computed anew, and the samples go on exactly.

    Args:
        run: folder of the run; by default the interrupted one under runs/ whose checkpoint was written last.
        args: further arguments of `mgl fit` in one string, which win over the config: "--trainer.devices 4".
    """
    import shlex
    from pathlib import Path

    import yaml
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from datamodules.errors import InputError
    from experiments.cli import CHECKPOINTS, LAST, fit_cli
    from experiments.ownership import CONFIG
    from experiments.planning.here import look
    from experiments.planning.redealing import redealt
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
    further = shlex.split(args)
    fields = yaml.safe_load(config.read_text(encoding="utf-8"))
    changed, told = redealt(fields, checkpoint, further, look())
    rank_zero_only(print)(f"resuming {config.parent} from {checkpoint}" + (f"\nbatch: {told}" if told else ""))
    anew = [f"--{name}={value}" for name, value in changed.items()]
    fit_cli(["fit", "-c", str(config), *further, *anew, *goes_on_from(checkpoint)])
