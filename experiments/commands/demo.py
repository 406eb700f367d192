"""``mgl demo``: every part of the suite, small but real, one after the other."""


def demo(out: str = "runs/demo", pieces: int = 80, seed: int = 0, until: str = "report") -> None:
    """Renders a corpus, trains a codec and language models of two sizes on it, generates, evaluates, reports.

    Every stage is a command that could be given by hand, and is printed. A finished stage is not done again.

    Args:
        out: folder for everything.
        pieces: scores to render.
        seed: of corpus and trainings.
        until: the last stage to do.
    """
    from experiments.console import require_folder
    from experiments.pipeline import run_stages
    from experiments.recipes import demo_stages

    folder = require_folder(out)
    run_stages(demo_stages(pieces, seed), folder, until)
    if until == "report":
        print(f"\nreport: {folder / 'report.html'}")
