"""Cross-entropy on held-out tokens, against a loop over windows."""

from unittest.mock import patch

import numpy as np
import pytest
import tiny
import torch

from datamodules.errors import InputError
from datamodules.tokens.store import TokenStore
from experiments.commands.perplexity import perplexity
from lightning_modules.lm.held_out import held_out, unigram_log_probabilities


@pytest.fixture
def store(tmp_path, model):
    """Tokens that say they come from the model's codec."""
    folder = tiny.write_store(tmp_path / "tokens", codebooks=4, entries=16, frame_rate=100.0)
    index = folder / "index.json"
    index.write_text(index.read_text().replace("c" * 64, model.codec.checksum))
    return TokenStore(folder)


def test_unigram_distribution(store):
    wanted = np.ones((4, 16))  # one pseudo-count an entry
    for track in store.split("train"):
        for k, row in enumerate(store.window(track)):
            for code in row:
                wanted[k, code] += 1
    wanted = np.log(wanted / wanted.sum(1, keepdims=True))
    np.testing.assert_allclose(unigram_log_probabilities(store).numpy(), wanted, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_every_window_is_scored_once(model, store, batch_size):
    scores = held_out(model, store, seconds=0.12, batch_size=batch_size)
    unigram = unigram_log_probabilities(store)
    totals = {"model": torch.zeros(4), "unigram": torch.zeros(4), "counts": torch.zeros(4)}
    for track in store.split("valid"):
        for start in range(0, track.frames, 12):
            codes = torch.from_numpy(store.window(track, start, 12).astype(np.int64))[None]
            padded = torch.full((1, 4, 12), 16)  # the special token past the track's end
            padded[..., : codes.shape[2]] = codes
            with torch.no_grad():
                logits, mask = model.lm.logits(padded, model.conditions([track.caption]))
            mask[..., codes.shape[2] :] = False
            for k in range(4):
                for t in range(12):
                    if mask[0, k, t]:
                        totals["model"][k] -= logits[0, k, t].log_softmax(0)[padded[0, k, t]]
                        totals["unigram"][k] -= unigram[k, padded[0, k, t]]
                        totals["counts"][k] += 1
    for name, total in totals.items():
        torch.testing.assert_close(getattr(scores, name).sum(0).float(), total, atol=1e-3, rtol=1e-4)


def test_a_window_hears_what_another_tracks_window_would(model, store):
    """With a text of its own for each track: the swapped cross-entropy is that of swapped texts, window by window."""
    own, swapped = (held_out(model, store, "train", 0.12, swapped=name) for name in ("", "text"))
    windows = [(track, start) for track in store.split("train") for start in range(0, track.frames, 12)]
    longest = max(-(-track.frames // 12) for track in store.split("train"))
    sums, place = {track.id: torch.zeros(4) for track, _ in windows}, 0
    for place, (track, start) in enumerate(windows):
        other = windows[(place + longest) % len(windows)][0]
        assert other.caption != track.caption
        codes = torch.from_numpy(store.window(track, start, 12).astype(np.int64))[None]
        padded = torch.full((1, 4, 12), 16)
        padded[..., : codes.shape[2]] = codes
        with torch.no_grad():
            logits, mask = model.lm.logits(padded, model.conditions([other.caption]))
        mask[..., codes.shape[2] :] = False
        losses = -logits[0].log_softmax(-1).gather(-1, padded[0].clamp(max=15)[..., None])[..., 0]
        sums[track.id] += (losses * mask[0]).sum(1)
    wanted = torch.stack([sums[track.id] for track in store.split("train")])
    torch.testing.assert_close(swapped.model.float(), wanted, atol=1e-3, rtol=1e-4)
    assert (swapped.model - own.model).abs().max() > 1e-3
    assert torch.equal(swapped.unigram, own.unigram)


def test_a_single_track_has_nobody_to_swap_with(model, store):
    tracks = store.split("valid")[:1]
    with (
        patch.object(TokenStore, "split", lambda self, name: tracks),
        pytest.raises(InputError, match="too few tracks for each to hear another's"),
    ):
        held_out(model, store, seconds=0.12, swapped="text")


def test_figures_of_a_model_without_a_folder_want_a_file(token_store):
    with pytest.raises(InputError, match="'embedded' is no folder to write the figures into; name a file"):
        perplexity("embedded", str(token_store))


def test_tokens_of_another_codec_are_refused(model, token_store):
    with pytest.raises(InputError, match="cccc"):
        held_out(model, TokenStore(token_store))
