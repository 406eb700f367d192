"""What a reader must know before believing a comparison, in lines under the scores."""

from collections.abc import Sequence

from evaluation.compare import Results
from evaluation.tables import computed, infinity_text, repeats_text

_LISTED = 20  # of the files that belong to no prompt


def comparison_notes(systems: Sequence[Results]) -> list[str]:
    """One line a fact: counts and lengths that differ, what is missing, what a number alone does not tell."""
    notes = []
    numbers = {one.data["n"] for one in systems}
    if len(numbers) > 1:
        counts = ", ".join(f"{one.name} {one.data['n']}" for one in systems)
        notes.append(f"The systems were scored on different numbers of clips ({counts}); FAD falls as n grows.")
    lengths = {tuple(one.data["protocol"].get("seconds", {}).values()) for one in systems}
    if len(lengths) > 1:
        notes.append("The systems' clips last differently long; FAD and KL depend on it.")
    for one in systems:
        notes += _clips_notes(one)
        notes += [f"{one.name}: {said}." for said in repeats_text(one.data["protocol"])]
        for metric in computed([other.data for other in systems]):
            score = one.data["metrics"].get(metric.key) or {}
            if score.get("value") is None or score.get("low") is None:
                what = "not computed" if score.get("value") is None else "no interval"
                notes.append(f"{one.name}, {metric.name}: {what}: {score.get('interval', 'missing')}.")
            if score.get("note"):
                notes.append(f"{one.name}, {metric.name}: {score['note']}.")
            if said := infinity_text(score):
                notes.append(f"{one.name}, {metric.name}: {said}.")
    return notes


def _clips_notes(one: Results) -> list[str]:
    """What a system did not make, and files of it that belong to no prompt."""
    clips = one.data["system"].get("clips") or {}
    notes = []
    if clips and clips["made"] < clips["asked"]:
        notes.append(f"{one.name} has {clips['made']} clips for {clips['asked']} prompts.")
    for key, what in (("unmatched", "match no prompt"), ("unreadable", "are no audio")):
        if names := clips.get(key):
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            notes.append(f"{one.name}: {len(names)} files {what}: {', '.join(names[:_LISTED])}{more}.")
    return notes
