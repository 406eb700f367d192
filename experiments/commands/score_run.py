"""``mgl score-run``: samples and scores of a run's checkpoints, beside the training rather than in it."""


def score_run(
    run: str,
    /,
    prompts: str = "",
    judge: str | dict[str, str] | None = None,
    watch: bool = False,
    patience: float = 24.0,
    device: str = "auto",
) -> None:
    """Generates and scores a run's samples from its checkpoints and, once it has ended, from its model.

    What the layer `samples` does within a training, this does from the outside: on another machine, or where the
    weights are sharded. Settings are those that the run was composed with (samples.*). Clips and scores go into
    RUN/samples/step-N, scalars, sound and pictures into a log of its own in RUN/samples. Steps that have their
    results.json are passed over.

    Args:
        run: folder of the run.
        prompts: evaluation set; by default the run's own (samples.prompts).
        judge: who listens, as for `mgl evaluate`; by default the run's own (samples.judge).
        watch: go on until the run has ended, and look for new checkpoints meanwhile.
        patience: hours without a sign of life from the run after which watching it ends, as a failure.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
    """
    import time

    from datamodules.errors import InputError
    from experiments.console import pick_device
    from experiments.scoring import RunScoring

    scoring = RunScoring(run, prompts, judge, pick_device(device))
    while True:
        ended = scoring.ended  # asked first: what a run leaves at its end is then there to be scored
        steps = scoring.score()
        if ended or not watch:
            break
        if scoring.quiet_hours > patience:
            raise InputError(
                f"{run}: nothing was written there for {scoring.quiet_hours:.3g} hours, and it has no model; has the "
                "run died? `make resume` goes on with it (--patience for how long to wait)"
            )
        time.sleep(30)
    if not steps and not watch:
        print(f"{run}: nothing new to score")
