"""What counting codes comes to: a bigram model of each codebook, beside which a language model's cross-entropy is read.

Shape letters: N tracks, K codebooks, T frames, V entries, A strengths.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import InputError
from datamodules.tokens.store import TokenStore
from evaluation.uncertainty import bootstrap_ratio
from lightning_modules.lm.held_out import unigram_log_probabilities
from lightning_modules.lm.patterns import Pattern

# Codes that the unigram counts for beside those that were seen to follow. The best is taken for each codebook on the
# very codes that are scored, which favours the bigram.
STRENGTHS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
_Array = NDArray[np.float64]


@dataclass(frozen=True)
class BigramScores:
    """Cross-entropy in nats of the bigram: ``sums`` [N, K] over ``counts`` [N, K] codes, and ``strengths`` [K]."""

    sums: _Array
    counts: _Array
    strengths: _Array


class Bigram:
    """P(code | the one before it in its codebook) = (n(before, code) + s P(code)) / (n(before) + s), counted.

    Args:
        store: of tokens.
        split: whose tracks are counted.
    """

    def __init__(self, store: TokenStore, split: str = "train") -> None:
        size = store.entries
        self.pairs = np.zeros((store.codebooks, size * size), dtype=np.int64)
        for track in store.split(split):
            codes = store.window(track).astype(np.int64)
            for book, row in zip(self.pairs, codes, strict=True):
                book += np.bincount(row[:-1] * size + row[1:], minlength=size * size)
        self.pairs = self.pairs.reshape(store.codebooks, size, size)
        self.before = self.pairs.sum(2)
        self.unigram = unigram_log_probabilities(store, split).double().exp().numpy()

    def cross_entropy(self, codes: NDArray[np.int64]) -> _Array:
        """Codes [K, T] -> nats of each for each strength, [A, K, T]; the first of a row has but the unigram."""
        books = np.arange(len(codes))[:, None]
        single = self.unigram[books, codes]
        followed = self.pairs[books, codes[:, :-1], codes[:, 1:]]
        seen = self.before[books, codes[:, :-1]]
        nats = np.empty((len(STRENGTHS), *codes.shape))
        nats[:, :, 0] = -np.log(single[:, 0])
        for row, strength in zip(nats, STRENGTHS, strict=True):
            row[:, 1:] = -np.log((followed + strength * single[:, 1:]) / (seen + strength))
        return nats


def bigram_scores(store: TokenStore, pattern: Pattern, split: str, seconds: float) -> BigramScores:
    """Scores the codes that ``lightning_modules.lm.held_out`` scores, window by window.

    Args:
        store: counted in its split "train".
        pattern: of the language model: which codes of a window it predicts.
        split: to score.
        seconds: length of the windows.

    Raises:
        InputError: the store has no such split, the pattern other codebooks, or windows are shorter than a frame.
    """
    frames = round(seconds * store.frame_rate)
    if frames < 1:
        raise InputError(f"windows of {seconds} s are shorter than a frame; give more --seconds")
    if pattern.codebooks != store.codebooks:
        raise InputError(f"{store.folder}: has {store.codebooks} codebooks, the model {pattern.codebooks}")
    predicted = (pattern.steps(frames) < pattern.trimmed_length(frames)).numpy()
    bigram, tracks = Bigram(store), store.split(split)
    sums = np.zeros((len(STRENGTHS), len(tracks), store.codebooks))
    counts = np.zeros((len(tracks), store.codebooks))
    for number, track in enumerate(tracks):
        for start in range(0, track.frames, frames):
            codes = store.window(track, start, frames).astype(np.int64)
            scored = predicted[:, : codes.shape[1]]
            sums[:, number] += (bigram.cross_entropy(codes) * scored).sum(2)
            counts[number] += scored.sum(1)
    best = sums.sum(1).argmin(0)
    return BigramScores(sums[best, :, np.arange(store.codebooks)].T, counts, np.array(STRENGTHS)[best])


def bigram_record(scores: BigramScores, split: str, seconds: float) -> dict[str, Any]:
    """What the JSON file holds: a row a codebook, with intervals over tracks where there are two."""
    rows = []
    for k, strength in enumerate(scores.strengths):
        sums, counts = scores.sums[:, k], scores.counts[:, k]
        bounds: dict[str, float | None] = {"value": float(sums.sum() / counts.sum()), "low": None, "high": None}
        if len(sums) > 1:
            bounds = dict(bootstrap_ratio(sums, counts)._asdict())
        rows.append({"codebook": k, **bounds, "strength": float(strength)})
    return {"split": split, "n": len(scores.sums), "window_seconds": seconds, "cross_entropy": rows}
