"""Evaluation sets of held-out tracks and melodies: what is in them, and what is missing."""

import random
from collections import Counter

import numpy as np
import pytest
import soundfile
from eval_set_sources import RATE, corpus, ids, reasons, sound
from hypothesis import given
from hypothesis import strategies as st

from datamodules.audio_io import read_audio
from datamodules.errors import InputError
from datamodules.eval_sets import held_out_set, melody_set
from datamodules.eval_sets.held_out import by_artist, clip_name
from datamodules.manifest import Track, read_manifest, write_manifest
from experiments.prompts import read_prompts

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
