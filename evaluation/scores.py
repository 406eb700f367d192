"""From what was heard to the numbers of results.json: four metrics with intervals, and rows to read them by."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from datamodules.errors import InputError
from evaluation.chroma_similarity import chroma_similarity
from evaluation.clap_score import clap_score
from evaluation.fad import Moments, ReferenceGaussian, frechet_distance
from evaluation.fad_infinity import fad_infinity, fad_infinity_interval
from evaluation.kld import Direction, kl_divergence
from evaluation.listening import HeardPair, Sound
from evaluation.uncertainty import (
    FEWEST_FOR_INTERVAL,
    bootstrap_mean,
    few_samples_warning,
    jackknife,
    jackknife_groups,
)

KL_DIRECTION: Direction = "reference_to_generated"
Score = dict[str, Any]
Values = list[float | None]


def score_pairs(heard: Sequence[HeardPair], seed: int) -> tuple[dict[str, Score], dict[str, Any], list[dict[str, Any]]]:
    """Scores a system.

    Args:
        heard: in the order of their ids.
        seed: of bootstrap, groups and shuffles.

    Returns:
        ``metrics``, ``context`` and the numbers of each clip, as they stand in results.json.
    """
    generated, reference = [one.generated for one in heard], [one.reference for one in heard]
    per_clip = clip_values(heard, generated, reference)
    tracks = [one.pair.track for one in heard]
    fad = fad_score(reference, generated, tracks, seed)
    if fad["value"] is not None:
        fad["infinity"] = infinity_score(reference, generated, tracks, seed)
    metrics = {"fad": fad} | _means(per_clip, tracks, seed)
    shown = per_clip | {"fad_of_clip": clip_distances(reference, generated)}
    clips = [{name: shown[name][row] for name in shown} for row in range(len(heard))]
    return metrics, _context(heard, seed), clips


def clip_values(
    heard: Sequence[HeardPair], generated: Sequence[Sound], reference: Sequence[Sound]
) -> dict[str, Values]:
    """KLD, CLAP and chroma of each clip: ``generated[i]`` against ``reference[i]`` and the caption of ``heard[i]``.

    None where a clip has no caption, or its reference no frame that is not silent.
    """
    kld = kl_divergence(
        torch.stack([one.logits for one in generated]),
        torch.stack([one.logits for one in reference]),
        direction=KL_DIRECTION,
    )
    return {
        "kld": kld.tolist(),
        "clap": [
            None if one.text is None else float(clap_score(sound.clip[None], one.text[None]))
            for one, sound in zip(heard, generated, strict=True)
        ],
        "chroma": [_chroma(made, real) for made, real in zip(generated, reference, strict=True)],
    }


def clip_distances(reference: Sequence[Sound], generated: Sequence[Sound]) -> Values:
    """FAD of each clip's own windows to the Gaussian of all references: it finds outliers, and is no mean's part.

    None where there are not two windows.
    """
    real = _windows(reference)
    if len(real) < 2:
        return [None] * len(generated)
    gaussian = ReferenceGaussian(*Moments.of(real).gaussian())
    return [gaussian.distance(sound.windows) if len(sound.windows) > 1 else None for sound in generated]


def _chroma(made: Sound, real: Sound) -> float | None:
    frames = min(len(made.chroma), len(real.chroma))
    value, compared = chroma_similarity(made.chroma[None, :frames], real.chroma[None, :frames])
    return float(value) if compared > 0 else None


def fad_score(reference: Sequence[Sound], generated: Sequence[Sound], tracks: Sequence[str], seed: int) -> Score:
    """FAD over the windows of all clips, with a jackknife interval over tracks (both sides of a pair together)."""
    if len(generated) < 2:
        return _nothing("FAD compares sets of clips: at least 2 are needed, not 1")
    real, made = _windows(reference), _windows(generated)
    if min(len(real), len(made)) < 2:
        return _nothing(f"at least 2 windows a side are needed, not {min(len(real), len(made))}; use longer clips")
    score: Score = {"windows": {"reference": len(real), "generated": len(made)}}
    if warning := few_samples_warning(min(len(real), len(made)), real.shape[1]):
        score["note"] = warning
    if len(set(tracks)) < FEWEST_FOR_INTERVAL:
        value = frechet_distance(*Moments.of(real).gaussian(), *Moments.of(made).gaussian())
        return score | _no_interval(value, len(set(tracks)))
    groups = jackknife_groups(len(generated), tracks, seed=seed)
    interval, without = jackknife(_fad_without(reference, generated, groups), int(groups.max()) + 1, least=0.0)
    method = {"method": "delete-group jackknife over tracks", "without": without}
    return interval._asdict() | method | score


def infinity_score(reference: Sequence[Sound], generated: Sequence[Sound], tracks: Sequence[str], seed: int) -> Score:
    """FAD extrapolated to any number of windows of the generated clips, against all windows of the references."""
    made = _windows(generated)
    owners = [track for sound, track in zip(generated, tracks, strict=True) for _ in sound.windows]
    try:
        gaussian = ReferenceGaussian(*Moments.of(_windows(reference)).gaussian())
        line = fad_infinity(gaussian, made, owners, seed=seed)
        score: Score = {"r2": line.r2, "sizes": line.sizes, "distances": line.distances}
        if len(set(tracks)) < FEWEST_FOR_INTERVAL:
            return _no_interval(line.value, len(set(tracks))) | score
        interval = fad_infinity_interval(gaussian, made, owners, seed=seed)
    except InputError as error:
        return _nothing(str(error))
    return interval._asdict() | {"method": "delete-group jackknife over tracks"} | score


def _fad_without(reference: Sequence[Sound], generated: Sequence[Sound], groups: Any) -> Callable[[int | None], float]:
    sides = []
    for sounds in (reference, generated):
        parts = [
            Moments.of(_windows([sound for sound, group in zip(sounds, groups, strict=True) if group == number]))
            for number in range(int(groups.max()) + 1)
        ]
        sides.append((sum(parts[1:], start=parts[0]), parts))

    def statistic(group: int | None) -> float:
        left = [whole if group is None else whole - parts[group] for whole, parts in sides]
        return frechet_distance(*left[0].gaussian(), *left[1].gaussian())

    return statistic


def _windows(sounds: Sequence[Sound]) -> torch.Tensor:
    return torch.cat([sound.windows for sound in sounds])


def mean_score(values: Values, tracks: Sequence[str], seed: int, empty: str) -> Score:
    """Mean over the clips that have a value, with a bootstrap interval over their tracks."""
    known = [value for value in values if value is not None]
    theirs = [track for track, value in zip(tracks, values, strict=True) if value is not None]
    if not known:
        return _nothing(empty)
    score: Score = (
        {} if len(known) == len(values) else {"n": len(known), "note": f"{len(known)} of {len(values)} clips"}
    )
    if len(set(theirs)) < FEWEST_FOR_INTERVAL:
        return score | _no_interval(float(np.mean(known)), len(set(theirs)))
    return bootstrap_mean(known, theirs, seed=seed)._asdict() | {"method": "percentile bootstrap over tracks"} | score


def _means(per_clip: dict[str, Values], tracks: Sequence[str], seed: int) -> dict[str, Score]:
    empty = {"clap": "no clip has a caption", "chroma": "every reference is silent", "kld": "no clips"}
    return {name: mean_score(values, tracks, seed, empty[name]) for name, values in per_clip.items()}


def _no_interval(value: float, count: int) -> Score:
    reason = f"an interval needs at least {FEWEST_FOR_INTERVAL} tracks, not {count}"
    return {"value": value, "low": None, "high": None, "interval": reason}


def _nothing(reason: str) -> Score:
    return {"value": None, "low": None, "high": None, "interval": reason}


def _context(heard: Sequence[HeardPair], seed: int) -> dict[str, Any]:
    """Rows that say how to read the scores: what real recordings, wrong ones and noise get from the same judge."""
    reference, noise = [one.reference for one in heard], [one.noise for one in heard]
    tracks = [one.pair.track for one in heard]
    order = [str(track) for track in np.random.default_rng(seed).permutation(sorted(set(tracks)))]
    own = clip_values(heard, reference, reference)["clap"]
    rows: dict[str, Any] = {
        "reference": {
            "label": "References",
            "meaning": "The recordings themselves: FAD between two random halves of them (half the clips, so a little "
            "high), CLAP with their own captions",
            "clap": mean_score(own, tracks, seed, "no clip has a caption"),
        }
    }
    if len(order) >= 4:
        rows["reference"]["fad"] = _halves(reference, tracks, order)
    if len(order) >= 2:
        rows["shuffled"] = {
            "label": "References, shuffled",
            "meaning": "The recordings of other prompts: good music that ignores the prompt (chance level)",
            **_means(clip_values(heard, _others(reference, tracks, order), reference), tracks, seed),
        }
    rows["noise"] = {
        "label": "White noise",
        "meaning": "Noise in place of music: the far end of the scale",
        "fad": fad_score(reference, noise, tracks, seed),
        **_means(clip_values(heard, noise, reference), tracks, seed),
    }
    return rows


def _halves(reference: Sequence[Sound], tracks: Sequence[str], order: Sequence[str]) -> Score:
    """FAD between the clips of two halves of the tracks. They pair with nothing, so there is no paired interval."""
    first = set(order[: len(order) // 2])
    halves = [
        [sound for sound, track in zip(reference, tracks, strict=True) if (track in first) == side]
        for side in (True, False)
    ]
    moments = [Moments.of(_windows(half)) for half in halves]
    if min(one.count for one in moments) < 2:
        return _nothing("at least 2 windows a side are needed; use longer clips")
    value = frechet_distance(*moments[0].gaussian(), *moments[1].gaussian())
    return {"value": value, "low": None, "high": None, "interval": "two halves of one set, which do not pair"}


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
