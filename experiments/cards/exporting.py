"""A run's newest checkpoint as a model folder with its card."""

from collections.abc import Sequence
from pathlib import Path

from experiments.cards.recorded import read_recorded
from experiments.cards.scores import read_scored, require_own
from experiments.cards.subject import read_subject
from experiments.cards.writing import PICTURE, README, require_unedited, write_card
from experiments.runs import Run, restore
from lightning_modules.checkpoints import TEXT_ENCODER
from lightning_modules.model_folders import CONFIG, WEIGHTS, file_checksum, whole_folder


def export_run(run: str | Path, out: Path, half: bool = False, results: Sequence[str] = ()) -> tuple[int, Path | None]:
    """Writes model and card, all of it or nothing: until everything is written the folder is what it was.

    Args:
        run: the run's folder.
        out: where to; of a model that lies there nothing stays.
        half: stores float16.
        results: files of ``mgl evaluate`` for the card.

    Returns:
        The checkpoint's optimiser step, and the card; None of a kind of model that no card is written for.

    Raises:
        InputError: the folder is no run's or has no checkpoint; there is an edited card in ``out``; or results are
            missing or another model's.
    """
    found, scores = Run(run), read_scored(results)
    checkpoint = found.last
    require_unedited(out)
    module, callbacks = found.composed()
    step, average = restore(module, callbacks, checkpoint)
    # A card of the model that lies there is none of this one. Looked at when all is written, and so it may grow.
    gone = [TEXT_ENCODER, README, PICTURE]
    with whole_folder(out, CONFIG, gone) as partial:
        with average.applied(module):
            module.export(partial, *([half] if half else []))  # type: ignore[operator]
        gone += _outdated(out, file_checksum(partial / WEIGHTS))
        subject = read_subject(partial, module)
        require_own(scores, subject)
        if subject is not None:
            write_card(partial, out.resolve().name, subject, read_recorded(found, checkpoint), scores)
    return step, out / README if subject is not None else None


def _outdated(folder: Path, checksum: str) -> list[str]:
    """Names of what ``mgl perplexity`` measured of the weights in a folder, if they are others than these."""
    measured = [file.name for file in folder.glob("held_out*.json")]
    weights = folder / WEIGHTS
    return [] if weights.is_file() and measured and file_checksum(weights) == checksum else measured
