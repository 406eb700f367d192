"""``mgl export``: the model of a run that has not ended is the one that it would have ended with."""

import json
import re

import pytest
import tiny
import torch
from safetensors.torch import load_file

from datamodules.errors import InputError
from experiments.__main__ import run
from lightning_modules.codec.folder import load_codec


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A codec's run of four steps, with a checkpoint at each."""
    folder = tmp_path_factory.mktemp("export")
    music = tiny.write_manifest(folder / "music", [("a", "train", 4.0, "x"), ("b", "valid", 4.0, "y")])
    shape = {"sample_rate": 800, "filters": 4, "ratios": "[4,2]", "dim": 8, "lstm_layers": 1, "entries": 16}
    arguments = [f"--model.init_args.codec.{name}={value}" for name, value in shape.items()]
    arguments += ["--model.init_args.discriminators=null", f"--data.init_args.manifest={music}"]
    arguments += ["--data.init_args.sample_rate=800", "--data.init_args.seconds=3", "--data.init_args.batch_size=2"]
    arguments += ["--data.init_args.valid_items=1", "--trainer.max_steps=4", "--trainer.val_check_interval=2"]
    arguments += ["--checkpoint.every_n_train_steps=1", "--average.decay=0.5", f"--run={folder / 'run'}"]
    before = torch.random.get_rng_state()
    run("fit", ["-c", "codec", "-c", "codec/nano", "-c", "cluster/cpu", *arguments])
    torch.random.set_rng_state(before)
    return folder / "run"


def test_the_newest_checkpoint_is_exported_with_its_averaged_weights(tmp_path, finished, capsys):
    run("export", ["--run", str(finished), "--out", str(tmp_path / "out")])
    assert "step 4 of" in capsys.readouterr().out
    exported, ended = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", finished / "model"))
    assert exported.keys() == ended.keys()
    assert all(torch.equal(exported[name], ended[name]) for name in ended)
    assert load_codec(tmp_path / "out").config == load_codec(finished / "model").config


def test_half_the_size_and_nearly_the_same(tmp_path, finished):
    run("export", ["--run", str(finished), "--out", str(tmp_path / "half"), "--half", "true"])
    halved, whole = (load_file(folder / "model.safetensors") for folder in (tmp_path / "half", finished / "model"))
    assert all(tensor.dtype == torch.float16 for tensor in halved.values() if tensor.is_floating_point())
    codecs = [load_codec(folder) for folder in (tmp_path / "half", finished / "model")]
    for name, tensor in codecs[1].state_dict().items():
        torch.testing.assert_close(codecs[0].state_dict()[name].float(), tensor.float(), atol=2e-3, rtol=2e-3)
    assert set(halved) < set(whole)


def test_a_codec_has_a_card_of_its_own(tmp_path, finished):
    run("export", ["--run", str(finished), "--out", str(tmp_path / "out")])
    text, codec = (tmp_path / "out" / "README.md").read_text(encoding="utf-8"), load_codec(tmp_path / "out")
    for name in ("encoder", "decoder"):
        count = sum(parameter.numel() for parameter in getattr(codec, name).parameters())
        assert re.search(rf"^\| {name} \| .* \| {count:,} \|$", text, re.MULTILINE)
    curve = json.loads((finished / "model" / "training.json").read_text())["curve"]
    assert f"| valid/mel_distance | 4 | {curve[-1][2]:.3f} |" in text
    assert "mgl evaluate-codec --codec out" in text
    assert "tokens, " not in text


def test_a_codec_takes_no_results_of_clips(tmp_path, finished):
    fields = {"system": {"name": "x"}, "protocol": {}, "n": 1, "failed": [], "metrics": {}, "context": {}, "clips": []}
    (tmp_path / "results.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match="results: are of clips that a language model made"):
        run("export", ["--run", str(finished), "--out", str(tmp_path / "out"), "--results", f"{tmp_path}/results.json"])
    assert not (tmp_path / "out").exists()


def test_what_is_no_run_is_refused(tmp_path, finished):
    with pytest.raises(InputError, match=r"is no run \(config\.yaml is missing"):
        run("export", ["--run", str(tmp_path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
