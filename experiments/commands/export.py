"""``mgl export``: a model folder, with its card, out of a run that has not ended."""


def export(run: str, out: str, half: bool = False, results: str | list[str] = "") -> None:
    """Writes the model of a run's newest checkpoint, with its averaged weights, as a model folder with a card.

    A run that comes to its end writes its model by itself; meanwhile, or after an interruption, one can listen to how
    far it is. The run is not touched. Of a model that lies in the folder nothing stays.

    The card (README.md) has sizes, training and validation as the run records them. It is written anew with every
    export, but never over one that somebody has edited.

    Args:
        run: folder of the run.
        out: folder to write.
        half: stores float16, half the size, for a model that is sent around.
        results: what `mgl evaluate` wrote of clips that this very model made, for the card; given several times,
            each has a table of its own.
    """
    from pathlib import Path

    from experiments.cards.exporting import export_run

    paths = [results] if isinstance(results, str) else results
    step, card = export_run(run, Path(out), half, [path for path in paths if path])
    print(f"step {step:,} of {run}: {out}")
    print(f"card: {card}" if card is not None else "card: none, which is for language models and codecs")
