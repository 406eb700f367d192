"""Evaluation sets: what is in them, what is missing, their checksum, and what an interruption leaves."""

import csv
import json
import os
import random
from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
import soundfile
import tiny
from hypothesis import given
from hypothesis import strategies as st

from datamodules.audio_io import read_audio
from datamodules.errors import InputError
from datamodules.eval_sets import clips, held_out_set, melody_set, musiccaps_set, song_describer_set, verify
from datamodules.eval_sets.building import build_set
from datamodules.eval_sets.held_out import by_artist, clip_name
from datamodules.eval_sets.musiccaps import file_names
from datamodules.manifest import Track, read_manifest, write_manifest
from datamodules.storage import StorageError
from evaluation.pairing import pair_clips
from experiments.__main__ import main
from experiments.prompts import read_prompts

RATE = 1000


def sound(path, seconds, rate=RATE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate))
    soundfile.write(path, noise, rate)
    return path


def corpus(folder, rows, **facts):
    """[(id, split, seconds, artist or "")] -> noise and a manifest."""
    tracks = []
    for seed, (name, split, seconds, artist) in enumerate(rows):
        path = sound(folder / f"{name}.wav", seconds, seed=seed)
        named = {"artist": artist} if artist else {}
        tracks.append(Track(name, path, seconds, RATE, f"about {name}", split, {**named, **facts}))
    write_manifest(folder / "manifest.jsonl", tracks)
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def reasons(folder):
    return {line["id"]: line["reason"] for line in lines(folder / "missing.jsonl")}


def ids(folder):
    return [track.id for track in read_manifest(folder)]


# ---- held-out tracks ------------------------------------------------------------------------------------------------


def test_reference_clips_are_cut_evenly_and_never_overlap(tmp_path):
    source = corpus(tmp_path / "c", [("test", "test", 2.5, ""), ("other", "train", 3.0, "")], bpm=90, channels=2)
    made = held_out_set(source, tmp_path / "refs", seconds=0.7, per_track=9, sample_rate=RATE)
    again = read_manifest(tmp_path / "refs")
    assert [clip.id for clip in again] == ["test-0", "test-1", "test-2"]  # 2.5 s hold three of 0.7 s
    starts = [clip.facts["start"] for clip in again]
    gap = (2.5 - 3 * 0.7) / 3
    assert starts == pytest.approx([gap / 2 + i * (0.7 + gap) for i in range(3)], abs=1e-3)
    for clip in again:
        assert (clip.caption, clip.duration, clip.split) == ("about test", 0.7, "test")
        # Facts of the track travel along, those of its file do not.
        assert clip.facts == {"bpm": 90, "track": "test", "start": clip.facts["start"]}
    whole = soundfile.read(source / "test.wav", dtype="float32")[0]
    for clip, start in zip(again, starts, strict=True):
        assert soundfile.info(clip.path).subtype == "PCM_16"
        wav = read_audio(clip.path, sample_rate=RATE)[0].numpy()
        assert len(wav) == 700
        first = round(start * RATE)
        assert min(np.abs(wav - whole[first + lag : first + lag + 700]).max() for lag in (-1, 0, 1)) < 1e-4
    assert (made.kind, made.seconds, made.clips, made.tracks, made.missing) == ("held-out", 0.7, 3, 1, 0)


def test_no_clip_fits_is_an_error(tmp_path):
    source = corpus(tmp_path / "c", [("test", "test", 2.5, "")])
    with pytest.raises(InputError, match="shorter clips"):
        held_out_set(source, tmp_path / "refs", seconds=5, sample_rate=RATE)
    with pytest.raises(InputError, match="split 'nope'"):
        held_out_set(source, tmp_path / "refs", split="nope", seconds=1)
    assert not (tmp_path / "refs").exists()


def test_what_is_short_or_damaged_is_listed_and_the_rest_goes_on(tmp_path):
    rows = [("fine", "test", 1.0, ""), ("nearly", "test", 0.95, ""), ("short", "test", 0.8, "")]
    rows += [("overclaims", "test", 1.0, ""), ("text", "test", 1.0, ""), ("gone", "test", 1.0, "")]
    source = corpus(tmp_path / "c", rows)
    sound(source / "overclaims.wav", 0.5)
    (source / "text.wav").write_text("no audio")
    (source / "gone.wav").unlink()
    made = held_out_set(source, tmp_path / "refs", seconds=1.0, sample_rate=RATE)
    assert ids(tmp_path / "refs") == ["fine-0", "nearly-0"]
    assert [track.duration for track in read_manifest(tmp_path / "refs")] == [1.0, 0.95]
    why = reasons(tmp_path / "refs")
    assert made.missing == len(why) == 4
    assert "lasts 0.80 s" in why["short"]
    assert "gives 0.50 s" in why["overclaims-0"]
    assert "not readable as audio" in why["text-0"]
    assert "gone.wav" in why["gone-0"]
    # Once mended, they are there.
    sound(source / "overclaims.wav", 1.0)
    assert held_out_set(source, tmp_path / "refs", seconds=1.0, sample_rate=RATE).missing == 3
    assert "overclaims-0" in ids(tmp_path / "refs")


def track_of(name, artist):
    return Track(name, None, 1.0, RATE, "", "test", {"artist": artist} if artist else {})


@given(st.lists(st.integers(0, 5), min_size=1, max_size=25), st.integers(0, 3), st.randoms(use_true_random=False))
def test_artists_take_turns(artists, seed, shuffling):
    tracks = [track_of(f"t{i}", f"artist {artist}") for i, artist in enumerate(artists)]
    have = Counter(artists)
    order = by_artist(tracks, seed)
    assert sorted(track.id for track in order) == sorted(track.id for track in tracks)
    for number in range(len(order) + 1):
        taken = Counter(int(track.facts["artist"].split()[1]) for track in order[:number])
        # Nobody has two more than somebody who has one left to give.
        most = max(taken.values(), default=0)
        assert all(taken[artist] >= most - 1 for artist in have if taken[artist] < have[artist])
    shuffled = list(tracks)
    shuffling.shuffle(shuffled)
    assert by_artist(shuffled, seed) == order


def test_who_is_drawn_depends_on_the_seed_and_not_on_how_much_somebody_made():
    tracks = [track_of(f"t{i}", "prolific" if i < 30 else f"artist {i}") for i in range(39)]
    firsts = [{track.facts["artist"] for track in by_artist(tracks, seed)[:5]} for seed in range(60)]
    share = sum("prolific" in drawn for drawn in firsts) / 60
    assert 0.3 < share < 0.7  # 5 of 10 artists
    assert len({frozenset(drawn) for drawn in firsts}) > 20
    # Without an artist, everyone is their own.
    nobody = [track_of(f"t{i}", "") for i in range(5)] + [track_of(f"s{i}", "A") for i in range(9)]
    assert Counter(track.facts.get("artist", "") for track in by_artist(nobody, 0)[:6]) == {"": 5, "A": 1}


def test_n_tracks_are_the_same_in_any_manifest_order(tmp_path):
    rows = [
        (f"{artist}{i}", "test", 0.3, artist) for artist, count in (("A", 9), ("B", 2), ("C", 1)) for i in range(count)
    ]
    source = corpus(tmp_path / "c", rows)
    one = held_out_set(source, tmp_path / "one", seconds=0.3, tracks=6, sample_rate=RATE)
    assert (one.clips, one.tracks, one.artists) == (6, 6, 3)
    assert Counter(track.facts["artist"] for track in read_manifest(tmp_path / "one")) == {"A": 3, "B": 2, "C": 1}
    shuffled = list(read_manifest(source))
    random.Random(1).shuffle(shuffled)
    write_manifest(source / "manifest.jsonl", shuffled)
    two = held_out_set(source, tmp_path / "two", seconds=0.3, tracks=6, sample_rate=RATE)
    assert ids(tmp_path / "two") != ids(tmp_path / "one")  # each in its manifest's order
    assert two.checksum == one.checksum
    other = held_out_set(source, tmp_path / "three", seconds=0.3, tracks=6, sample_rate=RATE, seed=1)
    assert other.checksum != one.checksum
    assert held_out_set(source, tmp_path / "all", seconds=0.3, tracks=99, sample_rate=RATE).clips == 12


def test_an_artist_on_both_sides_is_refused(tmp_path):
    rows = [
        ("a", "train", 1.0, "Ann  Lee"),
        ("b", "test", 1.0, "ann lee"),
        ("c", "test", 1.0, "Bo"),
        ("d", "train", 1, ""),
    ]
    source = corpus(tmp_path / "c", rows)
    for make in (held_out_set, melody_set):
        with pytest.raises(InputError, match="'ann lee'"):
            make(source, tmp_path / "refs", seconds=0.5, sample_rate=RATE)
    assert not (tmp_path / "refs").exists()
    with pytest.raises(InputError, match="also in split 'train'"):
        held_out_set(source, tmp_path / "refs", split="train", seconds=0.5, sample_rate=RATE)
    # In another split than "train" an artist may recur.
    source = corpus(tmp_path / "d", [("a", "valid", 1.0, "Bo"), ("b", "test", 1.0, "Bo"), ("c", "train", 1.0, "Ann")])
    made = held_out_set(source, tmp_path / "refs", seconds=0.5, sample_rate=RATE)
    assert (made.artists, made.note) == (1, "")


def test_what_is_not_known_of_the_artists_is_said(tmp_path):
    source = corpus(tmp_path / "c", [("a", "train", 1.0, ""), ("b", "test", 1.0, "")])
    made = held_out_set(source, tmp_path / "refs", seconds=0.5, sample_rate=RATE)
    assert made.artists is None
    assert "no track of the set names its artist" in made.note
    source = corpus(tmp_path / "d", [("a", "test", 1.0, "Bo"), ("b", "test", 1.0, "")])
    made = held_out_set(source, tmp_path / "refs2", seconds=0.5, sample_rate=RATE)
    assert made.artists == 1
    assert made.note.startswith("1 of 2 tracks name no artist")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300), min_size=1, max_size=5))
def test_ids_become_names_that_generate_takes(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("n")
    named = {name.replace("/", "--"): f"{clip_name(name)}-0" for name in names}
    assert len(set(named.values())) == len(named)
    assert all(len(f"{name}.flac".encode()) < 255 for name in named.values())
    tracks = [Track(name, folder / "x.flac", 1.0, RATE, "piano") for name in named.values()]
    write_manifest(folder / "manifest.jsonl", tracks)
    assert [prompt.id for prompt in read_prompts(folder / "manifest.jsonl", 1.0, 0)] == list(named.values())


def test_names_that_would_become_alike_are_told_apart():
    alike = ["a(b)", "a[b]", "a_b_", "-a", "a", "x" * 200, "x" * 201, "東" * 99, "東" * 98]
    assert len({clip_name(name) for name in alike}) == len(alike)


def test_plain_names_stay_as_they_are():
    assert [clip_name(name) for name in ("00012", "a/b c", "Björk_1.x")] == ["00012", "a--b c", "Björk_1.x"]


# ---- melody ---------------------------------------------------------------------------------------------------------


def test_melody_set_gives_one_of_every_track_before_a_second(tmp_path):
    rows = [("a", "test", 3.2, "A"), ("b", "test", 1.1, "B"), ("c", "test", 2.2, "A"), ("d", "test", 0.5, "C")]
    source = corpus(tmp_path / "c", rows)
    for asked, wanted in ((3, "abc"), (4, None), (5, "aabcc"), (99, "aaabcc")):
        made = melody_set(source, tmp_path / str(asked), seconds=1.0, clips=asked, sample_rate=RATE)
        found = read_manifest(tmp_path / str(asked))
        assert made.clips == min(asked, 6)
        if wanted:
            assert "".join(track.facts["track"] for track in found) == wanted
        assert max(Counter(track.facts["track"] for track in found).values()) <= 3
        for track in found:
            assert tmp_path / str(asked) / track.facts["melody"] == track.path
            assert soundfile.info(track.path).frames == RATE
        assert reasons(tmp_path / str(asked)).keys() == {"d"}
    assert melody_set(source, tmp_path / "2", seconds=1.0, clips=2, sample_rate=RATE).artists == 2


# ---- MusicCaps ------------------------------------------------------------------------------------------------------

HEAD = "ytid start_s end_s audioset_positive_labels aspect_list caption author_id is_balanced_subset is_audioset_eval"


def music_caps(path, rows):
    """[(ytid, start, caption, balanced)] -> a CSV as the public one is."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(HEAD.split())
        for video, start, caption, balanced in rows:
            aspects = "['low \"quality\"', \"drummer's fill\", 'a, b']"
            table.writerow([video, start, start + 10, "/m/04rlf,/m/0l14md", aspects, caption, 4, balanced, False])
    return path


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


# ---- Song Describer -------------------------------------------------------------------------------------------------


DESCRIBER = "caption_id track_id caption is_valid_subset familiarity artist_id album_id path duration"


def describer(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(DESCRIBER.split())
        for caption_id, track, caption, valid in rows:
            table.writerow([caption_id, track, caption, valid, 1, 7063, 118, f"{track[-2:]}/{track}.mp3", 160.1])
    return path


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


# ---- checksum and verification --------------------------------------------------------------------------------------


def by_hand(folder):
    """The checksum of a set as its documentation says it is made."""
    rows = []
    for line in lines(folder / "manifest.jsonl"):
        samples, rate = soundfile.read(folder / line["path"], dtype="int16")
        audio = sha256(f"{rate} ".encode() + samples.tobytes()).hexdigest()
        rows.append([line["id"], line["caption"], audio])
    return sha256("".join(json.dumps(row) + "\n" for row in sorted(rows)).encode()).hexdigest()


@pytest.fixture
def held(tmp_path):
    """A set of five clips, and how to make it again."""
    source = corpus(tmp_path / "c", [(name, "test", 1.0, "") for name in "dbeac"])

    def make(out="refs", **options):
        return held_out_set(source, tmp_path / out, **{"seconds": 0.5, "sample_rate": RATE, **options})

    make.source, make.out = source, tmp_path / "refs"
    return make


def rewrite(folder, change):
    """Changes the lines of a manifest, each a dictionary."""
    changed = [change(line) for line in lines(folder / "manifest.jsonl")]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))


def test_checksum_is_over_ids_captions_and_samples(held, tmp_path):
    made = held()
    assert made.checksum == by_hand(held.out) == json.loads((held.out / "set.json").read_text())["checksum"]
    write_manifest(held.source / "manifest.jsonl", list(read_manifest(held.source))[::-1])
    assert held("again").checksum == made.checksum
    assert ids(tmp_path / "again") == ids(held.out)[::-1]
    rewrite(held.source, lambda line: {**line, "caption": line["caption"].replace("about a", "about A")})
    renamed = held("caption")
    assert renamed.checksum != made.checksum
    samples, _ = soundfile.read(held.source / "a.wav", dtype="int16")
    samples[500] += 1
    soundfile.write(held.source / "a.wav", samples, RATE)
    assert held("sample").checksum not in (made.checksum, renamed.checksum)
    assert held("sample").checksum == by_hand(tmp_path / "sample")


def test_verify_passes_what_is_whole_however_it_is_packed(held):
    made = held()
    seen = []
    assert verify(held.out, lambda *state: seen.append(state)) == made
    assert seen[-1] == (5, 5)
    samples, _ = soundfile.read(held.out / "a-0.flac", dtype="int16")
    before = (held.out / "a-0.flac").read_bytes()
    soundfile.write(held.out / "a-0.flac", samples, RATE, compression_level=0.0)
    assert (held.out / "a-0.flac").read_bytes() != before
    verify(held.out)


def tamper_sample(folder):
    samples, _ = soundfile.read(folder / "a-0.flac", dtype="int16")
    samples[7] += 1
    soundfile.write(folder / "a-0.flac", samples, RATE)


def tamper_caption(folder):
    rewrite(
        folder, lambda line: {**line, "caption": line["caption"].upper() if line["id"] == "a-0" else line["caption"]}
    )


def tamper_lines(folder):
    text = (folder / "manifest.jsonl").read_text()
    (folder / "manifest.jsonl").write_text(text.partition("\n")[2])


def tamper_file(folder):
    (folder / "a-0.flac").write_bytes((folder / "a-0.flac").read_bytes()[:300])


TAMPER = {
    "sample": (tamper_sample, "'a-0.flac' has changed"),
    "caption": (tamper_caption, "ids, captions or audio"),
    "a line less": (tamper_lines, "ids, captions or audio"),
    "cut short": (tamper_file, "'a-0.flac' has changed"),
    "gone": (lambda folder: (folder / "a-0.flac").unlink(), "'a-0.flac' has changed"),
    "no record": (lambda folder: (folder / "set.json").unlink(), "no such file"),
    "broken record": (lambda folder: (folder / "set.json").write_text("[1]"), "not the record"),
    "other record": (lambda folder: (folder / "set.json").write_text('{"kind": "x"}'), "not the record"),
}


@pytest.mark.parametrize("name", TAMPER)
def test_verify_finds_what_was_tampered_with(held, name):
    held()
    change, message = TAMPER[name]
    change(held.out)
    with pytest.raises(InputError, match=message):
        verify(held.out)


# ---- interruption, and asking again ---------------------------------------------------------------------------------


@pytest.fixture
def cuts(monkeypatch):
    """Names of the recordings that were read to be cut."""
    seen = []
    read = clips.read_audio

    def watched(path, **options):
        seen.append(path.stem)
        return read(path, **options)

    monkeypatch.setattr(clips, "read_audio", watched)
    return seen


def stat(folder):
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("after", range(1, 6))
def test_an_interrupted_run_goes_on_where_it_stopped(held, cuts, tmp_path, after):
    held("whole")

    def stop(done, total):
        if done == after:
            raise KeyboardInterrupt

    cuts.clear()
    with pytest.raises(KeyboardInterrupt):
        held(progress=stop)
    assert not {"manifest.jsonl", "set.json"} & {path.name for path in held.out.iterdir()}
    if after == 3:  # killed in the middle of a line
        journal = held.out / "clips.jsonl"
        journal.write_text(journal.read_text()[:-20])
        assert cuts == list("dbe")
        cuts[2:] = []
    held()
    assert cuts == list("dbeac")
    assert content(held.out) == content(tmp_path / "whole")
    verify(held.out)


def test_a_clip_is_there_whole_or_not_at_all(held, monkeypatch):
    def write_half(path, wav, rate):
        path.write_bytes(b"fLaC")
        raise KeyboardInterrupt

    monkeypatch.setattr(clips, "write_audio", write_half)
    with pytest.raises(KeyboardInterrupt):
        held()
    assert [path.name for path in held.out.iterdir()] == ["clips.jsonl"]


def test_asking_again_does_nothing(held, cuts):
    made = held()
    before = stat(held.out)
    cuts.clear()
    assert held() == made
    assert not cuts
    assert stat(held.out) == before


def test_asking_for_something_else_cuts_only_what_changed(held, cuts):
    held()
    cuts.clear()
    # More clips of a track lie elsewhere in it, fewer tracks do not.
    assert held(tracks=3).clips == 3
    assert cuts == []
    assert len(list(held.out.glob("*.flac"))) == 3  # what nobody asks for is gone
    held()
    assert len(cuts) == 2
    cuts.clear()
    os.utime(held.source / "e.wav", ns=(1, 1))
    (held.out / "d-0.flac").unlink()
    (held.out / "b-0.flac").write_bytes(b"short")
    held()
    assert cuts == list("dbe")
    cuts.clear()
    assert held(seconds=0.4).seconds == 0.4
    assert len(cuts) == 5
    # A new caption costs no clip.
    cuts.clear()
    rewrite(held.source, lambda line: {**line, "caption": "new"})
    held(seconds=0.4)
    rewrite(held.source, lambda line: {**line, "bpm": 90})
    held(seconds=0.4)
    assert cuts == []
    assert {(track.caption, track.facts["bpm"]) for track in read_manifest(held.out)} == {("new", 90)}
    verify(held.out)


def test_a_set_that_is_being_changed_is_no_set(held):
    held()

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        held(seconds=0.4, progress=stop)
    assert not {"manifest.jsonl", "set.json"} & {path.name for path in held.out.iterdir()}


def test_a_set_never_lies_on_its_own_sources_or_on_something_else(held, tmp_path):
    before = content(held.source)
    with pytest.raises(InputError, match="own folder"):
        held("c")
    corpus(tmp_path / "other", [("x", "test", 1.0, "")])
    with pytest.raises(InputError, match="no evaluation set's"):
        held("other")
    table = music_caps(tmp_path / "m.csv", [("VideoVideo1", 30, "it", False)])
    for out in ("c", "c/deeper"):
        with pytest.raises(InputError, match="lies in the folder of the audio"):
            musiccaps_set(table, held.source, tmp_path / out)
    with pytest.raises(InputError, match="no such folder of audio"):
        musiccaps_set(table, tmp_path / "nowhere", tmp_path / "refs")
    assert content(held.source) == before


def test_a_journal_from_elsewhere_removes_nothing_elsewhere(held, tmp_path):
    held()
    outside = sound(tmp_path / "outside.flac", 1.0)
    line = lines(held.out / "clips.jsonl")[0]
    with (held.out / "clips.jsonl").open("a") as journal:
        journal.write(json.dumps({**line, "name": "../outside"}) + "\n")
    held(seconds=0.4, tracks=2)
    assert outside.exists()


def test_a_store_out_of_reach_ends_the_run(tmp_path):
    def locate():
        raise StorageError("s3://x: no answer")

    wanted = [clips.Wanted("a", locate, "")]
    with pytest.raises(StorageError):
        build_set(tmp_path / "refs", wanted, kind="held-out", seconds=1, sample_rate=RATE, settings={})


def test_two_clips_of_one_id_are_refused(tmp_path):
    source = corpus(tmp_path / "c", [("x--y", "test", 1.0, ""), ("x/y", "test", 1.0, "")])
    with pytest.raises(InputError, match="'x--y-0'"):
        held_out_set(source, tmp_path / "refs", seconds=0.5, sample_rate=RATE)


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
