"""The metrics that are means: what each clip scores, and how many votes it has in the mean.

Shape letters: N clips, W windows, S segments, D dimensions, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.chroma_similarity import chroma_similarity
from evaluation.clap_score import clap_score
from evaluation.kld import kl_divergence
from evaluation.listening import HeardPair, Sound
from evaluation.protocol import Choices, ChromaChoices, CLAPChoices, KLChoices
from evaluation.retrieval import retrieval_hits
from evaluation.tables import recall_key
from evaluation.uncertainty import FEWEST_FOR_INTERVAL, bootstrap_mean

Score = dict[str, Any]
_DIRECTIONS = ("audio_to_text", "text_to_audio")
_HIT = "percentile bootstrap over tracks, among all clips and captions"


@dataclass(frozen=True)
class ClipValues:
    """One number a clip.

    Attributes:
        values: N; None where a clip has none: no caption, or a reference that is silent.
        votes: N, how much each counts in the mean.
        empty: why there is no mean where no clip has a value.
        method: of the mean's interval.
    """

    values: list[float | None]
    votes: list[float]
    empty: str = "no clip has a caption"
    method: str = "percentile bootstrap over tracks"


def clip_values(
    choices: Choices, heard: Sequence[HeardPair], generated: Sequence[Sound], reference: Sequence[Sound]
) -> dict[str, ClipValues]:
    """Metrics that are means over clips: ``generated[i]`` against ``reference[i]`` and the caption of ``heard[i]``.

    Args:
        choices: the protocol; what it leaves out is not in the result.
        heard: the pairs whose captions count.
        generated: N sounds.
        reference: N sounds.
    """
    found = {}
    if choices.kld is not None:
        found["kld"] = _kl(choices.kld, generated, reference)
    if choices.clap is not None:
        texts = [one.text for one in heard]
        found["clap"] = _clap(choices.clap, generated, texts)
        found |= _recalls(choices.clap.retrieval, heard, generated)
    if choices.chroma is not None:
        found["chroma"] = _chroma(choices.chroma, generated, reference)
    return found


def mean_score(of: ClipValues, tracks: Sequence[str], seed: int) -> Score:
    """Mean over the clips that have a value, with a bootstrap interval over their tracks."""
    known = [row for row, value in enumerate(of.values) if value is not None]
    values = [value for value in of.values if value is not None]
    votes, theirs = [of.votes[row] for row in known], [tracks[row] for row in known]
    if not known:
        return nothing(of.empty)
    score: Score = {}
    if len(known) < len(of.values):
        score = {"n": len(known), "note": f"{len(known)} of {len(of.values)} clips"}
    if len(set(theirs)) < FEWEST_FOR_INTERVAL:
        return score | no_interval(float(np.average(values, weights=votes)), len(set(theirs)))
    interval = bootstrap_mean(values, theirs, weights=votes, seed=seed)
    return interval._asdict() | {"method": of.method} | score


def no_interval(value: float, tracks: int) -> Score:
    """A value of too few tracks for an interval."""
    reason = f"an interval needs at least {FEWEST_FOR_INTERVAL} tracks, not {tracks}"
    return {"value": value, "low": None, "high": None, "interval": reason}


def nothing(reason: str) -> Score:
    """No value, and why."""
    return {"value": None, "low": None, "high": None, "interval": reason}


def _kl(choices: KLChoices, generated: Sequence[Sound], reference: Sequence[Sound]) -> ClipValues:
    values: list[float | None] = []
    votes = []
    for made, real in zip(generated, reference, strict=True):
        q_SL, p_SL = _heard(made.logits), _heard(real.logits)
        if choices.average == "logits_mean":
            q_SL, p_SL = q_SL.mean(0, keepdim=True), p_SL.mean(0, keepdim=True)
        both = min(len(q_SL), len(p_SL))  # a segment that the other side does not have compares with nothing
        divergence = kl_divergence(q_SL[:both], p_SL[:both], direction=choices.direction, epsilon=choices.epsilon)
        values.append(float(divergence.mean()))
        votes.append(float(both))
    return ClipValues(values, votes)


def _clap(choices: CLAPChoices, sounds: Sequence[Sound], texts: Sequence[Tensor | None]) -> ClipValues:
    values: list[float | None] = []
    for sound, text in zip(sounds, texts, strict=True):
        windows_WD = _heard(sound.captioned)
        if choices.average == "embeddings":
            windows_WD = windows_WD.mean(0, keepdim=True)
        values.append(None if text is None else float(clap_score(windows_WD, text.expand_as(windows_WD)).mean()))
    return ClipValues(values, [1.0] * len(values))


def _recalls(numbers: Sequence[int], heard: Sequence[HeardPair], sounds: Sequence[Sound]) -> dict[str, ClipValues]:
    """R@k both ways, of the clips that have captions: 1 where a clip was found, 0 where not."""
    count = len(heard)
    keys = [recall_key(direction, k) for k in numbers for direction in _DIRECTIONS]
    found = {key: ClipValues([None] * count, [1.0] * count, method=_HIT) for key in keys}
    known = [row for row, one in enumerate(heard) if one.text is not None]
    if not known:
        return found
    captions = [heard[row].pair.caption for row in known]
    audio = torch.stack([_heard(sounds[row].captioned).mean(0) for row in known])
    text = torch.stack([_heard(heard[row].text) for row in known])
    candidates = len(set(captions)), len(captions)
    for k in numbers:
        both = retrieval_hits(audio, text, captions, k)
        for direction, among, hits in zip(_DIRECTIONS, candidates, both, strict=True):
            key = recall_key(direction, k)
            if among <= k:
                found[key] = replace(found[key], empty=f"the {k} nearest of {among} are always all of them")
                continue
            for row, hit in zip(known, hits.tolist(), strict=True):
                found[key].values[row] = float(hit)
    return found


def _chroma(choices: ChromaChoices, generated: Sequence[Sound], reference: Sequence[Sound]) -> ClipValues:
    values: list[float | None] = []
    votes = []
    for made, real in zip(generated, reference, strict=True):
        made_TP, real_TP = _heard(made.chroma), _heard(real.chroma)
        both = min(len(made_TP), len(real_TP))
        value, compared = chroma_similarity(made_TP[None, :both], real_TP[None, :both], silent=choices.silent)
        values.append(float(value) if compared > 0 else None)
        votes.append(float(compared) if choices.average == "frame" else 1.0)
    return ClipValues(values, votes, "every reference is silent")


def _heard(part: Tensor | None) -> Tensor:
    """What the protocol asks for, so somebody has heard it."""
    assert part is not None
    return part
