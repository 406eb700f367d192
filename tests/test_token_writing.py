"""Token stores that are written: how tracks are cut, what the codec says of them, and what becomes of interruptions."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules import whole_files
from datamodules.audio_io import read_audio
from datamodules.errors import InputError
from datamodules.features.chroma import ChromaExtractor
from datamodules.manifest import read_manifest
from datamodules.tokens import plan as token_plan
from datamodules.tokens.pieces import PieceDataset
from datamodules.tokens.plan import encoding, plan_batches, plan_shards
from datamodules.tokens.store import TokenStore
from datamodules.tokens.writer import TokenWriter
from experiments.tokenizing import write_store
from lightning_modules.codec.folder import load_codec, save_codec
from lightning_modules.conditioning.melody import MelodyConfig
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig

LONG = 90.0  # seconds: three windows of the tiny codec
TRACKS = [
    ("a", "train", 0.3, "one"), ("b", "valid", 51.2, "two"), ("c", "train", LONG, "three"),
    ("d", "train", 4.05, "four"), ("e", "train", 70.0, "five"), ("f", "train", 55.5, "six"),
]  # fmt: skip


def music(folder, tracks=TRACKS):
    """A manifest of noisy notes, a new one every ten seconds, with a pause in the middle."""
    tiny.write_manifest(folder, tracks)
    for index, (name, *_) in enumerate(tracks):
        path = folder / f"{name}.wav"
        samples = read_audio(path, sample_rate=tiny.RATE).shape[1]
        random = np.random.default_rng(index)
        pitch = 55 * 2 ** (random.integers(24, size=samples // 8000 + 1) / 12)
        wave = np.sin(2 * np.pi * pitch.repeat(8000)[:samples] * np.arange(samples) / tiny.RATE)
        wave += 0.1 * random.standard_normal(samples)
        wave[2 * samples // 5 : 3 * samples // 4] = 0
        tiny.soundfile.write(path, 0.3 * wave, tiny.RATE, subtype="FLOAT")
    return folder


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(token_plan, "_SHORTEST", 50.0)


class Counted:
    """The codec, counting what it encodes; it breaks off after ``limit`` batches."""

    def __init__(self, folder, limit=None):
        self.codec, self.limit, self.calls = load_codec(folder), limit, 0
        self.encode, self.codec.encode = self.codec.encode, self._encode

    def _encode(self, wav):
        self.calls += 1
        if self.limit is not None and self.calls > self.limit:
            raise ZeroDivisionError
        return self.encode(wav)

    def write(self, manifest, out, max_failed=0.01, batch_size=2, workers=0):
        out.mkdir(exist_ok=True)
        writer = TokenWriter(out, read_manifest(manifest), encoding(self.codec), max_failed)
        return write_store(self.codec, writer, device="cpu", batch_size=batch_size, workers=workers)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# ---- planning -----------------------------------------------------------------------------------------------------


class Shape:
    """Of a codec."""

    def __init__(self, sample_rate, hop):
        self.sample_rate, self.hop = sample_rate, hop
        self.checksum, self.channels, self.codebooks, self.entries = "c", 1, 4, 2048


def test_windows_of_the_papers_codec():
    made = encoding(Shape(32000, 640))
    assert (made.left / 32000, made.step / 32000, made.right / 32000) == (2.56, 30.72, 0.64)


@given(
    st.sampled_from([(32000, 640), (24000, 320), (24000, 1920), (44100, 512), (16000, 441), (800, 8), (48000, 960)]),
    st.integers(1, 40_000_000),
)
def test_the_kept_frames_of_all_windows_are_those_of_the_track(shape, samples):
    made = encoding(Shape(*shape))
    count = made.windows(samples)
    for hop in (made.hop, token_plan.CHROMA_HOP):
        kept = []
        for window in range(count):
            start = window * made.step
            length = min(made.length, samples - start)
            assert start % hop == 0
            assert length > (made.left + made.right if window else 0)
            frames = start // hop + np.arange(-(-length // hop))
            part = frames[made.kept(window == 0, window == count - 1, len(frames), hop)]
            # Nothing is kept whose surroundings the window did not hear.
            assert window == 0 or part[0] * hop - start >= max(2.56 * made.sample_rate - 1, 2**13)
            assert window == count - 1 or start + length - (part[-1] + 1) * hop >= 2**13
            kept.append(part)
        assert np.array_equal(np.concatenate(kept), np.arange(-(-samples // hop)))


@given(st.lists(st.floats(0.01, 90_000), min_size=1, max_size=60))
def test_shards_are_consecutive_tracks_of_about_the_same_duration(durations):
    total = sum(durations)
    target = min(max(total / 64, 900), 36_000)
    wanted, elapsed, place = [], 0.0, None
    for track, seconds in enumerate(durations):
        if place != elapsed // target:
            wanted.append([])
            place = elapsed // target
        wanted[-1].append(track)
        elapsed += seconds
    shards = plan_shards(durations)
    assert [list(shard) for shard in shards] == wanted
    assert all(sum(durations[track] for track in list(shard)[:-1]) < target * 1.000001 for shard in shards)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 8))
def test_batches_hold_every_window_once_and_only_full_ones_together(windows, batch_size):
    batches = plan_batches(windows, batch_size)
    wanted = {(track, window) for track, count in enumerate(windows) for window in range(count)}
    assert sorted(piece for batch in batches for piece in batch) == sorted(wanted)
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len(batch) == 1 or all(window < windows[track] - 1 for track, window in batch)
    full = sum(count - 1 for count in windows)
    assert len(batches) == len(windows) + -(-full // batch_size)


def test_codecs_whose_codes_could_not_be_told_are_refused(codec):
    with pytest.raises(InputError, match="checksum"):
        encoding(codec)
    codec.checksum = "c"
    codec.entries = 2**16 + 1
    with pytest.raises(InputError, match="16 bits"):
        encoding(codec)


# ---- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 1)])
def test_the_store_holds_what_the_codec_says(tmp_path, codec_folder, small_shards, batch_size, workers):
    manifest = music(tmp_path / "music")
    counted = Counted(codec_folder)
    done, encoded = counted.write(manifest, tmp_path / "tokens", batch_size=batch_size, workers=workers)
    store, tracks = TokenStore(tmp_path / "tokens"), read_manifest(manifest)
    assert (done.tracks, done.shards, done.failed) == (6, 4, [])
    assert encoded == pytest.approx(sum(track.duration for track in tracks))
    assert (store.codec, store.frame_rate, store.codebooks, store.entries) == (counted.codec.checksum, 100, 4, 16)
    assert store.header.frames == sum(track.frames for track in store.tracks) == round(100 * encoded)
    extractor = ChromaExtractor(tiny.RATE)
    for track, found in zip(tracks, store.tracks, strict=True):
        wav = read_audio(track.path, sample_rate=tiny.RATE)[None]
        assert (found.id, found.caption, found.split) == (track.id, track.caption, track.split)
        assert np.array_equal(store.window(found), by_hand(counted.encode, wav))
        chroma, mask = extractor(wav)
        wanted = torch.where(chroma.amax(-1) < 1, 255, chroma.argmax(-1))[mask]
        assert np.array_equal(store.chroma(found), wanted)
    assert 255 in store.chroma(store.tracks[2])
    assert len(np.unique(store.chroma(store.tracks[2]))) > 4
    assert not list((tmp_path / "tokens").glob("*.partial"))


def by_hand(encode, wav):
    """Whole where 40,960 samples are enough; else in steps of 24,576 with 8,192 thrown away on both sides."""
    samples = wav.shape[-1]
    if samples <= 40960:
        return encode(wav)[0].numpy()
    parts = []
    for start in range(0, samples, 24576):
        codes = encode(wav[..., start : start + 40960])[0].numpy()
        codes = codes[:, 1024 if start else 0 :]
        if start + 40960 >= samples:
            parts.append(codes)
            break
        parts.append(codes[:, : -8192 // 8])
    return np.concatenate(parts, 1)


def test_tracks_that_cannot_be_read_are_left_out(tmp_path, codec_folder, small_shards, caplog):
    manifest, out = music(tmp_path / "music"), tmp_path / "tokens"
    good = {name: (manifest / f"{name}.wav").read_bytes() for name in "abc"}
    (manifest / "a.wav").write_text("no music")
    (manifest / "b.wav").unlink()
    tiny.soundfile.write(manifest / "c.wav", tiny.sine(60.0, tiny.RATE), tiny.RATE)  # not what the manifest says
    counted = Counted(codec_folder)
    done, _ = counted.write(manifest, out, max_failed=0.5)
    assert [(failure.id, failure.reason.partition(": ")[2][:20]) for failure in done.failed] == [
        ("a", "not readable as audio"[:20]), ("b", "there is no such aud"), ("c", "shorter than the 90."),
    ]  # fmt: skip
    assert [failure["id"] for failure in json.loads((out / "index.json").read_text())["failed"]] == ["a", "b", "c"]
    assert [track.id for track in TokenStore(out).tracks] == ["d", "e", "f"]
    assert "left out" in caplog.text
    # Nothing has changed: nothing is encoded. Then one is mended, and its shard is written anew.
    before = counted.calls
    counted.write(manifest, out, max_failed=0.5)
    assert counted.calls == before
    (manifest / "c.wav").write_bytes(good["c"])
    counted.write(manifest, out, max_failed=0.5)
    assert counted.calls == before + 2  # two full windows at once, the last one alone
    assert [track.id for track in TokenStore(out).tracks] == ["c", "d", "e", "f"]
    for name in "ab":
        (manifest / f"{name}.wav").write_bytes(good[name])
    assert counted.write(manifest, out)[0].failed == []
    Counted(codec_folder).write(manifest, tmp_path / "straight")
    assert files(out) == files(tmp_path / "straight")


@pytest.mark.parametrize(("seconds", "frames"), [(2.5, 250), (3.5, 350), (1.9, None), (4.1, None), (0.0, None)])
def test_a_second_more_or_less_than_the_manifest_says_is_taken(tmp_path, codec_folder, seconds, frames):
    manifest = music(tmp_path / "music", [("a", "train", 3.0, "one"), ("b", "train", 3.0, "two")])
    tiny.soundfile.write(manifest / "b.wav", tiny.sine(seconds, tiny.RATE), tiny.RATE)
    Counted(codec_folder).write(manifest, tmp_path / "tokens")
    found = [track.frames for track in TokenStore(tmp_path / "tokens").tracks]
    assert found == ([300, frames] if frames else [300])


def test_too_many_failures_end_the_run_with_a_list(tmp_path, codec_folder, small_shards):
    manifest = music(tmp_path / "music")
    for name in "ef":
        (manifest / f"{name}.wav").write_text("no music")
    with pytest.raises(InputError, match=r"2 of 6 tracks cannot be read: .*e\.wav.*f\.wav.*finished shards stay"):
        Counted(codec_folder).write(manifest, tmp_path / "tokens", max_failed=0.3)
    with pytest.raises(InputError, match="no token store"):
        TokenStore(tmp_path / "tokens")
    assert (tmp_path / "tokens" / "tokens-00000.json").exists()
    # One track alone never ends a run; but a store has tracks.
    lone = music(tmp_path / "lone", TRACKS[:1])
    (lone / "a.wav").write_text("no music")
    with pytest.raises(InputError, match="not one track"):
        Counted(codec_folder).write(lone, tmp_path / "other")


def test_a_store_of_another_codec_is_refused(tmp_path, codec_folder):
    manifest, out = music(tmp_path / "music", TRACKS[:1]), tmp_path / "tokens"
    ours = Counted(codec_folder)
    ours.write(manifest, out)
    save_codec(tmp_path / "second", other := tiny.codec(filters=8))
    for _ in range(2):  # the second time it has no index, as if it had been interrupted
        with pytest.raises(InputError, match=rf"{ours.codec.checksum[:12]}.*{other.checksum[:12]}.*another folder"):
            Counted(tmp_path / "second").write(manifest, out)
        (out / "index.json").unlink(missing_ok=True)


# ---- interruptions ------------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_behind_its_last_shard(tmp_path, codec_folder, small_shards):
    manifest, out = music(tmp_path / "music"), tmp_path / "tokens"
    whole = Counted(codec_folder)
    whole.write(manifest, tmp_path / "straight")
    with pytest.raises(ZeroDivisionError):
        Counted(codec_folder, limit=5).write(manifest, out)
    assert len(list(out.glob("tokens-*.json"))) == 2
    (out / "tokens-00000.bin.partial").write_text("half of it")
    (out / "tokens-00009.bin").write_text("of an earlier plan")
    (out / "tokens-00004.jsonl").write_text("of an earlier plan")
    rest = Counted(codec_folder)
    rest.write(manifest, out)
    assert rest.calls == whole.calls - 4
    (out / "tokens-00009.bin").unlink()  # only what would follow our shards is removed
    assert files(out) == files(tmp_path / "straight")
    again = Counted(codec_folder)
    _, encoded = again.write(manifest, out)
    assert (again.calls, encoded) == (0, 0)
    assert files(out) == files(tmp_path / "straight")


def test_changed_captions_are_written_without_encoding(tmp_path, codec_folder, small_shards):
    manifest, out = music(tmp_path / "music"), tmp_path / "tokens"
    Counted(codec_folder).write(manifest, out)
    lines = (manifest / "manifest.jsonl").read_text()
    (manifest / "manifest.jsonl").write_text(lines.replace('"three"', '"drei", "source": "s"').replace("train", "test"))
    counted = Counted(codec_folder)
    counted.write(manifest, out)
    assert counted.calls == 0
    store = TokenStore(out)
    assert [track.caption for track in store.tracks] == ["one", "two", "drei", "four", "five", "six"]
    assert store.header.splits == ["test", "valid"]
    assert store.header.sources == ["", "s"]
    Counted(codec_folder).write(manifest, tmp_path / "straight")
    assert files(out) == files(tmp_path / "straight")
    # A longer track is another one.
    (manifest / "manifest.jsonl").write_text(lines.replace(str(LONG), str(LONG + 0.01)))
    counted.write(manifest, out)
    assert counted.calls == 2


def test_a_full_disk_is_one_line_and_the_store_goes_on(tmp_path, codec_folder, small_shards, monkeypatch):
    manifest, out = music(tmp_path / "music"), tmp_path / "tokens"
    fsync, count = os.fsync, iter(range(100))

    def full(number):
        if next(count) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(number)

    monkeypatch.setattr(whole_files.os, "fsync", full)
    with pytest.raises(InputError, match=r"No space left.*make room"):
        Counted(codec_folder).write(manifest, out)
    monkeypatch.setattr(whole_files.os, "fsync", fsync)
    assert not list(out.glob("*.partial"))
    assert len(list(out.glob("tokens-*.json"))) == 1
    Counted(codec_folder).write(manifest, out)
    Counted(codec_folder).write(manifest, tmp_path / "straight")
    assert files(out) == files(tmp_path / "straight")


SCRIPT = """
import sys, time
from datamodules.tokens import plan as token_plan
token_plan._SHORTEST = 50.0
from datamodules.manifest import read_manifest
from datamodules.tokens.writer import TokenWriter
from experiments.tokenizing import write_store
from lightning_modules.codec.folder import load_codec
manifest, folder, out, wait, devices = sys.argv[1:]
codec = load_codec(folder)
encode = codec.encode
codec.encode = lambda wav: time.sleep(float(wait)) or encode(wav)
writer = TokenWriter(out, read_manifest(manifest), token_plan.encoding(codec))
write_store(codec, writer, device="cpu", devices=int(devices), batch_size=2, workers=0)
"""


def test_two_processes_finish_what_a_killed_one_began(tmp_path, codec_folder, small_shards):
    tracks = [(f"t{i}", "train", 61.0 + i, f"caption {i}") for i in range(8)]
    manifest, out = music(tmp_path / "music", tracks), tmp_path / "tokens"
    Counted(codec_folder).write(manifest, tmp_path / "straight")
    (tmp_path / "write.py").write_text(SCRIPT)
    out.mkdir()
    words = [sys.executable, tmp_path / "write.py", manifest, codec_folder, out]
    # Not what other tests leave in the environment: a rank, a port.
    keep = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LD_LIBRARY_PATH")}
    environment = {**keep, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*words, "0.3", "1"], env=environment, stderr=subprocess.PIPE)
    while not list(out.glob("tokens-*.json")):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    finished = {name: data for name, data in files(out).items() if name.endswith(".json")}
    assert 0 < len(finished) < 8
    assert "index.json" not in finished
    subprocess.run([*words, "0", "2"], env=environment, check=True, capture_output=True)
    assert files(out) == files(tmp_path / "straight")
    assert {name: files(out)[name] for name in finished} == finished


def test_a_process_without_shards_has_nothing_to_do(tmp_path, codec_folder):
    manifest = read_manifest(music(tmp_path / "music", TRACKS[:1]))
    (tmp_path / "tokens").mkdir()
    writer = TokenWriter(tmp_path / "tokens", manifest, encoding(load_codec(codec_folder)))
    assert writer.pending(1, 2) == []
    assert len(PieceDataset(manifest, writer.encoding, [], 1)) == 0
    assert writer.pending(0, 2) == [(0, range(1))]


# ---- stems --------------------------------------------------------------------------------------------------------
def test_melodies_are_heard_in_stems_where_asked_for(tmp_path, codec_folder, monkeypatch):
    """The chroma is that of what the separator kept; the codes are those of the whole."""
    manifest = music(tmp_path / "music", TRACKS[:2])
    asked = []

    def separator(name, sample_rate):
        asked.append((name, sample_rate))
        return lambda wav: wav.flip(-1)

    monkeypatch.setattr("lightning_modules.codec.tokenizing.load_separator", separator)
    codec = load_codec(codec_folder)
    stores = {}
    for stems in ("", "htdemucs"):
        writer = TokenWriter(tmp_path / f"out{stems}", read_manifest(manifest), encoding(codec, stems))
        (tmp_path / f"out{stems}").mkdir()
        write_store(codec, writer, device="cpu", workers=0)
        stores[stems] = TokenStore(tmp_path / f"out{stems}")
    assert asked == [("htdemucs", tiny.RATE)]
    assert [stores[stems].header.stems for stems in stores] == ["", "htdemucs"]
    plain, kept = stores.values()
    track = plain.tracks[0]  # one window, so what is flipped is all of it
    assert np.array_equal(plain.window(track), kept.window(track))
    wav = read_audio(manifest / "a.wav", sample_rate=tiny.RATE)[None].flip(-1)
    chroma, mask = ChromaExtractor(tiny.RATE)(wav)
    expected = chroma.argmax(-1).where(chroma.amax(-1) == 1, 255)[mask]
    assert np.array_equal(kept.chroma(track), expected.numpy())


def test_a_model_and_its_store_hear_melodies_in_the_same_stems(tmp_path):
    module = LanguageModelTraining(
        LanguageModelConfig(dim=16, layers=1, heads=2, codebooks=2, entries=8, cross=(), prefix=("melody", "text")),
        tiny.TEXT, OptimConfig(), MelodyConfig(9, "htdemucs"),
    )  # fmt: skip
    store = TokenStore(tiny.write_store(tmp_path / "store"))
    with pytest.raises(InputError, match="heard in the full mix, the model's are heard in htdemucs"):
        module._check(store)
