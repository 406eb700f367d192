"""MusicCaps, Song Describer, and the command that makes every kind of set."""

import csv
import json

import pytest
import soundfile
import tiny
from eval_set_sources import HEAD, RATE, describer, ids, lines, music_caps, reasons, sound

from datamodules.audio_io import read_audio
from datamodules.errors import InputError
from datamodules.eval_sets import musiccaps_set, song_describer_set, verify
from datamodules.eval_sets.musiccaps import file_names
from datamodules.manifest import read_manifest
from evaluation.pairing import pair_clips
from experiments.__main__ import main
from experiments.prompts import read_prompts


def test_musiccaps_from_csv_and_clips(tmp_path):
    awkward = 'A "lo-fi" loop, then\nsilence; 東京, naïve\r\nend'
    rows = [
        ("-0xzrMun0Rs", 30, awkward, True), ("_-aBcDeFg_-", 0, "two, things", False),
        ("GoneGoneGon", 30, "not at hand", True), ("Short_Short", 30, "short", False),
        ("-0xzrMun0Rs", 90, "the same again", True), ("Damaged0000", 30, "damaged", False),
        ("UnreadUnrea", 30, "in a box", False),
    ]  # fmt: skip
    table = music_caps(tmp_path / "musiccaps-public.csv", rows)
    audio = tmp_path / "audio"
    sound(audio / "[-0xzrMun0Rs]-[30-40].wav", 10.02, seed=1)
    sound(audio / "deep" / "_-aBcDeFg_-.flac", 10.0, seed=2)
    sound(audio / "Short_Short.wav", 9.8)
    (audio / "Damaged0000.mp3").write_bytes(b"\xff\xfb" + bytes(100))
    (audio / "UnreadUnrea.webm").write_bytes(b"x")
    out = tmp_path / "refs"
    seen = []
    made = musiccaps_set(table, audio, out, sample_rate=RATE, progress=lambda *state: seen.append(state))
    first, second = read_manifest(out)
    assert (first.id, first.caption) == ("Y-0xzrMun0Rs", awkward)
    assert first.facts == {
        "track": "-0xzrMun0Rs", "start": 30.0, "aspects": ['low "quality"', "drummer's fill", "a, b"], "balanced": True,
    }  # fmt: skip
    assert (second.id, second.caption) == ("Y_-aBcDeFg_-", "two, things")
    assert soundfile.info(first.path).frames == 10 * RATE  # stated, though the file is a little longer
    assert (made.kind, made.seconds, made.clips, made.tracks, made.artists) == ("musiccaps", 10.0, 2, 2, None)
    assert seen == [(i, 6) for i in range(1, 7)]
    why = reasons(out)
    assert made.missing == 5
    assert "no file of its name" in why["YGoneGoneGon"]
    assert "gives 9.80 s" in why["YShort_Short"]
    assert "line 8 has the ytid -0xzrMun0Rs again" in why["Y-0xzrMun0Rs"]  # the first caption takes three lines
    assert "webm files are not read" in why["YUnreadUnrea"]
    assert "Damaged0000.mp3" in why["YDamaged0000"]
    assert musiccaps_set(table, audio, tmp_path / "b", balanced=True, sample_rate=RATE).clips == 1
    assert reasons(tmp_path / "b").keys() == {"YGoneGoneGon", "Y-0xzrMun0Rs"}
    # A reference set is a prompt file, and pairs with what is generated from it.
    assert [prompt.id for prompt in read_prompts(out / "manifest.jsonl", 5.0, 0)] == [first.id, second.id]
    assert [pair.track for pair in pair_clips(out, out).pairs] == ["-0xzrMun0Rs", "_-aBcDeFg_-"]


NAMES = [
    "[-a_b-c_d-e_]-[30-40].wav", "-a_b-c_d-e_.wav", "-a_b-c_d-e_.FLAC", "-a_b-c_d-e__30_40.ogg",
    "-a_b-c_d-e_-30-40.wav", "-a_b-c_d-e__30-40.wav", "-a_b-c_d-e__30.wav", "Y-a_b-c_d-e_.wav",
    "Y-a_b-c_d-e__30.000_40.000.wav",
    "-a_b-c_d-e__30000_40000.ogg", "-a_b-c_d-e__30.0_40.0.wav", "[-a_b-c_d-e_].wav", "A [live] take [-a_b-c_d-e_].aiff",
    "x/y z/-a_b-c_d-e_.wav",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_clips_are_found_under_the_names_that_people_give_them(tmp_path, name):
    table = music_caps(tmp_path / "m.csv", [("-a_b-c_d-e_", 30, "it", True), ("-a_b-c_d-e-", 30, "another", True)])
    wanted = sound(tmp_path / "audio" / name, 10.0, rate=8000, seed=3)
    (tmp_path / "audio" / "-a_b-c_d-e_.json").write_text("{}")
    (wanted.parent / f"._{wanted.name}").write_bytes(b"finder's")
    assert musiccaps_set(table, tmp_path / "audio", tmp_path / "refs", sample_rate=8000).missing == 1
    [clip] = read_manifest(tmp_path / "refs")
    wav, whole = (read_audio(path, sample_rate=8000)[0] for path in (clip.path, wanted))
    assert (wav - whole[:80000]).abs().max() < 2e-4


def test_another_segment_of_the_video_is_not_taken():
    # Neither by its times nor because one id begins another.
    names = set(file_names("abcdefghijk", 30, 40))
    assert not names & {"abcdefghijk_60_70", "[abcdefghijk]-[60-70]", "abcdefghijkl", "xabcdefghijk"}


def test_whole_videos_are_cut_where_the_csv_says(tmp_path):
    rows = [("VideoVideo1", 30, "whole", False), ("VideoVideo2", 30, "a clip after all", False)]
    rows += [("VideoVideo3", 30, "named as a clip", False), ("VideoVideo4", 30, "ends too early", False)]
    table = music_caps(tmp_path / "m.csv", rows)
    audio = tmp_path / "audio"
    video = sound(audio / "Title [VideoVideo1].wav", 60, seed=1)
    clip = sound(audio / "VideoVideo2.wav", 10, seed=2)
    sound(audio / "VideoVideo3_30_40.wav", 12, seed=3)
    sound(audio / "VideoVideo4.wav", 35, seed=4)
    made = musiccaps_set(table, audio, tmp_path / "refs", whole=True, sample_rate=RATE)
    one, two, _ = read_manifest(tmp_path / "refs")
    for made_of, path, start in ((one, video, 30), (two, clip, 0)):
        wanted = read_audio(path, sample_rate=RATE, start=start, duration=10)
        assert (read_audio(made_of.path, sample_rate=RATE) - wanted).abs().max() < 1e-4
    assert made.missing == 1
    assert "gives 5.00 s from 30 s on" in reasons(tmp_path / "refs")["YVideoVideo4"]
    # Nobody's first ten seconds are taken for the clip.
    made = musiccaps_set(table, audio, tmp_path / "unsaid", sample_rate=RATE)
    assert reasons(tmp_path / "unsaid").keys() == {"YVideoVideo1", "YVideoVideo4"}
    assert all("--whole true" in reason for reason in reasons(tmp_path / "unsaid").values())


def test_musiccaps_can_be_shorter_but_not_longer(tmp_path):
    table = music_caps(tmp_path / "m.csv", [("VideoVideo1", 30, "it", False)])
    sound(tmp_path / "audio" / "VideoVideo1.wav", 10)
    assert musiccaps_set(table, tmp_path / "audio", tmp_path / "refs", seconds=4, sample_rate=RATE).seconds == 4
    with pytest.raises(InputError, match="no more"):
        musiccaps_set(table, tmp_path / "audio", tmp_path / "refs", seconds=30)


GOOD_ROW = ["VideoVideo1", "30", "40", "/m/1", "['a']", "caption", "4", "True", "False"]


def with_cell(column, value):
    row = list(GOOD_ROW)
    row[HEAD.split().index(column)] = value
    return row


BAD_TABLES = {
    "no column 'aspect_list', 'caption'": [["ytid", "start_s", "end_s", "is_balanced_subset"], GOOD_ROW[:4]],
    "line 2: start_s is 'soon'": [HEAD.split(), with_cell("start_s", "soon")],
    "line 2: end_s is '-1'": [HEAD.split(), with_cell("end_s", "-1")],
    "line 2: end_s is 'nan'": [HEAD.split(), with_cell("end_s", "nan")],
    "do not name a part": [HEAD.split(), with_cell("end_s", "30")],
    "line 2: ytid": [HEAD.split(), with_cell("ytid", " ")],
    "neither True nor False": [HEAD.split(), with_cell("is_balanced_subset", "maybe")],
    "line 3: has too few cells": [HEAD.split(), GOOD_ROW, GOOD_ROW[:5]],
    "a head line and nothing else": [HEAD.split()],
    "has no column": [],
    "line 2: aspect_list": [HEAD.split(), with_cell("aspect_list", "__import__('os').getcwd()")],
    "aspect_list is no list": [HEAD.split(), with_cell("aspect_list", "{'a': 'b'}")],
    "is no list of strings": [HEAD.split(), with_cell("aspect_list", "[1, 2]")],
    "line 2: aspect_list is no": [HEAD.split(), with_cell("aspect_list", "['a'")],
    "list of strings": [HEAD.split(), with_cell("aspect_list", "(" * 5000)],
}


@pytest.mark.parametrize("message", BAD_TABLES)
def test_a_csv_that_is_wrong_is_refused_by_line_and_column(tmp_path, message):
    with (tmp_path / "m.csv").open("w", newline="") as file:
        csv.writer(file).writerows(BAD_TABLES[message])
    (tmp_path / "audio").mkdir()
    with pytest.raises(InputError, match=message):
        musiccaps_set(tmp_path / "m.csv", tmp_path / "audio", tmp_path / "refs")
    assert not (tmp_path / "refs").exists()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"ytid,caption\n\x00", b"PK\x03\x04\xe9"])
def test_what_is_no_csv_is_refused(tmp_path, content):
    (tmp_path / "m.csv").write_bytes(content)
    (tmp_path / "audio").mkdir()
    for make in (musiccaps_set, song_describer_set):
        with pytest.raises(InputError, match=r"m\.csv"):
            make(tmp_path / "m.csv", tmp_path / "audio", tmp_path / "refs")


def test_song_describer_shares_clips_between_captions(tmp_path):
    rows = [
        ("233", "1009671", "A rock song, with a country vibe", ""), ("810", "1009671", 'say "dance"\nagain', "True"),
        ("159", "1009671", "english", "True"), ("859", "1004034", "constant melody", "True"),
        ("5", "404404", "gone", "True"), ("768", "1051201", "sea sick", "False"), ("159", "1004034", "twice", "True"),
    ]  # fmt: skip
    table = describer(tmp_path / "song_describer.csv", rows)
    audio = tmp_path / "audio"
    long = sound(audio / "audio" / "71" / "1009671.2min.wav", 4.0, seed=1)
    sound(audio / "34" / "1004034.wav", 3.0, seed=2)
    sound(audio / "1051201.2min.flac", 1.0, seed=3)
    made = song_describer_set(table, audio, tmp_path / "refs", seconds=2.0, sample_rate=RATE)
    found = {track.id: track for track in read_manifest(tmp_path / "refs")}
    assert list(found) == ["233", "810", "159", "859"]
    assert (made.clips, made.tracks, made.artists) == (4, 2, 1)
    assert found["810"].caption == 'say "dance"\nagain'
    assert found["810"].facts == {"track": "1009671", "start": 0.0, "artist": "7063", "valid": True}
    assert not found["233"].facts["valid"]
    assert found["233"].path == found["810"].path == found["159"].path != found["859"].path
    assert len(list((tmp_path / "refs").glob("*.flac"))) == 2
    wanted = read_audio(long, sample_rate=RATE, duration=2.0)
    assert (read_audio(found["159"].path, sample_rate=RATE) - wanted).abs().max() < 1e-4
    lacking = lines(tmp_path / "refs" / "missing.jsonl")
    assert [line["id"] for line in lacking] == ["159", "5", "768"]
    assert made.missing == 3
    assert "caption_id 159 again" in lacking[0]["reason"]
    verify(tmp_path / "refs")
    valid = song_describer_set(table, audio, tmp_path / "valid", seconds=2.0, valid=True, sample_rate=RATE)
    assert ids(tmp_path / "valid") == ["810", "159", "859"]
    assert valid.checksum != made.checksum


# ---- the command ----------------------------------------------------------------------------------------------------


def end(line):
    try:
        main(line.split())
    except SystemExit as error:
        return error.code or 0
    return 0


@pytest.fixture
def things(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_manifest(tmp_path / "corpus", [("a", "train", 2.0, "piano"), ("b", "test", 2.0, "drums")])
    music_caps(tmp_path / "m.csv", [("VideoVideo1", 30, "it", True), ("VideoVideo2", 30, "gone", True)])
    describer(tmp_path / "s.csv", [("1", "77", "it", True)])
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    sound(tmp_path / "audio" / "VideoVideo1.wav", 10.0)
    sound(tmp_path / "audio" / "77.2min.wav", 3.0)


WRONG = {
    "--kind": "eval-set --out r --kind musicaps",
    "--manifest": "eval-set --out r",
    "--csv and --audio": "eval-set --out r --kind musiccaps",
    "--audio": "eval-set --out r --kind song-describer --csv s.csv",
    "--per_track: no effect": "eval-set --out r --kind melody --manifest corpus --per_track 2",
    "--balanced: no effect": "eval-set --out r --kind song-describer --csv s.csv --audio audio --balanced true",
    "--manifest: no effect": "eval-set --out r --verify true --manifest corpus",
    "--seconds": "eval-set --out r --manifest corpus --seconds 0",
    "--sample_rate": "eval-set --out r --manifest corpus --sample_rate 0",
    "--tracks must be": "eval-set --out r --manifest corpus --tracks -1",
    "--clips must be": "eval-set --out r --kind melody --manifest corpus --clips 0",
    "'ytid'": "eval-set --out r --kind musiccaps --csv wrong.csv --audio audio",
    "no such CSV": "eval-set --out r --kind musiccaps --csv nowhere.csv --audio audio",
    "no such folder": "eval-set --out r --kind musiccaps --csv m.csv --audio nowhere",
    "set.json": "eval-set --out r --verify true",
    "is a file": "eval-set --out m.csv --manifest corpus",
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_with_the_flags_is_one_line(things, capsys, message):
    assert end(WRONG[message]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("mgl eval-set: ")
    assert message in said
    assert len(said.splitlines()) == 1


def test_every_kind_from_the_command_line(things, capsys, tmp_path):
    flags = "--sample_rate 800 --seconds"
    assert end(f"eval-set --manifest corpus --out held {flags} 0.5 --per_track 3") == 0
    assert ids(tmp_path / "held") == ["b-0", "b-1", "b-2"]
    assert end(f"eval-set --kind melody --manifest corpus --out melody {flags} 0.5 --clips 2") == 0
    assert [line["melody"] for line in lines(tmp_path / "melody" / "manifest.jsonl")] == ["b-0.flac", "b-1.flac"]
    assert end("eval-set --kind musiccaps --csv m.csv --audio audio --out caps --balanced true --sample_rate 800") == 0
    assert ids(tmp_path / "caps") == ["YVideoVideo1"]
    assert end(f"eval-set --kind song-describer --csv s.csv --audio audio --out songs --valid true {flags} 2") == 0
    said = capsys.readouterr().out
    assert "reference clips: 1 of 10 s" in said
    assert "missing: 1, listed with their reasons in caps/missing.jsonl" in said
    for folder in ("held", "melody", "caps", "songs"):
        record = json.loads((tmp_path / folder / "set.json").read_text())
        assert f"checksum: {record['checksum']}" in said
        assert end(f"eval-set --out {folder} --verify true") == 0
    (tmp_path / "held" / "b-1.flac").unlink()
    assert end("eval-set --out held --verify true") == 2
