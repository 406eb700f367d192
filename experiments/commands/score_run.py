"""``mgl score-run``: samples and scores of a run's checkpoints, beside the training rather than in it."""


def score_run(
    run: str,
    /,
    prompts: str = "",
    judge: str | dict[str, str] | None = None,
    watch: bool = False,
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
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
    """
    import time

    from experiments.console import pick_device
    from experiments.scoring import RunScoring

    scoring = RunScoring(run, prompts, judge, pick_device(device))
    while True:
        ended = scoring.ended  # asked first: what a run leaves at its end is then there to be scored
        steps = scoring.score()
        if ended or not watch:
            break
        time.sleep(30)
    if not steps and not watch:
        print(f"{run}: nothing new to score")
