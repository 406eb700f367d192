"""How well a judge hears and reads music whose instruments, tempi and captions are known.

Shape letters: B clips, D dimensions, L labels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.manifest import Manifest, Track
from evaluation.ears import JudgeEar
from evaluation.judges.contract import TextJudge
from evaluation.judges.labels import label_targets
from evaluation.uncertainty import Interval, bootstrap_mean, bootstrap_ratio
from experiments.judges.distances import distances
from experiments.judges.hearing import hear_files

GROUP = 32  # clips among which a caption finds its own
_GROUPINGS = 50


def judge_accuracy(
    judge: TextJudge, clips: Manifest, device: str = "cpu", advance: Callable[[int], None] = lambda heard: None
) -> dict[str, Any]:
    """Measures a judge on clips of rendered scores.

    Args:
        judge: with labels named as ``evaluation.judges.labels.build_labels`` names them.
        clips: their lines hold the facts that ``mgl corpus`` writes, as those of ``mgl eval-set`` do.
        device: where the judge is.
        advance: called with how many clips were heard since the last call.

    Returns:
        ``f1`` by kind of label (micro, over clips), ``accuracy`` of drums, tempo and collection, ``recall`` and
        ``oracle`` (R@1 from a caption to its clip among 32), each with bounds; and ``fad``, see ``Distances``.

    Raises:
        InputError: a clip's facts are not those of a rendered score, or there are fewer than 32 tracks.
    """
    if judge.labels is None:
        raise InputError(f"judge {judge.name} names nothing; this is for judges with labels")
    tracks = list(clips)
    for track in tracks:
        if not {"instruments", "families", "drums", "bpm", "caption_facts"} <= track.facts.keys():
            raise InputError(f"{track.id}: its line does not say what plays; give clips of `mgl corpus`'s scores")
    windows, scores = [], []
    for heard in hear_files(JudgeEar(judge, torch.device(device)), [track.path for track in tracks], advance):
        windows.append(heard["windows"])
        scores.append(heard["logits"].mean(0))
    logits = torch.stack(scores)
    audio = torch.stack([clip.mean(0) for clip in windows])
    text = judge.embed_text([track.caption for track in tracks]).cpu()
    owners = [_owner(track) for track in tracks]
    targets, _ = label_targets(judge.labels, [track.facts for track in tracks])
    return {
        "judge": {"name": judge.name, "checksum": judge.checksum},
        "n": len(tracks),
        "tracks": len(set(owners)),
        "f1": _f1_scores(judge.labels, logits, targets),
        "accuracy": _accuracies(judge.labels, logits, targets, owners),
        **_recalls(audio, text, tracks, owners),
        "fad": asdict(distances(windows, tracks, owners)),
    }


def _owner(track: Track) -> str:
    return str(track.facts.get("track") or track.id)


def _f1_scores(labels: Sequence[str], logits: Tensor, targets: Tensor) -> dict[str, Any]:
    """2 TP / (2 TP + FP + FN) over all clips and the labels of a kind, at a score of 0."""
    scores = {}
    for kind in ("family", "drums", "instrument"):
        columns = [place for place, label in enumerate(labels) if label.partition(":")[0] == kind]
        if not columns:
            continue
        said, true = logits[:, columns] > 0, targets[:, columns] > 0
        hits = 2 * (said & true).sum(1)
        counts = hits + (said ^ true).sum(1)
        scores[kind] = _bounded(bootstrap_ratio(hits.double().numpy(), counts.double().numpy()))
    return scores


def _accuracies(labels: Sequence[str], logits: Tensor, targets: Tensor, owners: Sequence[str]) -> dict[str, Any]:
    """Share of clips of which drums, tempo class or collection is named rightly."""
    found = {}
    for kind in ("drums", "tempo", "collection"):
        columns = [place for place, label in enumerate(labels) if label.partition(":")[0] == kind]
        if not columns:
            continue
        if kind == "drums":
            right = (logits[:, columns[0]] > 0) == (targets[:, columns[0]] > 0)
        else:
            right = logits[:, columns].argmax(1) == targets[:, columns].argmax(1)
        found[kind] = _bounded(bootstrap_mean(right.double().numpy(), owners))
    return found


def _recalls(audio: Tensor, text: Tensor, tracks: Sequence[Track], owners: Sequence[str]) -> dict[str, Any]:
    """R@1 from captions to clips, the judge's and an oracle's, over random groups of 32 tracks with a clip of each.

    The oracle knows which clips fit what a caption states, and guesses among those.
    """
    cosines = (text @ torch.nn.functional.normalize(audio, dim=-1).T).numpy()
    fits = np.array([[_fits(said, clip) for clip in tracks] for said in tracks])
    rows: dict[str, list[int]] = {}
    for row, owner in enumerate(owners):
        rows.setdefault(owner, []).append(row)
    names = sorted(rows)
    if len(names) < GROUP:
        raise InputError(f"recall among {GROUP} needs as many tracks, not {len(names)}")
    generator = np.random.default_rng(0)
    found, known = np.zeros(len(tracks)), np.zeros(len(tracks))
    drawn = np.zeros(len(tracks))
    for _ in range(_GROUPINGS):
        order = generator.permutation(len(names))
        for start in range(0, len(order) - GROUP + 1, GROUP):
            group = np.array([generator.choice(rows[names[place]]) for place in order[start : start + GROUP]])
            block = cosines[np.ix_(group, group)]
            found[group] += block.argmax(1) == np.arange(GROUP)
            known[group] += 1 / fits[np.ix_(group, group)].sum(1)
            drawn[group] += 1
    seen = drawn > 0
    kept = [owner for owner, one in zip(owners, seen, strict=True) if one]
    return {
        "recall": _bounded(bootstrap_mean(found[seen] / drawn[seen], kept)),
        "oracle": _bounded(bootstrap_mean(known[seen] / drawn[seen], kept)),
    }


def _fits(said: Track, clip: Track) -> bool:
    """Whether all that a track's caption states is true of a clip."""
    return all(_fact(said, name) == _fact(clip, name) for name in said.facts["caption_facts"])


def _fact(track: Track, name: str) -> Any:
    value = track.facts.get(name)
    return frozenset(value) if isinstance(value, list) else value


def _bounded(interval: Interval) -> Mapping[str, float]:
    return interval._asdict()
