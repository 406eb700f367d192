"""What the embedded judge learns to name: instrument families, drums, tempo, collection and instruments.

Labels are read from the fields that the corpus writes into its manifest: ``families`` (names), ``drums`` (true or
false), ``bpm`` (beats a minute), ``collection`` (a name) and ``instruments`` (names). Shape letters: B clips, L labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.corpus import catalogue, instruments
from datamodules.errors import InputError

# Drums are a label of their own: most kits are one instrument, and tracks without them must say so.
FAMILIES = tuple(family for family in instruments.FAMILIES if family != "drums")
INSTRUMENTS = tuple(one.name for one in (*instruments.INSTRUMENTS, *instruments.KITS))
COLLECTIONS = tuple(dict.fromkeys(collection.name for collection in catalogue.COLLECTIONS))
# Beats a minute at which medium and fast begin.
TEMPI = {"slow": 0.0, "medium": 90.0, "fast": 130.0}


def build_labels(families: Sequence[str], collections: Sequence[str], players: Sequence[str] = ()) -> tuple[str, ...]:
    """The vocabulary in the order of the logits.

    Args:
        families: of instruments: ``family:...``, then ``drums`` and ``tempo:...``.
        collections: ``collection:...``.
        players: instruments, ``instrument:...``.
    """
    return (
        *(f"family:{name}" for name in families),
        "drums",
        *(f"tempo:{name}" for name in TEMPI),
        *(f"collection:{name}" for name in collections),
        *(f"instrument:{name}" for name in players),
    )


def label_targets(labels: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
    """Targets for a batch.

    Args:
        labels: the vocabulary of ``build_labels``.
        facts: B mappings, the tracks' manifest fields.

    Returns:
        Targets [B, L] of 0 and 1, and the mask [B, L] that is false where a track does not say.

    Raises:
        InputError: a track names a family, collection or instrument that the vocabulary lacks.
    """
    place = {label: index for index, label in enumerate(labels)}
    kinds = [label.partition(":")[0] for label in labels]
    wanted = set(kinds)
    targets, known = torch.zeros(len(facts), len(labels)), torch.zeros(len(facts), len(labels), dtype=torch.bool)
    for row, fact in enumerate(facts):
        said = _said(fact)
        for index, kind in enumerate(kinds):
            known[row, index] = kind in said
        for label in (label for kind, names in said.items() if kind in wanted for label in names):
            if label not in place:
                raise InputError(f"the judge has no label {label!r}; name it in its families, collections or players")
            targets[row, place[label]] = 1
    return targets, known


def _said(fact: Mapping[str, Any]) -> dict[str, list[str]]:
    """Kind of label -> the labels that hold, for the kinds that the track says anything about."""
    said: dict[str, list[str]] = {}
    if fact.get("families") is not None:
        said["family"] = [f"family:{name}" for name in fact["families"] if name != "drums"]
    if fact.get("drums") is not None:
        said["drums"] = ["drums"] if fact["drums"] else []
    if fact.get("bpm") is not None:
        said["tempo"] = [f"tempo:{max((name for name in TEMPI if fact['bpm'] >= TEMPI[name]), key=TEMPI.__getitem__)}"]
    if fact.get("collection"):
        said["collection"] = [f"collection:{fact['collection']}"]
    if fact.get("instruments") is not None:
        said["instrument"] = [f"instrument:{name}" for name in fact["instruments"]]
    return said
