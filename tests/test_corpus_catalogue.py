"""Which scores the embedded corpus is made of, and which stand together."""

import json
import random
from collections import Counter
from dataclasses import replace

import pytest

from datamodules.corpus import catalogue as module
from datamodules.corpus.catalogue import catalogue, same_music, split_of
from datamodules.corpus.selection import Selection
from datamodules.corpus.titles import abc_degrees, opening, plain_title, tidy_title, tune_form, work_title


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.getbasetemp() / "corpus-cache"
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def entries(cache):
    return catalogue()


def test_only_the_named_collections_come_in(entries):
    folders = Counter(entry.score.split("/")[0] for entry in entries)
    assert set(folders) == {"bach", "ryansMammoth", "oneills1850", "airdsAirs", "mozart", "haydn", "beethoven"}
    assert folders["bach"] == 408
    assert folders["ryansMammoth"] >= 1059
    assert folders["oneills1850"] > 1900
    assert folders["airdsAirs"] > 1150
    assert not [entry.score for entry in entries if ".krn" in entry.score or "k545" in entry.score]


def test_identities_are_unique_and_readable(entries):
    assert len({entry.score for entry in entries}) == len(entries)
    for entry in random.Random(0).sample(entries, 12):
        assert entry.title
        assert entry.composer


def test_the_sides_are_about_eight_one_one(entries):
    sides = Counter(entry.split for entry in entries)
    assert 0.76 < sides["train"] / len(entries) < 0.84
    assert min(sides["valid"], sides["test"]) / len(entries) > 0.07


def test_one_title_or_one_melody_stands_on_one_side(entries):
    by_title = {}
    for entry in entries:
        if not entry.score.startswith(("bach", "mozart", "haydn", "beethoven")) and plain_title(entry.title):
            by_title.setdefault(plain_title(entry.title), []).append(entry)
    shared = [group for group in by_title.values() if len({one.collection for one in group}) > 1]
    assert len(shared) > 100
    assert all(len({one.split for one in group}) == 1 for group in by_title.values())


def test_a_side_is_a_hash_of_the_music_and_stays(entries):
    """Pinned: were these to move, models trained before would have heard what they are tested on."""
    sides = {entry.score: entry.split for entry in entries}
    pinned = {
        "bach/bwv194.12.mxl": "train",
        "ryansMammoth/NielGowsReel.abc": "train",
        "oneills1850/1710-1750.abc#1745": "train",
        "airdsAirs/book1.abc#87": "train",
        "bach/bwv284.mxl": "valid",
        "ryansMammoth/DandyMikesReel.abc": "valid",
        "oneills1850/1176-1275.abc#1203": "valid",
        "airdsAirs/book5.abc#933": "valid",
        "bach/bwv426.mxl": "test",
        "ryansMammoth/MrsKinlochsReel.abc": "test",
        "oneills1850/1556-1624.abc#1624": "test",
        "airdsAirs/book3.abc#407": "test",
    }
    assert {score: sides[score] for score in pinned} == pinned
    assert Counter(split_of(str(n)) for n in range(5000))["train"] == pytest.approx(4000, abs=120)


def test_marks_are_joined_through_others():
    groups = same_music([["a", "x"], ["b", "y"], ["c", "x", "y"], ["d", ""], ["e", ""]])
    assert groups[0] == groups[1] == groups[2] == "a"
    assert groups[3:] == ["d", "e"]
    shuffled = same_music([["c", "y", "x"], ["e"], ["b", "y"], ["d"], ["a", "x"]])
    assert shuffled == ["a", "e", "a", "d", "a"]


def test_the_cache_is_read_and_a_damaged_one_made_anew(cache, entries, monkeypatch):
    (path,) = cache.glob("musicgen-lightning/*.json")
    assert not list(cache.rglob("*.partial"))
    fields = json.loads(path.read_text())
    monkeypatch.setattr(module, "_build", lambda root: [replace(entries[0], title="built")])
    assert catalogue() == entries
    path.write_text(json.dumps(fields)[:1000])
    assert [entry.title for entry in catalogue()] == ["built"]
    path.write_text(json.dumps(fields))


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch, entries):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(module, "_build", lambda root: entries[:3])
    assert catalogue() == entries[:3]


# ---- titles and melodies -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("written", "tidy"),
    [
        ("LANIGAN'S BALL -- JIG", "Lanigan's Ball"),
        ("Garden of Daisies, The", "The Garden of Daisies"),
        (" The Ranting Highlandman. ", "The Ranting Highlandman"),
        ("Miss McLeod - Reel", "Miss McLeod"),
    ],
)
def test_titles_are_tidied(written, tidy):
    assert tidy_title(written) == tidy


def test_printings_of_one_title_compare_equal():
    assert plain_title("The Devil's Dream -- Reel") == plain_title("Devils Dream") == plain_title("DEVIL'S DREAM, THE")
    assert plain_title("A Reel") == ""


def test_forms_are_read_where_stated():
    assert tune_form("T:X\nR: slipjig\nK:G\n") == "slip jig"
    assert tune_form("T:Molly's Jig\nK:G\n") == "jig"
    assert tune_form("T:The Reelfoot Air Pump\nK:G\n") == "air"
    assert tune_form("T:The Jigger\nK:G\n") == ""


def test_works_are_named_from_their_place():
    assert work_title("bach/bwv10.7.mxl") == "BWV 10.7"
    assert work_title("beethoven/opus59no3/movement4.mxl") == "String Quartet Op. 59 No. 3, movement 4"
    assert work_title("mozart/k80/movement1.mxl") == "String Quartet K. 80, movement 1"
    assert work_title("beethoven/opus132.mxl") == "String Quartet Op. 132"


def test_one_melody_in_two_keys_and_printings_has_one_opening():
    tune = 'X:1\nT:a\nM:4/4\nL:1/8\nK:D\n"D"d2 fa {g}afdf|edef g2 (fe)|dfaf gbag|fedc d4|\n'
    moved = "X:9\nT:b\nM:C|\nL:1/16\nK:G\n% words\n"
    moved += "g4 b2d'2 d'2b2g2b2|a2g2a2b2 c'4 b2a2|g2b2d'2b2 c'2e'2d'2c'2|b2a2g2f2 g8|\n"
    assert opening(abc_degrees(tune)) == opening(abc_degrees(moved)) != ""
    assert opening(abc_degrees(tune.replace("fedc", "fcdc").replace("edef", "adef"))) != opening(abc_degrees(tune))
    assert opening([1, 2, 3]) == ""


# ---- selection -----------------------------------------------------------------------------------------------------
def test_pieces_are_dealt_eight_one_one_without_repeats(entries):
    hands = Selection(entries, 5).deal(200)
    firsts = [hand[0] for hand in hands]
    for start in range(0, 200, 10):
        assert Counter(e.split for e in firsts[start : start + 10]) == {"train": 8, "valid": 1, "test": 1}
    tunes = [entry.score for entry in firsts if "quartets" not in entry.collection]
    assert len(set(tunes)) == len(tunes)
    shares = Counter(entry.collection for entry in firsts)
    assert len(shares) == 7
    assert max(shares.values()) < 80
    for hand in hands:
        assert len({entry.split for entry in hand}) == 1


def test_a_deal_is_a_beginning_of_a_larger_one(entries):
    few, many = Selection(entries, 5).deal(37), Selection(entries, 5).deal(90)
    assert many[:37] == few
    assert Selection(entries, 6).deal(37) != few


def test_tiny_catalogues_come_round_again(entries):
    some = [next(e for e in entries if e.split == split) for split in ("train", "valid", "test")]
    hands = Selection(some, 0).deal(30)
    assert {hand[0].score for hand in hands} == {entry.score for entry in some}
