"""What the embedded judge learns to name: instrument families, drums, tempo and collection.

Labels are read from the fields that the corpus writes into its manifest: ``families`` (names), ``drums`` (true or
false), ``bpm`` (beats a minute) and ``collection`` (a name). Shape letters: B clips, L labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.corpus import catalogue, instruments
from datamodules.errors import InputError

# Drums are a label of their own: most kits are one instrument, and tracks without them must say so.
FAMILIES = tuple(family for family in instruments.FAMILIES if family != "drums")
COLLECTIONS = tuple(dict.fromkeys(collection.name for collection in catalogue.COLLECTIONS))
# Beats a minute at which medium and fast begin.
TEMPI = {"slow": 0.0, "medium": 90.0, "fast": 130.0}


def build_labels(families: Sequence[str], collections: Sequence[str]) -> tuple[str, ...]:
    """The vocabulary in the order of the logits: ``family:...``, ``drums``, ``tempo:...``, ``collection:...``."""
    return (
        *(f"family:{name}" for name in families),
        "drums",
        *(f"tempo:{name}" for name in TEMPI),
        *(f"collection:{name}" for name in collections),
    )


def label_targets(labels: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
    """Targets for a batch.

    Args:
        labels: the vocabulary of ``build_labels``.
        facts: B mappings, the tracks' manifest fields.

    Returns:
        Targets [B, L] of 0 and 1, and the mask [B, L] that is false where a track does not say.

    Raises:
        InputError: a track names a family or collection that the vocabulary lacks.
    """
    place = {label: index for index, label in enumerate(labels)}
    kinds = [label.partition(":")[0] for label in labels]
    targets, known = torch.zeros(len(facts), len(labels)), torch.zeros(len(facts), len(labels), dtype=torch.bool)
    for row, fact in enumerate(facts):
        said = _said(fact)
        for index, kind in enumerate(kinds):
            known[row, index] = kind in said
        for label in (label for names in said.values() for label in names):
            if label not in place:
                raise InputError(f"the judge has no label {label!r}; add the name to its families or collections")
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
    return said
