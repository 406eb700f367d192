"""Cross-entropy of a model on a split of a token store, beside the unigram distribution of the training tokens.

Shape letters: N tracks, B windows, K codebooks, T frames, V entries.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datamodules.batches import TokenBatch
from datamodules.errors import InputError
from datamodules.tokens import Collate, token_window
from datamodules.tokens.store import TokenStore, TokenTrack
from lightning_modules.conditioning.conditioners import MELODY, TEXT
from lightning_modules.conditioning.conditions import Conditions
from lightning_modules.generation.engine import forced_logits
from lightning_modules.generation.guidance import branches
from lightning_modules.generation.model import MusicModel
from lightning_modules.lm.losses import cross_entropy_sums

_Window = tuple[TokenTrack, int]  # and the frame that it starts at


@dataclass(frozen=True)
class HeldOut:
    """Per track and codebook, in nats: model and unigram [N, K] summed over counts [N, K] codes.

    By track, for windows of one track are no independent samples.
    """

    model: Tensor
    unigram: Tensor
    counts: Tensor


def unigram_log_probabilities(store: TokenStore, split: str = "train") -> Tensor:
    """Log probability of each entry in each codebook [K, V] over a split, one pseudo-count an entry."""
    counts = np.ones((store.codebooks, store.entries))
    for track in store.split(split):
        for k, codes in enumerate(store.window(track)):
            counts[k] += np.bincount(codes, minlength=store.entries)
    return torch.from_numpy(np.log(counts / counts.sum(1, keepdims=True))).float()


@torch.inference_mode()
def held_out(
    model: MusicModel,
    store: TokenStore,
    split: str = "valid",
    seconds: float = 10.0,
    batch_size: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
    swapped: str = "",
) -> HeldOut:
    """Scores every window of every track of a split, text given, windows side by side and the last one short.

    With ``swapped``, the name of a condition, each window hears that of another track's window in place of its own:
    what that costs is what the condition is worth to the model.

    A model that generates in int8 is scored as it generates: one step after the other.

    Both columns are summed over the same codes: those that the pattern's trimmed sequence predicts.

    Raises:
        InputError: the store was written by another codec than the model's, its melodies were heard otherwise,
            windows are shorter than a frame, or there is no other track to swap with.
    """
    if store.codec != model.codec.checksum:
        raise InputError(
            f"{store.folder}: the tokens come from codec {store.codec[:12]}, the model was trained on "
            f"{model.codec.checksum[:12]}; write a store with the model's own codec"
        )
    melody, frames = model.conditioners.melody, round(seconds * store.frame_rate)
    if melody is not None and melody.config.stems != store.header.stems:
        heard = store.header.stems or "the full mix"
        raise InputError(f"{store.folder}: its melodies were heard in {heard}, the model's are not")
    if frames < 1:
        raise InputError(f"windows of {seconds} s are shorter than a frame; give more --seconds")
    windows = [(track, start) for track in store.split(split) for start in range(0, track.frames, frames)]
    others = _others(windows, store, split) if swapped else windows
    log_probabilities = unigram_log_probabilities(store).to(model.lm.embedding.weight.device)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for first in range(0, len(windows), batch_size):
        some = slice(first, first + batch_size)
        batch = _batch(store, windows[some], frames)
        conditions = _conditions(model, batch, _batch(store, others[some], frames) if swapped else batch, swapped)
        parts.append(_score(model, batch, conditions, log_probabilities))
        progress(min(first + batch_size, len(windows)), len(windows))
    tracks = {track.id: row for row, track in enumerate(store.split(split))}
    rows = torch.tensor([tracks[track.id] for track, _ in windows])
    columns = [torch.cat(column).cpu().double() for column in zip(*parts, strict=True)]
    zeros = torch.zeros(len(tracks), store.codebooks, dtype=torch.float64)
    return HeldOut(*(zeros.index_add(0, rows, column) for column in columns))


def _others(windows: list[_Window], store: TokenStore, split: str) -> list[_Window]:
    """For each window one of another track: windows of a track stand together, so those further on than it is long."""
    counts = Counter(track.id for track, _ in windows)
    further = max(counts.values())
    if 2 * further > len(windows):
        raise InputError(f"{store.folder}: {split!r} has too few tracks for each to hear another's")
    return windows[further:] + windows[:further]


def _batch(store: TokenStore, windows: list[_Window], frames: int) -> TokenBatch:
    collate = Collate(frames, store.header.chroma_frames(frames))
    return collate([token_window(store, track, start, frames) for track, start in windows])


def _conditions(model: MusicModel, own: TokenBatch, other: TokenBatch, swapped: str) -> Conditions:
    text, melody = swapped == TEXT, swapped == MELODY
    return model.conditioners(other.captions if text else own.captions, other.chroma if melody else own.chroma)


def _score(
    model: MusicModel, batch: TokenBatch, conditions: Conditions, log_probabilities: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    device = model.lm.embedding.weight.device
    forced = _step_by_step if model.int8 else _at_once
    logits, targets = forced(model, batch.codes.to(device), conditions, batch.lengths.to(device))
    sums, counts = cross_entropy_sums(logits, targets, model.lm.config.entries)
    present = targets != model.lm.config.entries
    books = torch.arange(targets.shape[1], device=device)[:, None]
    unigram = -log_probabilities[books, targets.masked_fill(~present, 0)]
    return sums, unigram.masked_fill(~present, 0).sum(2), counts


def _at_once(model: MusicModel, codes: Tensor, conditions: Conditions, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, K, S, V] and targets [B, K, S] of codes [B, K, T]."""
    return model.lm.teacher_forced(codes, conditions, lengths)


def _step_by_step(model: MusicModel, codes: Tensor, conditions: Conditions, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The same of the decoding engine, by frames [B, K, T] instead of steps."""
    special = model.lm.config.entries
    past = torch.arange(codes.shape[-1], device=codes.device) >= lengths[:, None]
    codes = codes.masked_fill(past[:, None], special)
    logits, mask = forced_logits(model.decoder, branches(conditions, model.lm.config.conditions, 1.0), codes)
    return logits, codes.masked_fill(~mask, special)
