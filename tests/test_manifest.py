"""Manifests: what is written is read, and every kind of wrong line is told."""

import json

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
    assert read_manifest(tmp_path) == [first, second]  # a folder stands for its manifest
    assert read_manifest(tmp_path, "train") == [second]


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


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="outside"):
        read_manifest(write(tmp_path / "in", {**GOOD, "path": "link/a.wav"}))


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
    assert read_manifest(folder) == tracks
    assert [file.name for file in folder.iterdir()] == ["manifest.jsonl"]


def test_a_manifest_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    path = write(tmp_path, GOOD)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write_manifest(path, [Track("a", tmp_path.parent / "elsewhere.wav", 1.0, 8000, "")])
    assert path.read_bytes() == before
