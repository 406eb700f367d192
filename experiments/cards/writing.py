"""Writes the card into an exported folder: ``README.md`` by the template beside this file, and the picture it shows.

One rule for what is missing: every row and section is there, and what neither run nor results record reads "not
recorded". One rule for a card that is there already: it is written anew unless somebody has edited it.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import exp
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import InputError
from evaluation.compare import Results
from evaluation.tables import number
from experiments.cards.picture import curve_picture, curves
from experiments.cards.recorded import Recorded
from experiments.cards.scores import held_out, scored
from experiments.cards.subject import LANGUAGE_MODEL, Subject, channels_word
from experiments.cards.training import training_rows
from experiments.models.card import score_text

README, PICTURE = "README.md", "training_curve.png"
_TEMPLATE = "model.md.j2"
_LIBRARY = "musicgen-lightning"
_MISSING = "not recorded"
_SEAL = re.compile(rb"<!-- card: ([0-9a-f]{64}) -->\n")


def write_card(
    folder: Path, name: str, subject: Subject, recorded: Recorded, results: Sequence[Results] = ()
) -> list[Path]:
    """Writes README.md and, where there is a curve, its picture.

    Args:
        folder: where to.
        name: what the model is called.
        subject: what is in the folder that the card is of.
        recorded: its training.
        results: of clips that it made.

    Returns:
        The files.
    """
    picture, measured = curve_picture(recorded, subject), held_out(results)
    if picture is not None:
        (folder / PICTURE).write_bytes(picture)
    body = _render(
        head=yaml.safe_dump(_front_matter(subject), sort_keys=False),
        name=name,
        quoted=shlex.quote(name),
        subject=subject,
        parts=[(part.name, part.what, f"{part.parameters:,}") for part in subject.parts],
        channels=channels_word(subject.codec),
        heard=" and ".join({"text": "texts", "melody": "melodies"}.get(one, one) for one in subject.hears),
        training=[(what, text or _MISSING) for what, text in training_rows(recorded, subject)],
        validation=_validation(recorded, subject),
        windows=recorded.data.get("valid_items"),
        held_out=measured,
        books=[_book(one) for one in (measured or {}).get("cross_entropy", [])],
        picture=PICTURE if picture is not None else None,
        results=[scored(one) for one in results],
    )
    (folder / README).write_bytes(_sealed(body.encode()))
    return [folder / README, *([folder / PICTURE] if picture is not None else [])]


def require_unedited(folder: Path) -> None:
    """Whether a folder's README.md, if there is one, is as it was written here.

    Raises:
        InputError: somebody has edited it, or it is no card of ours.
    """
    path = folder / README
    if not path.is_file():
        return
    text = path.read_bytes()
    *_, last = text.splitlines(keepends=True) or [b""]
    seal = _SEAL.fullmatch(last)
    if seal is None or seal[1].decode() != sha256(text[: -len(last)]).hexdigest():
        raise InputError(
            f"{path}: has been edited, and would be overwritten; move it elsewhere and put what you wrote into the new "
            "one, or export into another folder"
        )


def _sealed(body: bytes) -> bytes:
    """With its checksum below it, which no page shows: that of another text tells that somebody has edited it."""
    return body + f"<!-- card: {sha256(body).hexdigest()} -->\n".encode()


def _front_matter(subject: Subject) -> dict[str, Any]:
    """What the Hugging Face hub reads; the licence of the weights is known only where their config has one."""
    known = subject.about.get("license") or subject.about.get("licence")
    tags = ["music", *(["text-to-music", "musicgen"] if subject.hears else ["audio-codec", "encodec"])]
    return {
        "library_name": _LIBRARY,
        **({"pipeline_tag": "text-to-audio"} if subject.hears else {}),
        "license": str(known) if known else "other",
        "tags": [*tags, "pytorch-lightning"],
    }


def _validation(recorded: Recorded, subject: Subject) -> list[list[str]]:
    """Name, step and value of each curve's last point; of a language model, whose values are in nats, perplexity."""
    rows = []
    for name, points in curves(recorded, subject).items():
        step, value = points[-1]
        perplexity = [f"{exp(value):,.1f}"] if subject.kind == LANGUAGE_MODEL else []
        rows.append([name, f"{step:,}", number(value), *perplexity])
    return rows


def _book(one: Mapping[str, Any]) -> list[str]:
    """A codebook that ``mgl perplexity`` measured, beside what counting codes alone would reach."""
    unigram = {"value": one.get("unigram"), "low": one.get("unigram_low"), "high": one.get("unigram_high")}
    return [str(one["codebook"] + 1), score_text(one), score_text(unigram)]


def _render(**facts: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", r"\|")
    return environment.get_template(_TEMPLATE).render(facts)
