"""From what was heard to the numbers of results.json: the protocol's metrics, and rows to read them by."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.clip_scores import ClipValues, Score, clip_values, mean_score, nothing
from evaluation.listening import HeardPair, Sound
from evaluation.protocol import Choices, Protocol
from evaluation.set_scores import Statistics, clip_distances, fad_score, halves, infinity_score, kad_score
from evaluation.tables import METRICS

_FEWEST_FOR_HALVES = 4


def score_pairs(
    heard: Sequence[HeardPair], protocol: Protocol, seed: int, statistics: Statistics = None
) -> tuple[dict[str, Score], dict[str, Any], list[dict[str, Any]]]:
    """Scores a system.

    Args:
        heard: in the order of their ids.
        protocol: which metrics, and how.
        seed: of bootstrap, groups and shuffles.
        statistics: what FAD is taken to, in the place of the references.

    Returns:
        ``metrics``, ``context`` and the numbers of each clip, as they stand in results.json.
    """
    choices = protocol.choices
    generated, reference = [one.generated for one in heard], [one.reference for one in heard]
    tracks = [one.pair.track for one in heard]
    values = clip_values(choices, heard, generated, reference)
    found = _sets(choices, heard, generated, seed, statistics) | _means(values, tracks, seed)
    if choices.fad is not None and found["fad"]["value"] is not None:
        found["fad"]["infinity"] = infinity_score(reference, generated, tracks, seed, statistics)
    out = nothing(f"the protocol {protocol.name} leaves it out")
    found |= {metric: out for metric in ("fad", "kld", "clap", "chroma") if metric not in found}
    metrics = {metric.key: found[metric.key] for metric in METRICS if metric.key in found}
    clips: list[dict[str, Any]] = [{name: of.values[row] for name, of in values.items()} for row in range(len(heard))]
    if choices.fad is not None:
        for clip, distance in zip(clips, clip_distances(reference, generated, statistics), strict=True):
            clip["fad_of_clip"] = distance
    weighted = {name: of.votes for name, of in values.items() if set(of.votes) != {1.0}}
    for row, clip in enumerate(clips if weighted else []):
        clip["votes"] = {name: votes[row] for name, votes in weighted.items()}
    return metrics, _context(choices, heard, seed, statistics), clips


def _sets(
    choices: Choices, heard: Sequence[HeardPair], sounds: Sequence[Sound], seed: int, statistics: Statistics
) -> dict[str, Score]:
    """The metrics of sets, of sounds in the generated clips' place."""
    if choices.fad is None:
        return {}
    reference, tracks = [one.reference for one in heard], [one.pair.track for one in heard]
    found = {"fad": fad_score(reference, sounds, tracks, seed, statistics)}
    if choices.fad.kad:
        found["kad"] = kad_score(reference, sounds, tracks, seed)
    return found


def _means(values: Mapping[str, ClipValues], tracks: Sequence[str], seed: int) -> dict[str, Score]:
    return {name: mean_score(of, tracks, seed) for name, of in values.items()}


def _context(choices: Choices, heard: Sequence[HeardPair], seed: int, statistics: Statistics) -> dict[str, Any]:
    """Rows that say how to read the scores: what real recordings, wrong ones and noise get from the same judges."""
    reference, noise = [one.reference for one in heard], [one.noise for one in heard]
    tracks = [one.pair.track for one in heard]
    order = [str(track) for track in np.random.default_rng(seed).permutation(sorted(set(tracks)))]
    rows = {"reference": _reference_row(choices, heard, order, seed, statistics)}
    if len(order) >= 2:
        others = clip_values(choices, heard, _others(reference, tracks, order), reference)
        rows["shuffled"] = {
            "label": "References, shuffled",
            "meaning": "The recordings of other prompts: good music that ignores the prompt (chance level)",
            **_means(others, tracks, seed),
        }
    rows["noise"] = {
        "label": "White noise",
        "meaning": "Noise in place of music: the far end of the scale",
        **_sets(choices, heard, noise, seed, statistics),
        **_means(clip_values(choices, heard, noise, reference), tracks, seed),
    }
    return rows


def _reference_row(
    choices: Choices, heard: Sequence[HeardPair], order: Sequence[str], seed: int, statistics: Statistics
) -> dict[str, Any]:
    """What the references score themselves, wherever that is no matter of course."""
    reference, tracks = [one.reference for one in heard], [one.pair.track for one in heard]
    own = clip_values(choices, heard, reference, reference)
    scores = _means({name: of for name, of in own.items() if name not in ("kld", "chroma")}, tracks, seed)
    said = ["CLAP with their own captions"] if choices.clap else []
    if choices.fad is not None and statistics is not None:
        said.insert(0, "FAD to the statistics")
        scores["fad"] = fad_score(reference, reference, tracks, seed, statistics)
    elif choices.fad is not None and len(order) >= _FEWEST_FOR_HALVES:
        said.insert(0, "FAD between two random halves of them (half the clips, so a little high)")
        scores["fad"] = halves(reference, tracks, order, kernel=False)
    if choices.fad is not None and choices.fad.kad and len(order) >= _FEWEST_FOR_HALVES:
        scores["kad"] = halves(reference, tracks, order, kernel=True)
    return {"label": "References", "meaning": f"The recordings themselves: {', '.join(said)}", **scores}


def _others(reference: Sequence[Any], tracks: Sequence[str], order: Sequence[str]) -> list[Any]:
    """For every clip one of another track: of the next in a random circle, so none stands for its own."""
    rows: dict[str, list[Any]] = {}
    for sound, track in zip(reference, tracks, strict=True):
        rows.setdefault(track, []).append(sound)
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    taken: Counter[str] = Counter()
    others = []
    for track in tracks:
        candidates = rows[following[track]]
        others.append(candidates[taken[track] % len(candidates)])
        taken[track] += 1
    return others
