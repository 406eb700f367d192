"""Manifests: what is written is read, and every kind of wrong line is told."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.errors import InputError
from datamodules.manifest import Track, read_manifest, write_manifest

GOOD = {"path": "a.wav", "duration": 1.5, "sample_rate": 8000, "caption": "piano"}


def write(folder, *lines):
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_defaults_and_facts(tmp_path):
    assert read_manifest(write(tmp_path, {**GOOD, "split": None, "id": None}))[0].split == ""
    path = write(tmp_path, {**GOOD, "path": "x/y.tar.flac", "tempo": 90}, "", {**GOOD, "id": "b", "split": "train"})
    first, second = read_manifest(path)
    assert (first.id, first.split, first.facts) == ("x/y.tar", "", {"tempo": 90})
    assert first.path == tmp_path.resolve() / "x" / "y.tar.flac"
    assert (second.id, second.split, second.duration, second.sample_rate) == ("b", "train", 1.5, 8000)
    assert list(read_manifest(tmp_path)) == [first, second]  # a folder stands for its manifest
    assert list(read_manifest(tmp_path, "train")) == [second]


BAD_LINES = {
    "not JSON": "{",
    "not an object": "[1, 2]",
    "nothing": {},
    **{f"no {name}": {key: value for key, value in GOOD.items() if key != name} for name in GOOD},
    "path is a number": {**GOOD, "path": 3},
    "path is empty": {**GOOD, "path": ""},
    "path with a null byte": {**GOOD, "path": "a\0b.wav"},
    "caption is null": {**GOOD, "caption": None},
    "duration is a word": {**GOOD, "duration": "long"},
    "duration is null": {**GOOD, "duration": None},
    "duration is zero": {**GOOD, "duration": 0},
    "duration is negative": {**GOOD, "duration": -1},
    "duration is infinite": {**GOOD, "duration": float("inf")},
    "duration is not a number": {**GOOD, "duration": float("nan")},
    "rate is zero": {**GOOD, "sample_rate": 0},
    "rate is infinite": {**GOOD, "sample_rate": float("inf")},
    "rate is a list": {**GOOD, "sample_rate": []},
    "outside the folder": {**GOOD, "path": "../a.wav"},
    "outside by a detour": {**GOOD, "path": "x/../../a.wav"},
    "absolute": {**GOOD, "path": "/etc/passwd"},
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_told_by_its_number(tmp_path, line):
    with pytest.raises(InputError, match="line 2"):
        read_manifest(write(tmp_path, GOOD, line))


def test_links_out_of_the_folder(tmp_path):
    inside, music = tmp_path / "in", tmp_path / "music"
    (music / "deep").mkdir(parents=True)
    (inside / "x").mkdir(parents=True)
    (tmp_path / "a.wav").touch()
    (music / "a.wav").touch()
    # A link that lies directly beside the manifest is a source; what it leads to may not lead further.
    (inside / "music").symlink_to(music)
    manifest = read_manifest(write(inside, {**GOOD, "path": "music/a.wav"}))
    assert manifest.file(manifest[0]).samefile(music / "a.wav")
    (music / "out.wav").symlink_to(tmp_path / "a.wav")
    manifest = read_manifest(write(inside, {**GOOD, "path": "music/out.wav"}))
    with pytest.raises(InputError, match="outside"):
        manifest.file(manifest[0])
    (inside / "x" / "deep").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"line 1: .* outside"):
        read_manifest(write(inside, {**GOOD, "path": "x/deep/a.wav"}))


def test_tracks_are_made_when_they_are_asked_for(tmp_path):
    lines = [
        {**GOOD, "id": f"t{n}", "duration": n + 1.0, "split": "ab"[n % 2], "source": f"s{n % 3}"} for n in range(9)
    ]
    manifest = read_manifest(write(tmp_path, *lines))
    assert [track.id for track in manifest] == [manifest[n].id for n in range(9)] == [f"t{n}" for n in range(9)]
    assert manifest[-1].id == "t8"
    assert [track.id for track in manifest[2:4]] == ["t2", "t3"]
    assert manifest.durations.tolist() == [n + 1.0 for n in range(9)]
    odd = pickle.loads(pickle.dumps(manifest.split("b")))
    assert [track.id for track in odd] == ["t1", "t3", "t5", "t7"]
    assert [odd.sources[code] for code in odd.rows["source"]] == ["s1", "s0", "s2", "s1"]
    assert len(pickle.dumps(manifest)) < 2000
    manifest.path.write_text("x" * manifest.path.stat().st_size)
    with pytest.raises(InputError, match="changed"):
        manifest[0]


def test_bad_manifests_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such manifest"):
        read_manifest(tmp_path)
    with pytest.raises(InputError, match="no tracks"):
        read_manifest(write(tmp_path, "", "  "))
    with pytest.raises(InputError, match="'a'"):
        read_manifest(write(tmp_path, GOOD, GOOD))
    with pytest.raises(InputError, match="split 'valid'"):
        read_manifest(write(tmp_path, {**GOOD, "split": "train"}), "valid")
    (tmp_path / "manifest.jsonl").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(InputError):
        read_manifest(tmp_path)


text = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(text, text, st.dictionaries(st.sampled_from(["bpm", "key"]), text)), min_size=1, max_size=4))
def test_what_is_written_is_read(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("m").resolve()
    tracks = [
        Track(f"{index}{name}", folder / f"{index}.wav", 0.5 + index, 8000, caption, "train", facts)
        for index, (name, caption, facts) in enumerate(rows)
    ]
    write_manifest(folder / "manifest.jsonl", tracks)
    assert list(read_manifest(folder)) == tracks
    assert [file.name for file in folder.iterdir()] == ["manifest.jsonl"]


def test_a_manifest_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    path = write(tmp_path, GOOD)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write_manifest(path, [Track("a", tmp_path.parent / "elsewhere.wav", 1.0, 8000, "")])
    assert path.read_bytes() == before
