"""Token stores: what the writer writes, windows read; and stores that cannot be trusted."""

import json
import pickle

import numpy as np
import pytest
import tiny
import torch

from datamodules import token_writer
from datamodules.audio_io import read_audio
from datamodules.errors import InputError
from datamodules.manifest import read_manifest
from datamodules.token_writer import write_tokens
from datamodules.tokens import TokenDataModule, TokenStore
from lightning_modules.checkpoints import load_codec

TRACKS = [(f"t{i}", "train" if i else "valid", 0.3 + 0.21 * i, f"caption {i}") for i in range(4)]


@pytest.fixture
def tracks(tmp_path):
    return read_manifest(tiny.write_manifest(tmp_path / "corpus", TRACKS))


def edit_index(folder, change):
    path = folder / "index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def module(store, **options):
    data = TokenDataModule(str(store), **{"seconds": 2.0, "batch_size": 3, "workers": 0, "valid_items": 4, **options})
    data.trainer = tiny.trainer()
    return data


@pytest.mark.parametrize("shard_values", [2**27, 300])
def test_the_store_holds_what_the_codec_says(tmp_path, tracks, codec_folder, monkeypatch, shard_values):
    monkeypatch.setattr(token_writer, "_SHARD_VALUES", shard_values)
    codec = load_codec(codec_folder)
    done = []
    write_tokens(tracks, codec, tmp_path / "tokens", done.append)
    assert done == tracks
    store = TokenStore(tmp_path / "tokens")
    assert (store.codec, store.frame_rate, store.codebooks, store.entries) == (codec.checksum, 100, 4, 16)
    assert len({track.shard for track in store.tracks}) == (1 if shard_values > 300 else 4)
    for track, token_track in zip(tracks, store.tracks, strict=True):
        codes = codec.encode(read_audio(track.path, sample_rate=tiny.RATE)[None])[0].numpy()
        assert (token_track.id, token_track.caption, token_track.split) == (track.id, track.caption, track.split)
        assert np.array_equal(store.window(token_track), codes)
        assert np.array_equal(store.window(token_track, 5, 11), codes[:, 5:16])
        assert np.array_equal(store.window(token_track, codes.shape[1] - 3, 11), codes[:, -3:])
    sizes = sum(file.stat().st_size for file in (tmp_path / "tokens").glob("*.bin"))
    assert sizes == 2 * 4 * sum(track.frames for track in store.tracks)
    assert not list((tmp_path / "tokens").glob("*.partial"))


def test_a_store_is_whole_or_absent(tmp_path, tracks, codec_folder):
    codec = load_codec(codec_folder)
    tracks[2].path.unlink()
    with pytest.raises(InputError, match="no such audio"):
        write_tokens(tracks, codec, tmp_path / "tokens")
    with pytest.raises(InputError, match=r"index\.json is missing"):
        TokenStore(tmp_path / "tokens")


def test_codecs_whose_codes_could_not_be_told_are_refused(tmp_path, tracks, codec):
    with pytest.raises(InputError, match="checksum"):
        write_tokens(tracks, codec, tmp_path / "tokens")
    codec.checksum = "c"
    codec.config = type(codec.config)(entries=2**16 + 1)
    with pytest.raises(InputError, match="16 bits"):
        write_tokens(tracks, codec, tmp_path / "tokens")


def test_windows_are_what_their_numbers_say(token_store):
    data = module(token_store)
    windows, store = data.samples("train", seed=5), TokenStore(token_store)
    starts = set()
    for number in range(60):
        window, draw = windows[number], windows.order.draw(number)
        assert torch.equal(window.codes, windows[number].codes)
        track = [track for track in store.tracks if track.split == "train"][draw.track]
        start = int(draw.position * max(1, track.frames - 19))
        starts.add((track.id, start))
        assert np.array_equal(window.codes, store.window(track)[:, start : start + 20])
        assert window.codes.dtype == torch.int64
    assert len(starts) > 25
    # Every start can be drawn, the last one too.
    long = [windows.order.draw(n) for n in range(3000)]
    assert {int(d.position * 21) for d in long if d.track == 0} == set(range(21))


def test_batches_are_padded_and_know_their_lengths(token_store):
    batch = next(iter(module(token_store, batch_size=50).train_dataloader()))
    assert batch.codes.shape == (50, 2, 20)
    frames = {"t0": 20, "t1": 13, "t2": 20, "t3": 20, "t4": 8}
    assert batch.lengths.tolist() == [frames[track] for track in batch.tracks]
    assert set(batch.tracks) == set(frames)
    assert all((row[:, length:] == 0).all() for row, length in zip(batch.codes, batch.lengths, strict=True))
    assert batch.captions == [f"caption {track[1]}" for track in batch.tracks]


def test_validation_never_changes(token_store):
    def validation(seed):
        batches = list(module(token_store, seed=seed).val_dataloader())
        assert {track for batch in batches for track in batch.tracks} <= {"t5", "t6"}
        return torch.cat([batch.codes for batch in batches])

    assert len(validation(0)) == 4
    assert torch.equal(validation(0), validation(1))


def test_maps_are_not_sent_to_other_processes(token_store):
    windows = module(token_store).samples("train", seed=0)
    before = windows[0].codes
    sent = pickle.dumps(windows)
    assert windows.store._maps
    assert len(sent) < 4000
    again = pickle.loads(sent)
    assert not again.store._maps
    assert torch.equal(again[0].codes, before)


SPOILED = {
    "cut short": lambda f: (f / "tokens-00000.bin").write_bytes((f / "tokens-00000.bin").read_bytes()[:-2]),
    "no shard": lambda f: (f / "tokens-00000.bin").unlink(),
    "no index": lambda f: (f / "index.json").unlink(),
    "broken index": lambda f: (f / "index.json").write_text('{"codec": '),
    "binary index": lambda f: (f / "index.json").write_bytes(b"\xff\xfe\x00"),
    "index is a list": lambda f: (f / "index.json").write_text("[]"),
    "no codec": lambda f: edit_index(f, lambda index: index.pop("codec")),
    "unknown field": lambda f: edit_index(f, lambda index: index["tracks"][0].update(colour="red")),
    "shard elsewhere": lambda f: edit_index(f, lambda index: index["tracks"][0].update(shard="../other.bin")),
    "absolute shard": lambda f: edit_index(f, lambda index: index["tracks"][0].update(shard="/etc/passwd")),
    "negative offset": lambda f: edit_index(f, lambda index: index["tracks"][0].update(offset=-4)),
    "frames in words": lambda f: edit_index(f, lambda index: index["tracks"][0].update(frames="many")),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_stores_that_cannot_be_trusted_are_refused(token_store, spoil):
    spoil(token_store)
    with pytest.raises(InputError):
        TokenStore(token_store)


def test_bad_settings_are_refused(token_store):
    with pytest.raises(InputError, match="shorter than one frame"):
        module(token_store, seconds=0.01)
    with pytest.raises(InputError, match="split 'test'"):
        TokenStore(token_store).split("test")
