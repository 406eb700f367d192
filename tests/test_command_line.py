"""``mgl``: help, errors of one line, and the way from a manifest to clips by commands alone."""

import inspect
import json
import signal
from importlib import import_module

import pytest
import soundfile
import tiny

from experiments.__main__ import COMMANDS, LIGHTNING, main
from lightning_modules.checkpoints import load_model

TINY = ["--model.init_args.lm.dim", "16", "--model.init_args.lm.layers", "1", "--model.init_args.lm.heads", "2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Commands write relative to the working directory; LightningCLI leaves its seed in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def end(*arguments):
    """The exit code."""
    try:
        main(list(arguments))
    except SystemExit as error:
        return error.code or 0
    return 0


def test_help_lists_every_command(capsys):
    for word in ("--help", "-h", "help"):
        assert end(word) == 0
        said = capsys.readouterr().out
        assert all(f"  {name} " in said for name in [*COMMANDS, *LIGHTNING])
    assert end() == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_explains_every_flag(capsys, name):
    module, function, _ = COMMANDS[name]
    signature = inspect.signature(getattr(import_module(module), function))
    assert end(name, "--help") == 0
    said = capsys.readouterr().out
    for parameter in signature.parameters.values():
        bare = parameter.default is parameter.empty and parameter.annotation in (list[str], int)
        bare |= parameter.kind is parameter.POSITIONAL_ONLY
        assert (parameter.name if bare else f"--{parameter.name}") in said
    # What a parameter means is in the docstring, which the help shows.
    documented = inspect.getdoc(getattr(import_module(module), function))
    assert all(f"{parameter}:" in documented for parameter in signature.parameters)


def test_help_of_fit(capsys):
    assert end("fit", "--help") == 0
    said = capsys.readouterr().out
    assert all(
        flag in said for flag in ("--run", "--config", "--trainer.max_steps", "--average.decay", "--print_config")
    )


@pytest.fixture
def things(tmp_path, model_folder):
    """Files that the wrong command lines name."""
    tiny.write_manifest(tmp_path / "corpus", [("a", "train", 0.3, "piano")])
    (tmp_path / "none.jsonl").touch()
    (tmp_path / "none.txt").write_text("\n \n")
    (tmp_path / "prompts.txt").write_text("piano\n")
    (tmp_path / "climbs.jsonl").write_text('{"caption": "a", "id": "../x"}')
    (tmp_path / "file").touch()
    (tmp_path / "broken.yaml").write_text("trainer: [1")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")


GENERATE = "generate --model model --prompts prompts.txt --out clips --device cpu"
WRONG = {
    "no such command": "tarin",
    "unknown flag": "generate --modle model",
    "missing flag": "generate --model model",
    "not a number": f"{GENERATE} --duration long",
    "no such model": "generate --model nowhere --prompts prompts.txt --out clips",
    "codec for a model": "generate --model codec --prompts prompts.txt --out clips",
    "no such prompts": "generate --model model --prompts nowhere.txt --out clips",
    "empty prompts": "generate --model model --prompts none.txt --out clips",
    "prompt climbs out": "generate --model model --prompts climbs.jsonl --out clips",
    "output is a file": "generate --model model --prompts prompts.txt --out file",
    "output below a file": "generate --model model --prompts prompts.txt --out file/clips",
    "shorter than a frame": f"{GENERATE} --duration 0.001",
    "no duration": f"{GENERATE} --duration 0",
    "no top k": f"{GENERATE} --top_k 0",
    "no temperature": f"{GENERATE} --temperature 0",
    "no batch": f"{GENERATE} --batch_size 0",
    "no such device": "generate --model model --prompts prompts.txt --out clips --device tpu",
    "no such manifest": "tokens --manifest nowhere --codec codec --out tokens",
    "empty manifest": "tokens --manifest none.jsonl --codec codec --out tokens",
    "model for a codec": "tokens --manifest corpus --codec model --out tokens",
    "tokens into a file": "tokens --manifest corpus --codec codec --out file",
    "no such codec": "convert nowhere out",
    "no such codec on the hub": "convert some/where out",
    "no target": "convert codec",
    "no such format": "convert codec out --to onnx",
    "codebooks of a language model": "convert model out --codebooks 2",
    "more codebooks than there are": "convert codec out --codebooks 5",
    "convert into a file": "convert codec file",
    "convert over a model": "convert codec model",
    "no such split": "eval-set --manifest corpus --out refs --split nope",
    "no seconds": "eval-set --manifest corpus --out refs --split train --seconds 0",
    "tracks too short": "eval-set --manifest corpus --out refs --split train --seconds 60",
    "no such store": "perplexity --model model --tokens nowhere",
    "nothing to resume": "resume",
    "no such run": "resume --run nowhere",
    "no such size": "train --size huge",
    "data is empty": "train --size small --data=",
    "no codec": "train --size small --data corpus",
    "no such pattern": "train --size nano --data corpus --codec codec --pattern zigzag",
    "no such stage": "demo --out demo --until supper",
    "demo into a file": "demo --out file",
    "no config": "fit",
    "no such layer": "fit -c size/huge --run r",
    "no run": "fit -c lm -c size/nano -c conditioning/bytes --data.init_args.store corpus",
    "broken layer": "fit -c lm -c broken.yaml --run r",
    "binary layer": "fit -c lm -c binary.yaml --run r",
    "unknown key": "fit -c lm --run r --model.init_args.lm.width 3 --data.init_args.store corpus",
    "unknown trainer flag": "fit -c lm --run r --trainer.max_stepz 3",
    "no store": "fit -c lm -c size/nano -c conditioning/bytes --run r --data.init_args.store corpus",
    "run is a file": "fit -c lm -c size/nano -c conditioning/bytes --run file --data.init_args.store corpus",
}


@pytest.mark.parametrize("line", WRONG.values(), ids=WRONG)
def test_what_a_user_can_mend_is_one_line(capsys, things, line):
    assert end(*line.split()) == 2
    said = capsys.readouterr()
    assert len(said.err.strip().splitlines()) == 1, said.err
    assert said.err.startswith(f"mgl {line.split()[0]}: ")
    assert "Traceback" not in said.err + said.out


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    def broken(name, arguments):
        raise ZeroDivisionError

    monkeypatch.setattr("experiments.__main__.run", broken)
    with pytest.raises(ZeroDivisionError):
        main(["tokens"])


def test_interruption_ends_with_130(monkeypatch, capsys):
    def stop(name, arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.__main__.run", stop)
    assert end("tokens") == 130
    assert "interrupted" in capsys.readouterr().err


def test_from_a_manifest_to_clips(capsys, tmp_path, codec_folder):
    tracks = [
        (f"t{i}", split, 0.6, f"caption {i}") for i, split in enumerate(("train", "train", "valid", "test", "valid"))
    ]
    tiny.write_manifest(tmp_path / "corpus", tracks)
    assert end("tokens", "--manifest", "corpus", "--codec", "codec", "--out", "tokens") == 0
    shape = ["--model.init_args.lm.codebooks", "4", "--model.init_args.lm.entries", "16", *TINY]
    train = [
        "fit", "-c", "lm", "-c", "pattern/delay", "-c", "conditioning/bytes", *shape, "--trainer.accelerator", "cpu",
        "--trainer.devices", "1", "--trainer.logger", "false", "--trainer.max_steps", "3", "--run", "runs/x",
        "--trainer.val_check_interval", "1", "--trainer.num_sanity_val_steps", "0", "--data.init_args.store", "tokens",
        "--data.init_args.seconds", "0.2", "--data.init_args.batch_size", "2", "--data.init_args.workers", "0",
        "--data.init_args.valid_items", "2", "--model.init_args.codec", "codec", "--average.every", "1",
        "--checkpoint.every_n_train_steps", "1", "--model.init_args.text.dim", "16",
    ]  # fmt: skip
    assert end(*train) == 0
    record = json.loads((tmp_path / "runs" / "x" / "model" / "training.json").read_text())
    assert record["steps"] == 3
    assert [point[0] for point in record["curve"]] == [1, 2, 3]
    assert all(train > 0 and valid > 0 for _, train, valid in record["curve"])

    # Go on for two more steps from the checkpoint of the third.
    config = tmp_path / "runs" / "x" / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 3", "max_steps: 5"))
    before = load_model("runs/x/model").checksum
    # A run that came to its end is named or left alone; one without its model was interrupted, and is found.
    assert end("resume") == 2
    stale = tmp_path / "runs" / "x" / "model" / "held_out.json"
    stale.touch()
    (tmp_path / "runs" / "x" / "model" / "training.json").unlink()
    assert end("resume") == 0
    record = json.loads((tmp_path / "runs" / "x" / "model" / "training.json").read_text())
    assert record["steps"] == 5
    # The checkpoint of a step is written before the validation that is due at that step.
    assert [point[0] for point in record["curve"]] == [1, 2, 4, 5]
    assert load_model("runs/x/model").checksum != before
    assert not stale.exists()  # figures of other weights

    assert (
        end("perplexity", "--model", "runs/x/model", "--tokens", "tokens", "--seconds", "0.2", "--device", "cpu") == 0
    )
    held_out = json.loads((tmp_path / "runs" / "x" / "model" / "held_out.json").read_text())
    assert held_out["n"] == 2  # tracks
    for row in held_out["cross_entropy"]:
        assert row["low"] <= row["value"] <= row["high"]
        assert 1.5 < row["value"] < 4  # near the log of 16 entries

    assert end("eval-set", "--manifest", "corpus", "--out", "refs", "--seconds", "0.25", "--per_track", "2") == 0
    generate = ["--prompts", "refs/manifest.jsonl", "--out", "clips", "--duration", "0.1", "--device", "cpu"]
    assert end("generate", "--model", "runs/x/model", *generate) == 0
    assert soundfile.info("clips/t3-1.wav").frames == 80
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == [
        "manifest.jsonl", "system.json", "t3-0.wav", "t3-1.wav",
    ]  # fmt: skip
    assert "Traceback" not in capsys.readouterr().err
