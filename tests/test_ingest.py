"""Ingest: what is found, what is refused and why, duplicates, splits, and a second run."""

import csv
import json
import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchaudio.functional import loudness

from datamodules.errors import InputError
from datamodules.ingest import IngestConfig, ingest, running
from datamodules.ingest.inspecting import Job, inspect
from datamodules.ingest.judging import Wanted
from datamodules.ingest.loudness import LoudnessMeter
from datamodules.ingest.splitting import artists, split_by_artist
from datamodules.manifest import Track, read_manifest

RATE = 8000
SHORT = IngestConfig(Wanted(min_seconds=0.5), workers=1)


def noise(seconds, channels=1, rate=RATE, seed=0):
    return np.random.default_rng(seed).uniform(-0.3, 0.3, (round(seconds * rate), channels))


def write(path, seconds=1.0, seed=0, rate=RATE, channels=1, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seconds, channels, rate, seed), rate, **options)
    return path


@pytest.fixture
def here(monkeypatch):
    """Files are inspected in this process: starting others costs seconds."""

    def inspect_here(function, jobs, workers):
        for job in jobs:
            yield job, function(job)

    monkeypatch.setattr(running, "unordered", inspect_here)


def reasons(summary):
    return {os.path.basename(path): reason for path, reason in summary.rejected}


def bad_files(music):
    """The files that nobody would want, and what must be said of each."""
    write(music / "short.wav", 0.01)
    soundfile.write(music / "silent.wav", np.zeros(RATE), RATE)
    write(music / "six.wav", channels=6)
    (music / "text.mp3").write_text("this is no music")
    (music / "nothing.flac").touch()
    (music / "dangling.wav").symlink_to(music / "gone.wav")
    (music / "music.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    whole = write(music / "cut.flac", 3.0, seed=7).read_bytes()
    (music / "cut.flac").write_bytes(whole[: len(whole) // 2])
    for name, bad in (("nan", np.nan), ("infinite", np.inf)):
        samples = noise(1.0)
        samples[77] = bad
        soundfile.write(music / f"{name}.wav", samples, RATE, subtype="FLOAT")
    return {
        "short.wav": "too short", "silent.wav": "silent", "six.wav": "6 channels", "text.mp3": "not readable",
        "nothing.flac": "empty", "dangling.wav": "leads nowhere", "music.m4a": "convert it", "cut.flac": "",
        "nan.wav": "not finite", "infinite.wav": "not finite",
    }  # fmt: skip


def test_what_cannot_be_served_is_refused_with_its_reason(tmp_path, here):
    music = tmp_path / "music"
    write(music / "good.wav")
    wanted = bad_files(music)
    summary = ingest([str(music)], tmp_path / "out", SHORT)
    assert [track.id for track in summary.tracks] == ["music/good"]
    said = reasons(summary)
    assert set(said) == set(wanted)
    assert all(part in said[name] for name, part in wanted.items()), said
    assert any(word in said["cut.flac"] for word in ("damaged", "not readable"))
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert {(line["path"], line["reason"]) for line in lines} == set(summary.rejected)


def test_what_is_odd_but_sound_is_served(tmp_path, here):
    music = tmp_path / "music"
    write(music / "eight bit.wav", subtype="PCM_U8", seed=1)
    write(music / "high.flac", rate=96_000, channels=2, seed=2)
    shutil.move(write(music / "a.flac", seed=3), music / "flac named.wav")
    for number, name in enumerate(("Größe ♪ 音楽", "with  spaces & 'quotes'", "x.wav/inside", "deep/er/and deeper")):
        write(music / f"{name}.ogg", seed=10 + number)
    summary = ingest([str(music)], tmp_path / "out", SHORT)
    assert not summary.rejected
    for track in read_manifest(tmp_path / "out"):
        frames, rate = soundfile.info(track.path).frames, soundfile.info(track.path).samplerate
        assert (track.duration, track.sample_rate) == (pytest.approx(frames / rate), rate)
    assert len(summary.tracks) == 7


def test_names_that_are_no_utf8_are_refused(tmp_path, here):
    music = tmp_path / "music"
    write(music / "good.wav")
    try:
        shutil.copy(music / "good.wav", os.fsencode(music) + b"/\xff\xfe.wav")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    summary = ingest([str(music)], tmp_path / "out", SHORT)
    assert [reason for _, reason in summary.rejected] == ["its name is not UTF-8; rename it"]


def test_headers_that_promise_more(tmp_path):
    path = write(tmp_path / "a.wav", 2.0)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"  # as a recorder that was never stopped leaves it
    path.write_bytes(data)
    assert inspect(Job("a.wav", str(path)))["duration"] == pytest.approx(2.0)
    # A damaged page in the middle: what decodes falls short of what the header promises.
    path = write(tmp_path / "a.ogg", 20.0)
    data = bytearray(path.read_bytes())
    pages = [at for at in range(len(data)) if data[at : at + 4] == b"OggS"]
    for at in pages[3:-2]:
        data[at + 40] ^= 0xFF
    path.write_bytes(data)
    found = inspect(Job("a.ogg", str(path)))
    decoded = len(soundfile.read(path)[0]) / RATE
    assert "damaged" in found.get("error", "") if decoded < 19 else found["duration"] == pytest.approx(decoded)


def test_duplicates_are_told_by_what_sounds(tmp_path, here):
    music = tmp_path / "music"
    write(music / "b.wav", seed=1)
    soundfile.write(music / "c.flac", soundfile.read(music / "b.wav", dtype="int16")[0], RATE)
    write(music / "a.wav", seed=2)
    summary = ingest([str(music)], tmp_path / "out", SHORT)
    assert [track.id for track in summary.tracks] == ["music/a", "music/b"]
    assert summary.rejected == [("music/c.flac", "duplicate: the same audio as music/b.wav")]


def test_fields_come_from_table_side_car_and_tags(tmp_path, here):
    music = tmp_path / "music"
    for number, name in enumerate("abc"):
        write(music / f"{name}.flac", seed=number)
        with soundfile.SoundFile(music / f"{name}.flac", "w", RATE, 1) as file:
            file.title, file.artist, file.genre = f"tag {name}", "Tag Artist", "jazz"
            file.write(noise(1.0, seed=number))
    (music / "b.json").write_text(json.dumps({"artist": "Side", "bpm": 120, "description": "from beside", "key": ""}))
    (music / "c.json").write_text("[1, 2]")
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "caption", "artist", "mood"], ["c.flac", 'said "so", here', "Table", ""]])
    config = IngestConfig(Wanted(0.5), captions=str(tmp_path / "t.csv"), licence="CC0", workers=1)
    summary = ingest([str(music)], tmp_path / "out", config)
    a, b, c = (track for track in read_manifest(tmp_path / "out"))
    assert (a.caption, a.facts["title"], a.facts["artist"], a.facts["genre"]) == ("", "tag a", "Tag Artist", "jazz")
    assert (b.caption, b.facts["artist"], b.facts["bpm"], b.facts["title"]) == ("from beside", "Side", 120, "tag b")
    assert (c.caption, c.facts["artist"], c.facts["licence"]) == ('said "so", here', "Table", "CC0")
    assert "key" not in b.facts
    assert "mood" not in c.facts
    assert all(track.facts["source"] == "music" for track in (a, b, c))
    assert any("side-car" in remark for remark in summary.remarks)


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "parquet"])
def test_tables_of_other_kinds(tmp_path, here, kind):
    write(tmp_path / "music" / "x" / "a.wav")
    table = tmp_path / f"t.{kind}"
    if kind == "tsv":
        table.write_text("path\tcaption\nx/a.wav\tpiano\n")
    elif kind == "jsonl":
        table.write_text('{"id": "a", "text": "piano"}\n')
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {"filename": ["a.wav"], "description": ["piano"]}
        parquet.write_table(sys.modules["pyarrow"].table(columns), table)
    summary = ingest([str(tmp_path / "music")], tmp_path / "out", IngestConfig(Wanted(0.5), captions=str(table)))
    assert summary.tracks[0].caption == "piano"


def test_wrong_requests_are_told(tmp_path, here):
    music = tmp_path / "music"
    write(music / "a.wav")
    out = tmp_path / "out"
    (tmp_path / "t.csv").write_text("path,caption\nother.wav,piano\n")
    (tmp_path / "u.csv").write_text("colour,caption\nred,piano\n")
    (tmp_path / "t.xls").touch()
    for options, message in (
        ({"captions": str(tmp_path / "t.csv")}, "none of the tracks"),
        ({"captions": str(tmp_path / "u.csv")}, "names no track"),
        ({"captions": str(tmp_path / "t.xls")}, "come as"),
        ({"captions": str(tmp_path / "no.csv")}, "no such table"),
    ):
        with pytest.raises(InputError, match=message):
            ingest([str(music)], out, IngestConfig(Wanted(0.5), **options, workers=1))
    with pytest.raises(InputError, match="no such file or folder"):
        ingest([str(tmp_path / "nowhere")], out, SHORT)
    with pytest.raises(InputError, match="no music was found"):
        ingest([str(music)], out, IngestConfig(Wanted(60.0), workers=1))
    assert "too short" in (out / "rejected.jsonl").read_text()
    with pytest.raises(InputError, match="leave some"):
        IngestConfig(valid=0.6, test=0.5)


def test_a_second_run_looks_only_at_what_changed(tmp_path, here):
    music, out = tmp_path / "music", tmp_path / "out"
    for number in range(4):
        write(music / f"{number}.wav", seed=number)
    assert ingest([str(music)], out, SHORT).inspected == 4
    before = (out / "manifest.jsonl").read_bytes()
    assert ingest([str(music)], out, SHORT).inspected == 0
    assert (out / "manifest.jsonl").read_bytes() == before
    write(music / "2.wav", 1.5, seed=9)
    (music / "3.wav").unlink()
    write(music / "4.wav", seed=4)
    summary = ingest([str(music)], out, SHORT)
    assert summary.inspected == 2
    assert [track.id[-1] for track in summary.tracks] == ["0", "1", "2", "4"]
    assert len((out / "scan.jsonl").read_text().splitlines()) == 4


def test_a_run_that_was_broken_off_goes_on(tmp_path, here):
    music, out = tmp_path / "music", tmp_path / "out"
    for number in range(5):
        write(music / f"{number}.wav", seed=number)

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest([str(music)], out, SHORT, stop)
    assert not (out / "manifest.jsonl").exists()
    with (out / "scan.jsonl").open("a") as file:
        file.write('{"path": "music/3.w')  # the line that a kill tore
    assert ingest([str(music)], out, SHORT).inspected == 2
    ingest([str(music)], tmp_path / "whole", SHORT)
    assert (out / "manifest.jsonl").read_bytes() == (tmp_path / "whole" / "manifest.jsonl").read_bytes()


def test_sources_inside_and_outside(tmp_path, here):
    write(tmp_path / "a" / "music" / "1.wav", seed=1)
    write(tmp_path / "b" / "music" / "1.wav", seed=2)
    write(tmp_path / "out" / "own" / "1.wav", seed=3)
    (tmp_path / "a" / "music" / "loop").symlink_to(tmp_path / "a" / "music")
    (tmp_path / "a" / "music" / "away").symlink_to(tmp_path / "b")
    sources = [str(tmp_path / "a" / "music"), str(tmp_path / "b" / "music"), str(tmp_path / "out" / "own")]
    for _ in range(2):  # the links are found again
        summary = ingest(sources, tmp_path / "out", SHORT)
        assert [track.id for track in summary.tracks] == ["music-2/1", "music/1", "own/1"]
    manifest = read_manifest(tmp_path / "out")
    assert all(manifest.file(track).is_file() for track in manifest)
    assert reasons(summary)["away"].startswith("a link out of the source")


def test_the_folder_itself_can_hold_the_music(tmp_path, here):
    write(tmp_path / "x" / "1.wav")
    summary = ingest([str(tmp_path)], tmp_path, SHORT)
    assert [track.id for track in summary.tracks] == ["x/1"]
    assert ingest([str(tmp_path)], tmp_path, SHORT).others == {}  # what ingest wrote is not counted


def test_processes_find_the_same(tmp_path):
    music = tmp_path / "music"
    for number in range(3):
        write(music / f"{number}.wav", seed=number)
    bad_files(music)
    several = ingest([str(music)], tmp_path / "out", IngestConfig(Wanted(0.5), workers=2))
    assert len(several.tracks) == 3
    assert len(several.rejected) == 10


def test_a_text_that_is_named_mp3_is_said_to_hold_no_audio(tmp_path):
    """libsndfile says that there is no such file."""
    (tmp_path / "bad.mp3").write_text("no music, but a text " * 200)
    assert inspect(Job("bad.mp3", str(tmp_path / "bad.mp3"))) == {"error": "not readable as audio (no audio in it)"}


def test_the_page_shows_what_was_found(tmp_path, here):
    music = tmp_path / "<music>"
    write(music / "<b>.wav")
    (music / "<b>.json").write_text(json.dumps({"artist": "<script>alert(1)</script>"}))
    (music / "bad.wav").write_text("no")
    ingest([str(music)], tmp_path / "out", SHORT)
    page = (tmp_path / "out" / "music.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "not readable as audio" in page
    assert "http" not in page


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44_100, 2), (48_000, 2)])
def test_loudness_equals_torchaudios(rate, channels):
    generator = np.random.default_rng(3)
    # Quiet: torchaudio's filters clip what exceeds full scale.
    envelope = np.repeat(generator.uniform(0.001, 0.1, 12), rate // 2)[:, None]
    samples = generator.normal(size=(len(envelope), channels)).astype(np.float32) * envelope.astype(np.float32)
    meter = LoudnessMeter(rate, channels)
    for start in range(0, len(samples), 7777):
        meter.update(samples[start : start + 7777])
    assert meter.loudness() == pytest.approx(loudness(torch.from_numpy(samples.T.copy()), rate).item(), abs=0.05)
    quiet = LoudnessMeter(rate, channels)
    quiet.update(np.zeros((rate, channels)))
    assert quiet.loudness() is None


def track(name, artist, split=""):
    return Track(name, f"folder/{name}.wav", 60.0, RATE, "", split, {"artist": artist} if artist else {})


SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
names = st.sampled_from(["A", "B", "C", "D", "E", "F & A", "G feat. H", "H", "I, J", ""])


@given(st.lists(names, min_size=1, max_size=40), st.integers(0, 99))
def test_no_artist_is_on_two_sides(artist_names, seed):
    tracks = [track(f"{number}", name) for number, name in enumerate(artist_names)]
    placed, remark = split_by_artist(tracks, SHARES, seed)
    assert {one.split for one in placed} <= set(SHARES)
    if not remark:
        sides = {}
        for one in placed:
            for name in artists(one):
                assert sides.setdefault(name, one.split) == one.split
        assert {one.split for one in placed} == set(SHARES)


def test_sides_have_their_shares_of_the_hours():
    many = [replace(track(f"t{n}", f"artist {n // 3}"), duration=20.0 + n % 77) for n in range(3000)]
    placed, remark = split_by_artist(many, SHARES, 0)
    assert not remark
    total = sum(one.duration for one in many)
    for side, share in SHARES.items():
        assert sum(one.duration for one in placed if one.split == side) / total == pytest.approx(share, abs=0.02)
    again, _ = split_by_artist(many[::-1], SHARES, 0)
    assert {one.id: one.split for one in again} == {one.id: one.split for one in placed}
    assert split_by_artist(many, SHARES, 1)[0] != placed
    own, _ = split_by_artist([*many[:300], track("mine", "artist 1", "test")], SHARES, 0)
    assert own[-1].split == "test"


def test_a_giant_is_trained_on():
    giant = [track(f"g{n}", "giant") for n in range(80)]
    others = [track(f"o{n}", f"other {n}") for n in range(20)]
    for seed in range(20):
        placed, _ = split_by_artist([*giant, *others], SHARES, seed)
        assert {one.split for one in placed[:80]} == {"train"}
        assert [sum(one.split == side for one in placed) for side in SHARES] == [80, 10, 10]
