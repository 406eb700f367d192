"""The metrics that compare sets: FAD, FAD-infinity, FAD of single clips and KAD, with intervals over tracks.

Shape letters: N windows, D dimensions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError
from evaluation.clip_scores import Score, no_interval, nothing
from evaluation.fad import Moments, ReferenceGaussian, frechet_distance
from evaluation.fad_infinity import fad_infinity, fad_infinity_interval
from evaluation.kad import kernel_audio_distance, kernel_audio_distance_interval, median_distance
from evaluation.listening import Sound
from evaluation.statistics_files import ReferenceStatistics
from evaluation.uncertainty import FEWEST_FOR_INTERVAL, few_samples_warning, jackknife, jackknife_groups

_JACKKNIFE = "delete-group jackknife over tracks"
Statistics = ReferenceStatistics | None


def fad_score(
    reference: Sequence[Sound],
    generated: Sequence[Sound],
    tracks: Sequence[str],
    seed: int,
    statistics: Statistics = None,
) -> Score:
    """FAD over the windows of all clips, with a jackknife interval over tracks (both sides of a pair together).

    Args:
        reference: of the pairs.
        generated: of the pairs.
        tracks: of the pairs.
        seed: of the groups.
        statistics: the Gaussian that takes the references' place; it stays whole.
    """
    made = windows_of(generated)
    count = statistics.count if statistics else len(windows_of(reference))
    least = len(made) if count is None else min(len(made), count)
    if reason := _too_few(len(generated), least):
        return nothing(reason)
    score: Score = {"windows": {"reference": count, "generated": len(made)}}
    if warning := few_samples_warning(least, made.shape[1]):
        score["note"] = warning
    groups = jackknife_groups(len(generated), tracks, seed=seed)
    statistic = _fad_without(reference, generated, groups, statistics)
    if len(set(tracks)) < FEWEST_FOR_INTERVAL:
        return score | no_interval(statistic(None), len(set(tracks)))
    interval, without = jackknife(statistic, int(groups.max()) + 1, least=0.0)
    return interval._asdict() | {"method": _JACKKNIFE, "without": without} | score


def infinity_score(
    reference: Sequence[Sound],
    generated: Sequence[Sound],
    tracks: Sequence[str],
    seed: int,
    statistics: Statistics = None,
) -> Score:
    """FAD extrapolated to any number of windows of the generated clips, against all windows of the references."""
    made = windows_of(generated)
    owners = [track for sound, track in zip(generated, tracks, strict=True) for _ in windows_of([sound])]
    try:
        gaussian = _gaussian(reference, statistics)
        line = fad_infinity(gaussian, made, owners, seed=seed)
        score: Score = {"r2": line.r2, "sizes": line.sizes, "distances": line.distances}
        if len(set(tracks)) < FEWEST_FOR_INTERVAL:
            return no_interval(line.value, len(set(tracks))) | score
        interval = fad_infinity_interval(gaussian, made, owners, seed=seed)
    except InputError as error:
        return nothing(str(error))
    return interval._asdict() | {"method": _JACKKNIFE} | score


def clip_distances(
    reference: Sequence[Sound], generated: Sequence[Sound], statistics: Statistics = None
) -> list[float | None]:
    """FAD of each clip's own windows to the Gaussian of all references: it finds outliers, and is no mean's part.

    None where there are not two windows.
    """
    if statistics is None and len(windows_of(reference)) < 2:
        return [None] * len(generated)
    gaussian = _gaussian(reference, statistics)
    clips = [windows_of([sound]) for sound in generated]
    return [gaussian.distance(windows) if len(windows) > 1 else None for windows in clips]


def kad_score(reference: Sequence[Sound], generated: Sequence[Sound], tracks: Sequence[str], seed: int) -> Score:
    """KAD over the windows of all clips, with a jackknife interval over tracks as FAD has it.

    The bandwidth is that of the whole reference, whichever group is left out.
    """
    real, made = windows_of(reference), windows_of(generated)
    if reason := _too_few(len(generated), min(len(real), len(made))):
        return nothing(reason)
    try:
        bandwidth = median_distance(real)
        score: Score = {"bandwidth": bandwidth}
        if len(set(tracks)) < FEWEST_FOR_INTERVAL:
            return score | no_interval(kernel_audio_distance(real, made, bandwidth=bandwidth), len(set(tracks)))
        groups = jackknife_groups(len(generated), tracks, seed=seed)
        sides = [np.repeat(groups, [len(windows_of([one])) for one in side]) for side in (reference, generated)]
        interval, without = kernel_audio_distance_interval(real, made, *sides, bandwidth=bandwidth)
    except InputError as error:
        return nothing(str(error))
    return interval._asdict() | {"method": _JACKKNIFE, "without": without} | score


def halves(reference: Sequence[Sound], tracks: Sequence[str], order: Sequence[str], kernel: bool) -> Score:
    """FAD, or KAD, between the clips of two halves of the tracks. They pair with nothing: no paired interval.

    Args:
        reference: the clips.
        tracks: of the clips.
        order: the tracks, of which the first half is one side.
        kernel: KAD instead of FAD.
    """
    first = set(order[: len(order) // 2])
    sides = [
        windows_of([sound for sound, track in zip(reference, tracks, strict=True) if (track in first) == side])
        for side in (True, False)
    ]
    if min(map(len, sides)) < 2:
        return nothing("at least 2 windows a side are needed; use longer clips")
    try:
        if kernel:
            value = kernel_audio_distance(*sides, bandwidth=median_distance(windows_of(reference)))
        else:
            gaussians = [Moments.of(side).gaussian() for side in sides]
            value = frechet_distance(*gaussians[0], *gaussians[1])
    except InputError as error:
        return nothing(str(error))
    return {"value": value, "low": None, "high": None, "interval": "two halves of one set, which do not pair"}


def windows_of(sounds: Sequence[Sound]) -> Tensor:
    """[N, D], those of all clips behind one another."""
    return torch.cat([sound.windows for sound in sounds if sound.windows is not None])


def _too_few(clips: int, windows: int) -> str:
    """Why a set is none; nothing where it is one."""
    if clips < 2:
        return f"sets of clips are compared: at least 2 are needed, not {clips}"
    if windows < 2:
        return f"at least 2 windows a side are needed, not {windows}; use longer clips"
    return ""


def _gaussian(reference: Sequence[Sound], statistics: Statistics) -> ReferenceGaussian:
    if statistics is not None:
        return ReferenceGaussian(statistics.mean, statistics.covariance)
    return ReferenceGaussian(*Moments.of(windows_of(reference)).gaussian())


def _fad_without(
    reference: Sequence[Sound], generated: Sequence[Sound], groups: Any, statistics: Statistics
) -> Callable[[int | None], float]:
    """FAD without one group of clips."""
    made = _left(generated, groups)
    real = None if statistics else _left(reference, groups)

    def statistic(group: int | None) -> float:
        if real is None:
            assert statistics is not None
            return frechet_distance(statistics.mean, statistics.covariance, *made(group).gaussian())
        return frechet_distance(*real(group).gaussian(), *made(group).gaussian())

    return statistic


def _left(sounds: Sequence[Sound], groups: Any) -> Callable[[int | None], Moments]:
    """Moments of a side without one group of clips."""
    parts = [
        Moments.of(windows_of([sound for sound, group in zip(sounds, groups, strict=True) if group == number]))
        for number in range(int(groups.max()) + 1)
    ]
    whole = sum(parts[1:], start=parts[0])
    return lambda group: whole if group is None else whole - parts[group]
