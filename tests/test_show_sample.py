"""``mgl show-sample``: what it tells is what the run's own loader and language model had."""

import json

import numpy as np
import pytest
import soundfile
import tiny
import yaml

from datamodules.captions import CaptionConfig
from datamodules.crops import AudioCropDataModule
from datamodules.errors import InputError
from datamodules.tokens import TokenDataModule
from experiments.call import call
from experiments.commands.show_sample import show_sample
from lightning_modules.codec.folder import codec_checksum, load_codec
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig

CAPTIONS = {"merge": 0.5, "drop_description": 0.5, "drop_word": 0.3, "fields": ["bpm"]}


@pytest.fixture
def shown(capsys):
    """Runs the command; its lines by name."""

    def show(*arguments):
        call(show_sample, "show-sample", [str(argument) for argument in arguments])
        lines = capsys.readouterr().out.splitlines()
        return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}

    return show


def write_run(folder, data, init_args, model=None, **trainer):
    folder.mkdir()
    config = {
        "run": str(folder),
        "trainer": {"devices": 2, "num_nodes": 1, "accumulate_grad_batches": 4, **trainer},
        "model": {"class_path": "a.Model", "init_args": model or {}},
        "data": {"class_path": f"{data.__module__}.{data.__name__}", "init_args": init_args},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def token_options(tmp_path, codec_folder):
    """A store of the tiny codec's codes."""
    shape = {"codebooks": tiny.CODEBOOKS, "entries": tiny.ENTRIES, "frame_rate": 100.0}
    store = tiny.write_store(tmp_path / "tokens", **shape)
    index = json.loads((store / "index.json").read_text())
    (store / "index.json").write_text(json.dumps({**index, "codec": codec_checksum(codec_folder)}))
    return {"store": str(store), "seconds": 0.2, "batch_size": 3, "seed": 5, "captions": CAPTIONS}


@pytest.fixture
def token_run(tmp_path, codec_folder, token_options):
    model = {"seed": 9, "condition_dropout": 0.4, "codec": str(codec_folder)}
    return write_run(tmp_path / "run", TokenDataModule, token_options, model)


def captions_of(options):
    return {**options, "captions": CaptionConfig(**{**CAPTIONS, "fields": ("bpm",)})}


def test_windows_of_a_token_store(tmp_path, shown, token_run, token_options, codec_folder):
    dataset = TokenDataModule(**captions_of(token_options)).samples("train", 5)
    module = LanguageModelTraining(
        LanguageModelConfig(dim=16, layers=1, heads=2), tiny.TEXT, OptimConfig(), condition_dropout=0.4, seed=9
    )
    dropped = [module.dropout.drops(number, "text") for number in range(40)]
    assert 0 < sum(dropped) < 40
    drawn = set()
    for number in range(40):
        told, sample = shown(number, "--run", token_run), dataset[number]
        assert told["sample"] == f"{number} of {token_run}"
        assert told["step"] == f"{number // 24 + 1} (24 samples a step)"
        assert told["track"] == sample.track.id
        assert told["start"] == f"{sample.start:.3f} s"
        assert told["length"] == f"{sample.codes.shape[1] / 100:.3f} s"
        assert told["caption"] == sample.track.caption
        assert told["drawn"] == sample.caption
        assert told["condition"].startswith("dropped" if dropped[number] else "kept")
        drawn.add(sample.caption != sample.track.caption)
    assert drawn == {True, False}
    out = tmp_path / "heard" / "seven.wav"
    shown(7, "--run", token_run, "--audio", out)
    wav, rate = soundfile.read(out)
    codec = load_codec(codec_folder)
    expected = codec.decode(dataset[7].codes[None])[0, 0].clamp(-1, 1).numpy()
    assert rate == tiny.RATE
    assert np.abs(wav - expected).max() < 1e-4
    assert np.abs(wav).max() > 0.01


def test_crops_of_a_manifest(tmp_path, shown):
    tracks = [("a", "train", 0.7, "piano"), ("b", "train", 0.3, "")]
    options = {"manifest": str(tiny.write_manifest(tmp_path / "corpus", tracks)), "seconds": 0.4}
    options |= {"sample_rate": tiny.RATE, "batch_size": 3, "seed": 5, "captions": CAPTIONS}
    run = write_run(tmp_path / "run", AudioCropDataModule, options, devices="auto")
    dataset = AudioCropDataModule(**captions_of(options)).samples("train", 5)
    seen = set()
    for number in range(12):
        told, sample = shown(number, "--run", run), dataset[number]
        assert "step" not in told  # the number of devices was left to the machine
        assert "condition" not in told  # a codec knows no text
        assert told["track"] == sample.track.id
        assert told["start"] == f"{sample.start:.3f} s"
        assert told["length"] == {"a": "0.400 s", "b": "0.300 s"}[sample.track.id]
        assert told["caption"] == told["drawn"] == {"a": "piano", "b": "(none)"}[sample.track.id]
        seen.add(sample.track.id)
    assert seen == {"a", "b"}
    shown(3, "--run", run, "--audio", tmp_path / "three.flac")
    wav, rate = soundfile.read(tmp_path / "three.flac", dtype="float32")
    assert rate == tiny.RATE
    assert np.abs(wav - dataset[3].audio[0].numpy()).max() < 1e-4


def test_a_stand_in_for_an_unreadable_track(tmp_path, shown):
    folder = tiny.write_manifest(tmp_path / "corpus", [("good", "train", 0.2, ""), ("bad", "train", 0.2, "")])
    (folder / "bad.wav").write_bytes(b"no audio")
    options = {"manifest": str(folder), "seconds": 0.1, "sample_rate": tiny.RATE}
    run = write_run(tmp_path / "run", AudioCropDataModule, options)
    seen = [shown(number, "--run", run) for number in range(8)]
    assert {told["track"] for told in seen} == {"good"}
    failed = [told["instead"] for told in seen if "instead" in told]
    assert 0 < len(failed) < 8
    assert all(said.startswith("of bad (") for said in failed)


@pytest.mark.parametrize(
    ("devices", "nodes", "per_step"),
    [
        (1, 1, 12), ("1", 1, 12), ([0, 3], 2, 48), ("0,3", 1, 24), ("0,", 1, 12), ([2], 1, 12), (4, 8, 384),
        (-1, 1, None), ("-1", 1, None), ("auto", 1, None), (None, 1, None),
    ],
)  # fmt: skip
def test_steps_where_the_config_says_how_many_devices(tmp_path, shown, token_options, devices, nodes, per_step):
    run = write_run(tmp_path / "run", TokenDataModule, token_options, devices=devices, num_nodes=nodes)
    said = shown(50, "--run", run).get("step")
    assert said == (f"{50 // per_step + 1} ({per_step} samples a step)" if per_step else None)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--run", "run"], "number"),
        (["three", "--run", "run"], "three"),
        (["3"], "run"),
        (["-1", "--run", "run"], "numbered from 0"),
        (["3", "--run", "nowhere"], "is missing"),
        (["3", "--run", "broken"], "not a YAML file"),
        (["3", "--run", "empty"], "no data section"),
        (["3", "--run", "unknown"], "config.yaml"),
        (["3", "--run", "boring"], "no numbers"),
        (["3", "--run", "moved"], "token store"),
        (["3", "--run", "run", "--audio", "x.mid"], "ends in"),
        (["3", "--run", "run", "--audio", "run/config.yaml/x.wav"], "config.yaml"),
        (["3", "--run", "voiceless", "--audio", "x.wav"], "names no codec"),
        (["3", "--run", "other", "--audio", "x.wav"], "not the codec"),
    ],
)
def test_what_a_user_can_mend(tmp_path, monkeypatch, token_run, token_options, arguments, complaint):
    from lightning_modules.codec.folder import save_codec

    monkeypatch.chdir(tmp_path)
    for name, text in (("broken", "data: [1"), ("empty", "trainer: {}"), ("unknown", "data: {class_path: no.Such}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    (tmp_path / "boring").mkdir()
    (tmp_path / "boring" / "config.yaml").write_text("data: {class_path: lightning.pytorch.LightningDataModule}")
    write_run(tmp_path / "moved", TokenDataModule, {**token_options, "store": "gone"})
    write_run(tmp_path / "voiceless", TokenDataModule, token_options)
    save_codec(tmp_path / "second", tiny.codec(filters=5))
    write_run(tmp_path / "other", TokenDataModule, token_options, {"codec": "second"})
    with pytest.raises(Exception, match=complaint) as error:
        call(show_sample, "show-sample", arguments)
    cause = error.value
    while not isinstance(cause, InputError):
        cause = cause.__cause__ or cause.__context__
        assert cause is not None, "not what the command line would print as one line"
    assert not (tmp_path / "x.wav").exists()
