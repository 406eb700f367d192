"""Whether clips are what their prompts ask for, as far as a judge hears it: instruments, drums, tempo and melody.

Shape letters: N clips, L labels, T chroma frames, P pitch classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.manifest import Manifest, Track
from evaluation.chroma_similarity import chroma_similarity
from evaluation.clip_scores import ClipValues, Score, mean_score
from evaluation.ears import ChromaEar, Ear, JudgeEar
from evaluation.judges.contract import Judge
from evaluation.judges.labels import label_targets
from evaluation.protocol import load_protocol
from experiments.judges.hearing import hear_files

# What is listened for, by key, and how it is called on tables.
KINDS = {
    "families": "instrument families, F1",
    "instruments": "single instruments, F1",
    "drums": "drums where asked for",
    "no drums": "none where none are asked for",
    "tempo": "tempo class, where stated",
    "melody": "melody, cosine of chroma",
}
_FACTS = frozenset(("instruments", "families", "drums", "bpm", "caption_facts"))
_TEMPO = frozenset(("bpm", "tempo"))  # facts of which either states the tempo class


@dataclass(frozen=True)
class _Clip:
    """A clip, the line that it was asked for with, and another clip's line."""

    path: Path
    asked: Track
    other: Track


@dataclass(frozen=True)
class _Sounds:
    """Of N clips class scores [N, L] and, with melodies, chroma [T, P] of each, and of each prompt's melody by id."""

    logits: Tensor
    chroma: Sequence[Tensor]
    melodies: Mapping[str, Tensor]


def prompts_followed(
    judge: Judge,
    generated: Manifest,
    prompts: Manifest,
    seed: int = 0,
    device: str = "cpu",
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Listens to clips, and compares with what their prompts state.

    Args:
        judge: with labels named as ``evaluation.judges.labels.build_labels`` names them.
        generated: clips.
        prompts: lines of the same ids, with the facts that ``mgl corpus`` writes; where all name a ``melody``, clips
            are compared with that, too.
        seed: draws whose prompt each clip is held against for the level of chance, and the intervals.
        device: where the judge is.
        advance: called with (files heard, files in all).

    Returns:
        ``followed`` and, against another track's prompt, ``chance``: each with the means over clips of ``families`` and
        ``instruments`` (F1 of a clip's labels), ``drums`` (share heard where they are asked for), ``no drums`` (share
        in which none are heard where none are asked for), ``tempo`` (share of the right class, where the caption states
        it) and ``melody`` (cosine of the chroma), as far as the judge has labels and the prompts melodies.

    Raises:
        InputError: no ids in common, facts that are not a rendered score's, all of one track, a judge without labels,
            or audio that cannot be read.
    """
    if judge.labels is None:
        raise InputError(f"judge {judge.name} names nothing; this is for judges with labels")
    clips = _paired(generated, prompts, seed)
    sounds = _listen(judge, clips, prompts.path.parent, torch.device(device), advance)
    owners = [_owner(clip.asked) for clip in clips]
    found = {}
    for name, lines in (("followed", [clip.asked for clip in clips]), ("chance", [clip.other for clip in clips])):
        values = _label_values(judge.labels, sounds.logits, lines)
        if sounds.melodies:
            values["melody"] = _chroma_values(sounds.chroma, [sounds.melodies[line.id] for line in lines])
        found[name] = {kind: _mean(kind, of, owners, seed) for kind, of in values.items()}
    about = {"name": judge.name, "checksum": judge.checksum}
    return {"judge": about, "n": len(clips), "tracks": len(set(owners)), **found}


def _paired(generated: Manifest, prompts: Manifest, seed: int) -> list[_Clip]:
    """Clips in the order of their ids, each with the prompt of the next one of another track in a random circle."""
    asked = {track.id: track for track in prompts}
    made = sorted((track for track in generated if track.id in asked), key=lambda track: track.id)
    if not made:
        raise InputError(f"no id is both in {generated.path} and in {prompts.path}; generate with the prompts' ids")
    for track in made:
        if not asked[track.id].facts.keys() >= _FACTS:
            raise InputError(f"{track.id}: its line does not say what plays; give clips of `mgl corpus`'s scores")
    circle = [asked[made[place].id] for place in np.random.default_rng(seed).permutation(len(made))]
    if len({_owner(track) for track in circle}) < 2:
        raise InputError(f"{prompts.path}: the level of chance needs prompts of at least 2 tracks")
    following = {}
    for place, track in enumerate(circle):
        around = circle[place + 1 :] + circle[:place]
        following[track.id] = next(other for other in around if _owner(other) != _owner(track))
    return [_Clip(track.path, asked[track.id], following[track.id]) for track in made]


def _owner(track: Track) -> str:
    return str(track.facts.get("track") or track.id)


def _listen(
    judge: Judge, clips: Sequence[_Clip], root: Path, device: torch.device, advance: Callable[[int, int], None]
) -> _Sounds:
    """Hears all clips with the judge and, if all prompts have melodies, the chroma of both."""
    named = {clip.asked.id: clip.asked.facts.get("melody") for clip in clips}
    given = {name: root / str(melody) for name, melody in named.items() if melody}
    paths = [clip.path for clip in clips]
    with_melodies = len(given) == len(clips)
    total = (3 if with_melodies else 1) * len(clips)
    heard = 0

    def more(count: int) -> None:
        nonlocal heard
        heard += count
        advance(heard, total)

    def hear(ear: Ear, files: Sequence[Path], what: str) -> Iterator[Tensor]:
        return (one[what] for one in hear_files(ear, files, more))

    logits = torch.stack([scores.mean(0) for scores in hear(JudgeEar(judge, device), paths, "logits")])
    if not with_melodies:
        return _Sounds(logits, [], {})
    choices = load_protocol("default").choices.chroma
    assert choices is not None, "the default protocol has all four metrics"
    ear = ChromaEar(choices, device)
    melodies = dict(zip(given, hear(ear, list(given.values()), "chroma"), strict=True))
    return _Sounds(logits, list(hear(ear, paths, "chroma")), melodies)


def _label_values(labels: Sequence[str], logits: Tensor, lines: Sequence[Track]) -> dict[str, list[float | None]]:
    """By kind a number a clip, None where its line asks for nothing of the kind."""
    targets = label_targets(labels, [line.facts for line in lines])[0] > 0
    kinds = [label.partition(":")[0] for label in labels]
    values: dict[str, list[float | None]] = {}
    for name, kind in (("families", "family"), ("instruments", "instrument")):
        columns = [place for place, one in enumerate(kinds) if one == kind]
        if columns:
            values[name] = _f1_scores(logits[:, columns] > 0, targets[:, columns])
    if "drums" in kinds:
        column = kinds.index("drums")
        heard, wanted = (logits[:, column] > 0).tolist(), targets[:, column].tolist()
        values["drums"] = [float(one) if asked else None for one, asked in zip(heard, wanted, strict=True)]
        values["no drums"] = [None if asked else float(not one) for one, asked in zip(heard, wanted, strict=True)]
    columns = [place for place, one in enumerate(kinds) if one == "tempo"]
    if columns:
        right = logits[:, columns].argmax(1) == targets[:, columns].int().argmax(1)
        stated = [not _TEMPO.isdisjoint(line.facts["caption_facts"]) for line in lines]
        values["tempo"] = [float(one) if said else None for one, said in zip(right.tolist(), stated, strict=True)]
    return values


def _f1_scores(said: Tensor, true: Tensor) -> list[float | None]:
    """2 TP / (2 TP + FP + FN) of each clip's labels; None where there are none to name and none was named."""
    hits = 2 * (said & true).sum(1)
    counts = hits + (said ^ true).sum(1)
    return [hit / count if count else None for hit, count in zip(hits.tolist(), counts.tolist(), strict=True)]


def _chroma_values(made: Sequence[Tensor], given: Sequence[Tensor]) -> list[float | None]:
    """Cosine of two chromas, as far as both last; None where the melody is silent."""
    values: list[float | None] = []
    for one_TP, other_TP in zip(made, given, strict=True):
        both = min(len(one_TP), len(other_TP))
        value, compared = chroma_similarity(one_TP[None, :both], other_TP[None, :both])
        values.append(float(value) if compared > 0 else None)
    return values


def _mean(kind: str, values: Sequence[float | None], owners: Sequence[str], seed: int) -> Score:
    return mean_score(ClipValues(list(values), [1.0] * len(values), f"no prompt asks for {kind}"), owners, seed)
