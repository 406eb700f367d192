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
    from experiments.console import require_folder
    from experiments.runs import Run, restore

    found = Run(run)
    checkpoint = found.last
    module, callbacks = found.composed()
    step, average = restore(module, callbacks, checkpoint)
    with average.applied(module):
        module.export(require_folder(out), *([half] if half else []))  # type: ignore[operator]
    print(f"step {step:,} of {run}: {out}")
