"""The tables that a card has on results of ``mgl evaluate``, each under its own protocol."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from evaluation.compare import Results, read_results
from evaluation.report_files import clips_text
from evaluation.tables import ARROWS, computed, failures_text, judges_text
from experiments.cards.subject import LANGUAGE_MODEL, Subject
from experiments.models.card import score_text


@dataclass(frozen=True)
class Scored:
    """One results.json.

    Attributes:
        protocol: who judged what, under which rules.
        head: titles of the table's columns.
        rows: the model's, and those that it is read by.
        meanings: what columns and rows are.
        notes: what could not be computed, and what the numbers do not tell.
        speed: of generating the clips, in words; None where that is not recorded.
    """

    protocol: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    meanings: Sequence[str]
    notes: Sequence[str]
    speed: str | None


def read_scored(paths: Sequence[str | Path]) -> list[Results]:
    """The files, each for itself: they need not be of one protocol.

    Raises:
        InputError: a file that is missing or no results.json.
    """
    return [read_results([path])[0] for path in paths]


def require_own(results: Sequence[Results], subject: Subject | None) -> None:
    """Every results.json has to be of clips that this model made.

    Raises:
        InputError: one is another model's, or does not say whose; or no language model is exported.
    """
    if results and (subject is None or subject.kind != LANGUAGE_MODEL):
        raise InputError("results: are of clips that a language model made, and this run trains none; leave them out")
    for one in results:
        found = one.data["system"].get("checksum")
        assert subject is not None
        if found != subject.checksum:
            whose = f"of the model {str(found)[:12]}" if found else "of clips that do not say which model made them"
            raise InputError(
                f"{one.path}: is {whose}, and this one is {subject.checksum[:12]}; export without --results, generate "
                "with that folder, evaluate, and export again"
            )


def scored(results: Results) -> Scored:
    """One of them as it stands on the card."""
    data = results.data
    metrics = computed([data])
    sides = [("**this model**", data["metrics"], clips_text(data))]
    sides += [(str(row["label"]), row, "") for row in data["context"].values()]
    rows = [
        [label, *(score_text(side[one.key]) if one.key in side else "" for one in metrics), clips]
        for label, side, clips in sides
    ]
    return Scored(
        protocol=_protocol(data),
        head=["", *(f"{one.name} {ARROWS[one.better]}" for one in metrics), "clips"],
        rows=rows,
        meanings=[
            *(f"{one.name}: {one.meaning}" for one in metrics),
            *(f"{row['label']}: {row['meaning']}" for row in data["context"].values()),
        ],
        notes=list(_notes(data)),
        speed=_speed(data["system"].get("speed")),
    )


def held_out(results: Sequence[Results]) -> Mapping[str, Any] | None:
    """What ``mgl perplexity`` measured of this model, if the system that was scored knew it."""
    for one in results:
        system = one.data["system"]
        found = system.get("held_out") or (system.get("training") or {}).get("validation")
        if found:
            return dict(found)
    return None


def _protocol(data: Mapping[str, Any]) -> str:
    said = data["protocol"]
    references = (said.get("reference") or {}).get("set")
    chosen = f", references {references['kind']} `{references['checksum'][:12]}`" if references else ""
    return (
        f"Protocol {said.get('name', 'without a name')}, {judges_text(said)}; clips of "
        f"{said['seconds']['longest']:g} s at most, {said['tracks']} tracks{chosen}; "
        f"{said['intervals']['level'] * 100:g} % intervals in brackets, seed {said['seed']}"
    )


def _notes(data: Mapping[str, Any]) -> Iterator[str]:
    """As the terminal has them, but failed clips, whose names say nothing to others, by their number."""
    yield from failures_text({**data, "failed": []})
    if data["failed"]:
        yield f"{len(data['failed'])} clips could not be scored and were left out"


def _speed(speed: Mapping[str, Any] | None) -> str | None:
    if not speed:
        return None
    return (
        f"{speed['audio_seconds_per_second']:.3g} s of music a second, {speed['steps_per_second']:.3g} steps a second "
        f"({speed['device']}, threads: {speed['threads']})"
    )
