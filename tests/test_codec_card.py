"""The card's table: the same clips through every codec, one table a set, and nothing stale."""

import json

import pytest
import soundfile
import tiny
from test_codec_baselines import RATE, music

from datamodules.errors import InputError
from experiments import __main__ as door
from experiments.codecs.card import card_lines
from experiments.commands.codec_card import codec_card
from experiments.recipes import codec_card_stages
from lightning_modules.codec.folder import save_codec


def write_music(folder, count):
    folder.mkdir(parents=True)
    lines = []
    for number in range(count):
        soundfile.write(folder / f"{number}.wav", music(1.5, seed=number).T.numpy(), RATE)
        fields = {"id": f"{number}", "path": f"{number}.wav", "duration": 1.5, "sample_rate": RATE, "caption": ""}
        lines.append(json.dumps({**fields, "split": "test" if number % 2 else "train"}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """Two codecs, and recordings."""
    folder = tmp_path_factory.mktemp("card")
    for name in ("one", "two"):
        made = tiny.codec(sample_rate=RATE, ratios=(8, 5), entries=16)
        if name == "two":
            made.quantizer.codebooks[0].entries.mul_(0.5)
        save_codec(folder / name, made)
    write_music(folder / "recordings", 12)
    return folder


@pytest.fixture
def without_rendering(monkeypatch):
    """Stands in for ``mgl corpus``, which takes a minute; returns the commands that ran."""
    whole, ran = door.run, []

    def run(name, arguments):
        ran.append(name)
        if name == "corpus":
            from pathlib import Path

            write_music(Path(arguments[arguments.index("--out") + 1]), 10)
        else:
            whole(name, arguments)

    monkeypatch.setattr(door, "run", run)
    return ran


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_one_command_makes_both_tables(there, tmp_path, without_rendering, capsys):
    given = {"codec": str(there / "one"), "twin": str(there / "two"), "recordings": str(there / "recordings")}
    codec_card(str(tmp_path / "out"), **given, seconds=1.0)
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.strip() in capsys.readouterr().out
    tables = text.split("\n\n")
    assert tables[0].startswith("Rendered scores: 5 clips of split 'test'")
    assert tables[2].startswith("Recordings: 6 clips of split 'test'")
    for table in (tables[1], tables[3]):
        head, rule, *rows = table.strip().splitlines()
        assert cells(head)[:4] == ["codec", "kbit/s", "SI-SDR, dB \u2191", "Mel distance \u2193"]
        assert set(rule) == set("|- ")
        names = [cells(row)[0].split()[0] for row in rows]
        assert names == ["one", "two", "opus@6", "vorbis"]
        assert {len(cells(row)) for row in rows} == {len(cells(head))}
    # The figures are those of results.json.
    (place,) = (tmp_path / "out").glob("*/recordings/results.json")
    results = json.loads(place.read_text())
    mel = results["systems"][1]["metrics"]["mel_distance"]
    told = cells(tables[3].strip().splitlines()[3])[3]
    assert told == f"{mel['value']:.3f} ({mel['low']:.3f} to {mel['high']:.3f})"

    # Given again nothing is done; other weights are other results.
    without_rendering.clear()
    codec_card(str(tmp_path / "out"), **given, seconds=1.0)
    assert without_rendering == []
    codec_card(str(tmp_path / "out"), **{**given, "codec": str(there / "two"), "twin": ""}, seconds=1.0)
    assert without_rendering == ["evaluate-codec", "evaluate-codec"]


def test_without_recordings_there_is_one_table(there, tmp_path, without_rendering, capsys):
    codec_card(str(tmp_path / "out"), codec=str(there / "one"), seconds=1.0)
    assert without_rendering == ["corpus", "evaluate-codec"]
    said = capsys.readouterr().out
    assert "Recordings" not in (tmp_path / "out" / "table.md").read_text()
    assert "make recordings" in said


def test_what_is_no_codec_is_refused_before_anything_runs(tmp_path, without_rendering):
    with pytest.raises(InputError, match="not a model folder"):
        codec_card(str(tmp_path / "out"), codec=str(tmp_path / "nothing"))
    assert without_rendering == []


def test_stages_name_the_weights(there):
    stages = codec_card_stages(str(there / "one"), "", "", 20.0)
    again = codec_card_stages(str(there / "two"), "", "", 20.0)
    assert [stage.name for stage in stages] == ["corpus", "scores"]
    assert stages[1].result != again[1].result


def test_a_figure_without_an_interval_stands_alone(tmp_path):
    score = {"value": 0.25, "low": None, "high": None, "n": 2, "reason": "few"}
    system = {
        "name": "opus@6", "codec": {}, "n": 2, "hours": 0.01, "bitrate": {"measured": {"value": 6.0}},
        "metrics": {key: score for key in ("si_sdr", "mel_distance", "stft_distance")} | {"visqol": {**score, "n": 0}},
    }  # fmt: skip
    results = {"systems": [system], "failed": [], "protocol": {"split": "test", "heard": "whole tracks"}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    lines = card_lines({"Set": tmp_path / "results.json"})
    assert lines[-1] == "| opus@6 | 6.00 | 0.250 | 0.250 | 0.250 | \u2013 |"
