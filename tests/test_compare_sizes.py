"""Sizes and systems side by side: the stages, what is not done again, and what is said where weights are missing."""

import csv
import json
import re

import pytest
import soundfile
import tiny
from evaluation_clips import random_judge

from datamodules.errors import InputError
from evaluation.costs import cost_of
from experiments import __main__ as door
from experiments.__main__ import run
from experiments.commands.compare_sizes import compare_sizes
from experiments.systems.naming import find_systems
from experiments.systems.stages import Comparison, comparison_stages

IDS = ["one", "two", "three", "four"]


@pytest.fixture
def world(tmp_path, model_folder, monkeypatch):
    """References, a judge, music with splits, and a folder of clips that lacks one and has one too many."""
    monkeypatch.chdir(tmp_path)
    references = tmp_path / "references"
    references.mkdir()
    lines = []
    for index, name in enumerate(IDS):
        soundfile.write(references / f"{name}.wav", tiny.sine(1.0, 16000, 220.0 + 30 * index), 16000)
        fields = {"id": name, "path": f"{name}.wav", "duration": 1.0, "sample_rate": 16000, "caption": f"music {name}"}
        lines.append(json.dumps(fields))
    (references / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    others = tmp_path / "others"
    others.mkdir()
    for name in ("one", "two", "four", "stranger"):
        soundfile.write(others / f"{name}.wav", tiny.sine(1.0, 16000, 330.0), 16000)
    tracks = [(f"t{k}", "train" if k < 3 else "test", 1.0, "a tune") for k in range(5)]
    tiny.write_manifest(tmp_path / "music", tracks)
    random_judge(tmp_path / "judge")
    return tmp_path


def compare(*systems, **options):
    compare_sizes(
        list(systems),
        out="out",
        duration=0.5,
        device="cpu",
        **{"references": "references", "held_out": "music", "judge": "judge", **options},
    )


def test_everything_in_one_go_and_nothing_twice(world, capsys, monkeypatch):
    systems = ("ours=model", "theirs=folder:others", "large")
    compare(*systems)
    said = capsys.readouterr().out
    assert "cost only of large: no trained weights" in said
    page = (world / "out" / "report.html").read_text(encoding="utf-8")
    scores, cost = (
        page.partition(f'<section id="{name}">')[2].partition("</section>")[0] for name in ("scores", "cost")
    )
    assert "3 of 4" in scores
    assert "theirs: 1 files match no prompt: stranger." in scores
    assert "large" not in scores
    assert re.search(r"large<small[^>]*>[^<]*no clips: cost only", cost)
    assert "3.26 B" in cost
    with (world / "out" / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    costs = {(row["system"], row["metric"]): row["value"] for row in rows if row["kind"] == "cost"}
    held_out = json.loads(next((world / "out").glob("ours-*/held_out.json")).read_text())
    assert float(costs["ours", "perplexity"]) == cost_of({"name": "x"}, {"held_out": held_out}).perplexity > 1
    assert float(costs["ours", "hours_per_hour"]) > 0
    assert costs["theirs", "parameters"] == ""
    assert costs["large", "parameters"] == "3256956928"
    results = json.loads(next((world / "out").glob("theirs-*/results-*.json")).read_text())
    written = {row["metric"]: row["value"] for row in rows if (row["kind"], row["system"]) == ("score", "theirs")}
    assert float(written["kld"]) == results["metrics"]["kld"]["value"]
    assert "| theirs |" in (world / "out" / "report.md").read_text()

    again = []
    monkeypatch.setattr(door, "run", lambda name, arguments: again.append(name))
    compare(*systems)
    assert again == []
    # Other clips under the same name are another result.
    soundfile.write(world / "others" / "three.wav", tiny.sine(1.0, 16000, 440.0), 16000)
    monkeypatch.setattr(door, "run", lambda name, arguments: (again.append(name), run(name, arguments)))
    compare(*systems)
    assert again == ["system-clips", "system-cost", "evaluate"]
    assert "3 of 4" not in (world / "out" / "report.html").read_text(encoding="utf-8")


def test_without_weights_the_cost_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    compare_sizes(["small", "large"], out="out", gpu="a100", gpus=32)
    said = capsys.readouterr().out
    assert "cost only of small, large: no trained weights in runs/SIZE-*/model" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_file()) == [
        "cost.csv",
        "cost.md",
        "stages.json",
    ]
    table = (tmp_path / "out" / "cost.md").read_text()
    assert "| small | 420 M |" in table
    assert "| 1,550 |" in table  # as the comment in size/small.yaml has it, which is mgl plan's own figure


def test_models_of_one_codec_share_its_tokens(world, model_folder):
    systems = find_systems([f"a={model_folder}", f"b={model_folder}"])
    stages = comparison_stages(systems, Comparison())
    names = [stage.name for stage in stages]
    assert len(names) == len(set(names))
    assert sum(stage.command.startswith("tokens ") for stage in stages) == 1
    needs = {stage.name: stage.needs for stage in stages}
    assert all(names.index(other) < names.index(name) for name, others in needs.items() for other in others)
    assert not any(
        stage.command.startswith(("tokens", "perplexity"))
        for stage in comparison_stages(systems, Comparison(references="references", judge=""))
    )


def test_bad_input_is_found_before_any_work(world):
    with pytest.raises(InputError, match="no GPU 'abacus'"):
        compare("large", gpu="abacus")
    with pytest.raises(InputError, match="192 crops"):
        compare("ours=model", gpus=7)
    with pytest.raises(InputError, match="0 clips of 160 pieces"):
        compare("ours=model", references="", clips=0)
    with pytest.raises(InputError, match="no system"):
        compare("ours=model", "nothing-here")
    with pytest.raises(InputError, match="judge"):
        compare("ours=model", judge="no-judge")
    assert list((world / "out").iterdir()) == []
