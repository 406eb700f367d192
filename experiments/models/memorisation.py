"""Whether a model goes on with music that it was trained on as that music went on.

From the first seconds of training tracks the model continues greedily with the track's caption, and so it does with
tracks that it has never seen (MusicGen paper, appendix; there 5 s of the first codebook). What the two have in common
is the music's own repetition; what training tracks have beyond it is remembered.

Shape letters: N items, K codebooks, T frames, P given frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest

from datamodules.errors import InputError
from datamodules.sample_order import uniform
from datamodules.tokens.store import TokenStore, TokenTrack
from evaluation.uncertainty import LEVEL, bootstrap_mean
from lightning_modules.generation.long_form import draw_all
from lightning_modules.generation.model import MusicModel
from lightning_modules.generation.windows import window_and_stride, windows

PARTIAL = 0.8  # of the codes: what the paper calls a partial match
_BATCH = 16
_FEWEST = 2


@dataclass(frozen=True)
class Excerpts:
    """How much of each track.

    Attributes:
        items: tracks of each side, at most.
        given: seconds that are given.
        seconds: that are continued.
    """

    items: int = 100
    given: float = 3.0
    seconds: float = 5.0


def memorisation(
    model: MusicModel,
    store: TokenStore,
    split: str,
    excerpts: Excerpts,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Continues training tracks and as many held-out ones, and counts what is as it was.

    Args:
        model: what is asked.
        store: tokens of its own codec.
        split: of the held-out tracks; the others are those of "train".
        excerpts: how much.
        advance: called with (items done, items in all).

    Returns:
        For "train" and ``split`` the figures of ``match_figures``.

    Raises:
        InputError: tokens of another codec, no held-out split, excerpts shorter than a frame, or fewer than two tracks
            of a side that last as long.
    """
    if store.codec != model.codec.checksum:
        raise InputError(f"{store.folder}: the tokens come from another codec; write them with the model's own")
    if split == "train":
        raise InputError("training tracks are compared with held-out ones; give another split")
    given, frames = (round(part * store.frame_rate) for part in (excerpts.given, excerpts.given + excerpts.seconds))
    if not 0 < given < frames:
        raise InputError("--given and --seconds must each be a frame at least")
    sides = {name: _drawn(store, name, frames) for name in ("train", split)}
    count = min(excerpts.items, *map(len, sides.values()))
    if count < _FEWEST:
        lengths = ", ".join(f"{len(tracks)} of {name!r}" for name, tracks in sides.items())
        raise InputError(
            f"{store.folder}: at least {_FEWEST} tracks of {frames / store.frame_rate:g} s are needed on either side, "
            f"there are {lengths}; make a larger corpus or ask for less"
        )
    done = 0
    found = {}
    for name, tracks in sides.items():
        equal = []
        for start in range(0, count, _BATCH):
            some = tracks[start : min(start + _BATCH, count)]
            equal += _equal_codes(model, store, some, given, frames)
            done += len(some)
            advance(done, 2 * count)
        found[name] = match_figures(np.stack(equal))
    return found


def match_figures(equal: NDArray[np.bool_]) -> dict[str, Any]:
    """Figures over items, each with bounds.

    Args:
        equal: [N, T], whether a code of the first codebook is the track's own.

    Returns:
        ``n``; ``equal``, the mean share of codes; ``run``, the mean length in codes of the longest stretch of equal
        ones, and ``longest``, the greatest; ``partial`` and ``exact``, the share of items of which at least 80 % or all
        codes are equal, with exact binomial bounds, for a bootstrap of none is none.
    """
    shares, runs = equal.mean(1), np.array([_longest_run(row) for row in equal])
    return {
        "n": len(equal),
        "codes": equal.shape[1],
        "equal": bootstrap_mean(shares)._asdict(),
        "run": bootstrap_mean(runs)._asdict(),
        "longest": int(runs.max()),
        "partial": _share(shares >= PARTIAL),
        "exact": _share(shares == 1),
    }


def _drawn(store: TokenStore, split: str, frames: int) -> list[TokenTrack]:
    """Tracks of a split that are long enough, in an order that has nothing to do with the store's."""
    tracks = [track for track in store.split(split) if track.frames >= frames]
    return sorted(tracks, key=lambda track: uniform(0, 0, f"memorisation {track.id}"))


def _equal_codes(
    model: MusicModel, store: TokenStore, tracks: Sequence[TokenTrack], given: int, frames: int
) -> list[NDArray[np.bool_]]:
    """For each track [T - P], whether the first codebook goes on as it did.

    The store's very codes are given, rather than audio: what a codec makes of a beginning alone ends differently.
    """
    whole = [torch.from_numpy(store.window(track, 0, frames).astype(np.int64)) for track in tracks]
    captions = [track.caption for track in tracks]
    asked = model.ask(captions, frames / store.frame_rate, greedy=True, guidance=1.0)
    length, stride = window_and_stride(store.frame_rate, model.window, None)
    asked = replace(
        asked,
        samples=[replace(one, given=codes[:, :given]) for one, codes in zip(asked.samples, whole, strict=True)],
        windows=[windows(frames, given, length, stride) for _ in whole],
    )
    made = draw_all(model.decoder, asked)
    return [(drawn[0, given:].cpu() == codes[0, given:]).numpy() for drawn, codes in zip(made, whole, strict=True)]


def _longest_run(equal: NDArray[np.bool_]) -> int:
    longest = run = 0
    for one in equal:
        run = run + 1 if one else 0
        longest = max(longest, run)
    return longest


def _share(hits: NDArray[np.bool_]) -> dict[str, float]:
    count = int(hits.sum())
    bounds = binomtest(count, len(hits)).proportion_ci(LEVEL)
    return {"value": count / len(hits), "low": float(bounds.low), "high": float(bounds.high), "count": count}
