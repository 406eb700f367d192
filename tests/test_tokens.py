"""Token stores written by hand: what is read from them, windows, batches, and stores that cannot be trusted."""

import json
import pickle

import numpy as np
import pytest
import tiny
import torch

from datamodules.captions import CaptionConfig, training_caption
from datamodules.errors import InputError
from datamodules.tokens import TokenDataModule
from datamodules.tokens import store as reading
from datamodules.tokens.format import is_store
from datamodules.tokens.store import TokenStore

FRAMES = (40, 13, 25, 31, 8, 30, 22)  # of tiny.write_store


def edit_index(folder, change):
    path = folder / "index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def edit_rows(folder, **values):
    """Changes columns of the second row."""
    rows = np.load(folder / "tracks.npy")
    for name, value in values.items():
        rows[name][1] = value
    np.save(folder / "tracks.npy", rows)


def module(store, **options):
    data = TokenDataModule(str(store), **{"seconds": 2.0, "batch_size": 3, "workers": 0, "valid_items": 4, **options})
    data.trainer = tiny.trainer()
    return data


def by_hand(folder):
    """Codes [2, T] and chroma of every track, straight from the files."""
    codes = np.fromfile(folder / "tokens-00000.bin", "<u2")
    chroma = np.fromfile(folder / "tokens-00000.chroma", "u1")
    tracks = []
    for count in FRAMES:
        tracks.append((codes[: 2 * count].reshape(2, count), chroma[: (count + 1) // 2]))
        codes, chroma = codes[2 * count :], chroma[(count + 1) // 2 :]
    return tracks


def test_what_was_written_is_read(token_store):
    store = TokenStore(token_store)
    assert (store.codec, store.frame_rate, store.codebooks, store.entries) == ("c" * 64, 10, 2, 8)
    assert len(store.tracks) == 7
    for number, (track, (codes, chroma)) in enumerate(zip(store.tracks, by_hand(token_store), strict=True)):
        assert (track.id, track.caption, track.frames) == (f"t{number}", f"caption {number}", FRAMES[number])
        assert track.split == ("valid" if number > 4 else "train")
        assert track.facts == {"bpm": 60 + number}
        assert np.array_equal(store.window(track), codes)
        assert np.array_equal(store.window(track, 5, 3), codes[:, 5:8])
        assert np.array_equal(store.window(track, track.frames - 2, 11), codes[:, -2:])
        assert store.window(track, track.frames + 1, 3).shape == (2, 0)
        assert np.array_equal(store.chroma(track), chroma)
        assert np.array_equal(store.chroma(track, 4, 4), chroma[2:4])
        assert np.array_equal(store.chroma(track, 3, 4), chroma[2:4])  # half-way to frame 1 counts as 2
    assert [track.id for track in store.split("valid")] == ["t5", "t6"]
    assert [track.id for track in store.tracks[1:6:2]] == ["t1", "t3", "t5"]


def test_files_are_closed_when_there_are_too_many(token_store, monkeypatch):
    monkeypatch.setattr(reading, "_OPEN_FILES", 1)
    store = TokenStore(token_store)
    for track, (codes, chroma) in zip(store.tracks, by_hand(token_store), strict=True):
        assert np.array_equal(store.window(track), codes)
        assert np.array_equal(store.chroma(track), chroma)
    assert len(store._files._open) == 1


def test_a_store_behind_a_url(tmp_path, token_store, monkeypatch):
    monkeypatch.setenv("MGL_CACHE", str(tmp_path / "cache"))
    url = token_store.as_uri()
    assert is_store(url)
    assert is_store(str(token_store))
    assert not is_store(url + "/nowhere")
    assert not is_store(str(tmp_path))
    windows, local = module(url).samples("train", 5), module(token_store).samples("train", 5)
    assert windows.store.remote
    for number in range(20):
        assert torch.equal(windows[number].codes, local[number].codes)
    assert len(windows.store._files._open) == 1
    (token_store / "index.json").unlink()
    with pytest.raises(InputError, match=r"index\.json is missing"):
        TokenStore(token_store)


def test_windows_are_what_their_numbers_say(token_store):
    data = module(token_store)
    windows, tracks = data.samples("train", seed=5), by_hand(token_store)
    starts = set()
    for number in range(60):
        window, draw = windows[number], windows.order.draw(number)
        codes, chroma = tracks[draw.track]
        start = int(draw.position * max(1, FRAMES[draw.track] - 19))
        starts.add((draw.track, start))
        assert np.array_equal(window.codes, codes[:, start : start + 20])
        assert window.codes.dtype == torch.int64
        assert window.start == start / 10
        assert (window.track.id, window.caption) == (f"t{draw.track}", f"caption {draw.track}")
        first, count = (start + 1) // 2, -(-window.codes.shape[1] // 2)
        assert np.array_equal(window.chroma, chroma[first : first + count])
    assert len(starts) > 25
    # Every start can be drawn, the last one too.
    long = [windows.order.draw(n) for n in range(3000)]
    assert {int(d.position * 21) for d in long if d.track == 0} == set(range(21))


def test_captions_are_drawn_for_training_alone(token_store):
    config = CaptionConfig(merge=0.5, drop_word=0.3, fields=("bpm",))
    data = module(token_store, captions=config, seed=9)
    train, valid = data.samples("train", 9), data.samples("valid", 9)
    said = {train[number].caption for number in range(40)}
    assert said == {
        training_caption(f"caption {n}", {"bpm": 60 + n}, config, 9, number)
        for number in range(40)
        for n in [train.order.draw(number).track]
    }
    assert any("bpm" in caption for caption in said)
    assert {valid[number].caption for number in range(20)} == {"caption 5", "caption 6"}


def test_sources_are_weighed(token_store):
    def share(weights):
        windows = module(token_store, source_weights=weights).samples("train", 0)
        drawn = [windows.order.draw(number).track % 2 for number in range(4000)]
        return sum(drawn) / len(drawn)

    even, odd = 40 + 25 + 8, 13 + 31  # frames
    assert share(None) == pytest.approx(odd / (even + odd), abs=0.03)
    assert share({"odd": 3.0}) == pytest.approx(3 * odd / (even + 3 * odd), abs=0.03)
    assert share({"even": 0.0}) == 1
    with pytest.raises(InputError, match=r"no source 'od'.*'even', 'odd'"):
        share({"od": 1.0})
    # Validation is the same however training is weighed.
    both = [module(token_store, source_weights=weights).samples("valid", 0) for weights in (None, {"odd": 0.0})]
    assert [both[0].order.draw(n) for n in range(9)] == [both[1].order.draw(n) for n in range(9)]


def test_batches_are_padded_and_know_their_lengths(token_store):
    batch = next(iter(module(token_store, batch_size=50).train_dataloader()))
    assert batch.codes.shape == (50, 2, 20)
    assert batch.codes.dtype == torch.int64
    assert batch.chroma.shape == (50, 10)
    frames = {"t0": 20, "t1": 13, "t2": 20, "t3": 20, "t4": 8}
    assert batch.lengths.tolist() == [frames[track] for track in batch.tracks]
    assert set(batch.tracks) == set(frames)
    assert all((row[:, length:] == 0).all() for row, length in zip(batch.codes, batch.lengths, strict=True))
    windows = module(token_store).samples("train", 0)
    for number, (row, chroma) in enumerate(zip(batch.codes, batch.chroma, strict=True)):
        window = windows[number]
        assert torch.equal(row[:, : window.codes.shape[1]], window.codes)
        assert chroma.tolist() == [*window.chroma.tolist(), *[255] * (10 - len(window.chroma))]
    assert batch.captions == [f"caption {track[1]}" for track in batch.tracks]


def test_validation_never_changes(token_store):
    def validation(seed):
        batches = list(module(token_store, seed=seed).val_dataloader())
        assert {track for batch in batches for track in batch.tracks} <= {"t5", "t6"}
        return torch.cat([batch.codes for batch in batches])

    assert len(validation(0)) == 4
    assert torch.equal(validation(0), validation(1))


def test_files_and_rows_are_not_sent_to_other_processes(token_store):
    windows = module(token_store).samples("train", seed=0)
    before = windows[0].codes
    assert windows.store._files._open
    sent = pickle.dumps(windows)
    assert len(sent) < 4000
    again = pickle.loads(sent)
    assert not again.store._files._open
    assert again.store._places is None
    assert torch.equal(again[0].codes, before)


def test_a_line_is_looked_at_when_its_track_is_asked_for(token_store):
    path = token_store / "tokens-00000.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"id": "t3"', b'["id": "t3"'))
    store = TokenStore(token_store)
    assert store.tracks[2].id == "t2"
    with pytest.raises(InputError, match="no track's line"):
        store.tracks[3]


def save_objects(folder):
    np.save(folder / "tracks.npy", np.array([None] * 7, dtype=object), allow_pickle=True)


SPOILED = {
    "cut short": lambda f: (f / "tokens-00000.bin").write_bytes((f / "tokens-00000.bin").read_bytes()[:-2]),
    "no shard": lambda f: (f / "tokens-00000.bin").unlink(),
    "no lines": lambda f: (f / "tokens-00000.jsonl").unlink(),
    "no chroma": lambda f: (f / "tokens-00000.chroma").unlink(),
    "no rows": lambda f: (f / "tracks.npy").unlink(),
    "rows cut short": lambda f: (f / "tracks.npy").write_bytes((f / "tracks.npy").read_bytes()[:-9]),
    "rows of other columns": lambda f: np.save(f / "tracks.npy", np.zeros(7, dtype="<u4")),
    "a row too few": lambda f: np.save(f / "tracks.npy", np.load(f / "tracks.npy")[:-1]),
    "pickled rows": save_objects,
    "no index": lambda f: (f / "index.json").unlink(),
    "broken index": lambda f: (f / "index.json").write_text('{"codec": '),
    "binary index": lambda f: (f / "index.json").write_bytes(b"\xff\xfe\x00"),
    "index is a list": lambda f: (f / "index.json").write_text("[]"),
    "another version": lambda f: edit_index(f, lambda index: index.update(version=2)),
    "no codec": lambda f: edit_index(f, lambda index: index.pop("codec")),
    "codec is a number": lambda f: edit_index(f, lambda index: index.update(codec=3)),
    "unknown field": lambda f: edit_index(f, lambda index: index.update(colour="red")),
    "frame rate of zero": lambda f: edit_index(f, lambda index: index.update(frame_rate=0)),
    "no codebooks": lambda f: edit_index(f, lambda index: index.update(codebooks=0)),
    "codebooks in words": lambda f: edit_index(f, lambda index: index.update(codebooks="two")),
    "more codebooks": lambda f: edit_index(f, lambda index: index.update(codebooks=3)),
    "more tracks": lambda f: edit_index(f, lambda index: index.update(tracks=8)),
    "packed": lambda f: edit_index(f, lambda index: index.update(packed=3)),
    "shard elsewhere": lambda f: edit_index(f, lambda index: index["shards"][0].update(name="../tokens-00000")),
    "absolute shard": lambda f: edit_index(f, lambda index: index["shards"][0].update(name="/tmp/tokens-00000")),
    "shard without chroma": lambda f: edit_index(f, lambda index: index["shards"][0]["bytes"].pop("chroma")),
    "no such shard": lambda f: edit_rows(f, shard=1),
    "codes past the end": lambda f: edit_rows(f, offset=2 * sum(FRAMES) - 2 * FRAMES[1] + 1),
    "codes far past the end": lambda f: edit_rows(f, offset=2**64 - 2 * FRAMES[1]),
    "too many frames": lambda f: edit_rows(f, frames=2**32 - 1),
    "no such split": lambda f: edit_rows(f, split=2),
    "no such source": lambda f: edit_rows(f, source=2),
    "line past the end": lambda f: edit_rows(f, line=10_000),
    "line too long": lambda f: edit_rows(f, line_bytes=10_000),
    "chroma past the end": lambda f: edit_rows(f, chroma_offset=2**63),
    "too much chroma": lambda f: edit_rows(f, chroma_frames=90),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_stores_that_cannot_be_trusted_are_refused(token_store, spoil):
    spoil(token_store)
    with pytest.raises(InputError):
        TokenStore(token_store)


def test_bad_settings_are_refused(tmp_path, token_store):
    with pytest.raises(InputError, match="shorter than one frame"):
        module(token_store, seconds=0.01)
    with pytest.raises(InputError, match=r"split 'test'.*'train', 'valid'"):
        TokenStore(token_store).split("test")
    with pytest.raises(InputError, match="no such folder"):
        TokenStore(tmp_path / "nowhere")
