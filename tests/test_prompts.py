"""Prompt files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.errors import InputError
from datamodules.manifest import Track, write_manifest
from experiments.prompts import Prompt, read_prompts


def read(folder, text, name="p.txt", **options):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_prompts(path, **{"duration": 5.0, "seed": 3, **options})


def test_one_prompt_a_line(tmp_path):
    wanted = [Prompt("0000", "calm piano", 5.0, 3), Prompt("0001", "drums, loud", 5.0, 3)]
    assert read(tmp_path, "calm piano\n\n  drums, loud  \n") == wanted
    assert read(tmp_path, "\ufeffcalm piano\r\ndrums, loud") == wanted  # as Windows writes it


def test_json_lines(tmp_path):
    lines = [{"caption": "a"}, {"caption": "", "id": "b c", "duration": 2, "seed": 7}, {"caption": "c", "id": 5}]
    prompts = read(tmp_path, "\n".join(map(json.dumps, lines)), "p.jsonl")
    assert prompts == [Prompt("0000", "a", 5.0, 3), Prompt("b c", "", 2.0, 7), Prompt("5", "c", 5.0, 3)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_a_manifest_is_a_prompt_file(tmp_path_factory, captions):
    folder = tmp_path_factory.mktemp("m")
    tracks = [Track(f"t{i}", folder / f"{i}.wav", 9.0, 8000, caption) for i, caption in enumerate(captions)]
    write_manifest(folder / "manifest.jsonl", tracks)
    prompts = read_prompts(folder / "manifest.jsonl", duration=5.0, seed=3)
    # Its durations are those of its clips, not wishes.
    assert prompts == [Prompt(f"t{i}", caption, 5.0, 3) for i, caption in enumerate(captions)]


def test_melodies_of_lines_and_of_all(tmp_path):
    for name in ("one.wav", "two.wav"):
        (tmp_path / name).touch()
    lines = "\n".join([line(melody="one.wav"), line()])
    all_of_them = str(tmp_path / "two.wav")
    melodies = [
        [prompt.melody and prompt.melody.name for prompt in read(tmp_path, lines, "p.jsonl", melody=melody)]
        for melody in (None, all_of_them, "")
    ]
    assert melodies == [["one.wav", None], ["one.wav", "two.wav"], [None, None]]
    assert read(tmp_path, "piano", melody=all_of_them)[0].melody == tmp_path / "two.wav"
    with pytest.raises(InputError, match="line 1: there is no melody"):
        read(tmp_path, line(melody="three.wav"), "p.jsonl")
    with pytest.raises(InputError, match="path of an audio file"):
        read(tmp_path, line(melody=3), "p.jsonl")


def test_continuations_are_files_of_lines_like_melodies(tmp_path):
    for name in ("one.wav", "two.wav"):
        (tmp_path / name).touch()
    lines = "\n".join([line(continuation="one.wav"), line(melody="one.wav")])
    given = [prompt.sounds for prompt in read(tmp_path, lines, "p.jsonl", continuation=str(tmp_path / "two.wav"))]
    assert given == [(None, tmp_path / "one.wav"), (tmp_path / "one.wav", tmp_path / "two.wav")]
    assert read(tmp_path, lines, "p.jsonl", melody="", continuation="")[0].sounds == (None, None)
    with pytest.raises(InputError, match="line 1: there is no continuation"):
        read(tmp_path, line(continuation="three.wav"), "p.jsonl")


def line(**fields):
    return json.dumps({"caption": "a", **fields})


BAD = {
    "nothing": "",
    "not JSON": "piano",
    "a list": "[]",
    "no caption": '{"id": "a"}',
    "caption is a number": '{"caption": 3}',
    "duration is a word": line(duration="long"),
    "duration is zero": line(duration=0),
    "duration is negative": line(duration=-2),
    "duration is infinite": line(duration=float("inf")),
    "duration is not a number": line(duration=float("nan")),
    "seed is a word": line(seed="one"),
    "seed is infinite": line(seed=float("inf")),
    "id climbs out": line(id="../a"),
    "id is absolute": line(id="/etc/a"),
    "id is a folder": line(id="a/b"),
    "id is a parent": line(id=".."),
    "id is hidden": line(id=".bashrc"),
    "id is empty": line(id=""),
    "id with a null byte": line(id="a\0"),
    "id with a line break": line(id="a\n"),
    "id is an option": line(id="-rf"),
    "backslash": line(id="..\\a"),
    "ids twice": line(id="a") + "\n" + line(id="a"),
    "binary": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_bad_prompt_files_are_refused(tmp_path, text):
    with pytest.raises(InputError):
        read(tmp_path, text, "p.jsonl")


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such prompt file"):
        read_prompts(tmp_path / "nowhere.txt", 5.0, 0)
    with pytest.raises(InputError, match="one a line"):
        read(tmp_path, " \n\n")
    for duration in (0.0, -1.0):
        with pytest.raises(InputError, match="cannot be generated"):
            read(tmp_path, "piano", duration=duration)
