"""What the README shows exists and works."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import tiny
import torch

from datamodules.manifest import read_manifest
from experiments.__main__ import COMMANDS, LIGHTNING, main
from experiments.compose import layer_path
from lightning_modules.checkpoints import save_model
from lightning_modules.codec.folder import save_codec

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def shell_lines():
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip()]


def test_the_first_two_commands_are_demo_and_test():
    assert [shlex.split(line, comments=True) for line in shell_lines()[:2]] == [["make", "demo"], ["make", "test"]]


def test_every_make_target_is_one_that_help_lists():
    listed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"make ([a-z-]+)", listed))
    named = set(re.findall(r"`?make ([a-z][a-z-]*)", README))
    assert named - {"an"} <= targets


def test_every_command_and_layer_is_there():
    named = set(re.findall(r"`mgl ([a-z-]+)", README)) | set(re.findall(r"bin/mgl ([a-z-]+)", README))
    assert named <= {*COMMANDS, *LIGHTNING}
    for layer in re.findall(r"-c ([a-z_/]+)(?= )", "\n".join(shell_lines())):
        assert layer_path(layer).is_file()


def test_the_fit_command_composes(tmp_path, monkeypatch, capsys):
    line = next(line for line in shell_lines() if "mgl fit" in line)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("trainer: {max_steps: 7}\n")
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(line)[1:])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "max_steps: 7" in printed
    assert "pattern: flatten" in printed


def test_the_manifest_line_is_one(tmp_path):
    fields = json.loads(blocks("json")[0])
    (tmp_path / "manifest.jsonl").write_text(json.dumps(fields))
    assert read_manifest(tmp_path, "train")[0].caption == fields["caption"]


def test_the_checkpoint_example_runs(tmp_path, monkeypatch, capsys):
    """With a tiny model of transformers in the place of the hub's, which cannot be fetched here."""
    import transformers
    from foreign_models import loaded, musicgen, save

    (block,) = [text for text in blocks("bash") if "mgl convert" in text]
    lines = [shlex.split(line) for line in block.splitlines()]
    assert [line[1] for line in lines] == ["convert", "generate", "convert", "-c"]
    monkeypatch.chdir(tmp_path)
    save(musicgen(), tmp_path / "facebook" / "musicgen-small")
    (tmp_path / "prompts.txt").write_text("calm piano\ndrums\n")
    for _, *line in lines[:3]:
        main(line)
    assert {clip.stem for clip in (tmp_path / "clips").glob("*.wav")} == {"0000", "0001"}
    first, again = (loaded(tmp_path / name).state_dict() for name in ("facebook/musicgen-small", "models/small-hf"))
    assert first.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    capsys.readouterr()
    monkeypatch.setattr(transformers.GenerationConfig, "max_length", 20, raising=False)
    exec(lines[3][2], {})
    assert capsys.readouterr().out == "800\n"


def test_the_python_example_runs(tmp_path, monkeypatch):
    model = tmp_path / "runs" / "demo" / "mini" / "model"
    save_codec(tmp_path / "codec", tiny.codec())
    save_model(model, tiny.language_model(), tiny.TEXT, tiny.conditioners(), tmp_path / "codec")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(blocks("python")[0], names)
    assert names["clips"][0].shape == (1, round(6.0 * tiny.RATE))
    assert names["logits"].shape[:3] == names["codes"].shape
    assert names["mask"].dtype == torch.bool
