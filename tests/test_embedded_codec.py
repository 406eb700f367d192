"""The codec that ships: small, whole, licensed, known everywhere by its name, and better than nothing on music."""

import hashlib

import numpy as np
import pytest
import tiny
import torch
import yaml

from experiments.__main__ import run
from experiments.compose import merged
from lightning_modules.checkpoints import load_model, save_model
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.folder import codec_checksum, codec_folder, load_codec
from lightning_modules.codec.losses import MultiScaleMelDistance, si_sdr
from lightning_modules.codec.training import CodecTraining
from lightning_modules.optim import OptimConfig

FOLDER = codec_folder("embedded")


@pytest.fixture(scope="module")
def codec():
    return load_codec("embedded")


def music(seconds=3.0, rate=32_000):
    """[1, 1, N]: a chord that changes twice a second, plucked, in a room that is not quite silent."""
    time = np.arange(round(seconds * rate)) / rate
    wave = np.zeros_like(time)
    for beat in range(round(2 * seconds)):
        since = time - beat / 2
        for pitch in (48, 60 + beat % 5, 64 + beat % 3, 67 + beat % 4):
            tone = sum(np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * k * since) / k**2 for k in (1, 2, 3, 4))
            wave += np.where(since >= 0, np.exp(-4 * np.maximum(since, 0)) * tone, 0)
    wave = 0.6 * wave / np.abs(wave).max() + 0.002 * np.random.default_rng(0).standard_normal(len(wave))
    return torch.tensor(wave, dtype=torch.float32)[None, None]


def test_it_is_small_and_licensed_and_has_a_card(codec):
    files = {file.name: file.stat() for file in FOLDER.iterdir()}
    assert set(files) == {"config.yaml", "model.safetensors", "README.md", "WEIGHTS_LICENSE"}
    assert files["model.safetensors"].st_size <= 8_000_000
    assert all(stat.st_mode & 0o044 == 0o044 for stat in files.values())  # a team reads an installed package
    assert "CC0" in (FOLDER / "WEIGHTS_LICENSE").read_text()
    card = (FOLDER / "README.md").read_text()
    assert f"{sum(parameter.numel() for parameter in codec.parameters()):,} parameters" in card
    assert codec.checksum[:12] in card  # the card is this codec's
    assert codec.checksum == codec_checksum("embedded") == codec_checksum(FOLDER)


def test_it_is_of_the_shape_that_its_recipe_trains(codec):
    parts = ["embedded/codec", "embedded/codec_gpu", "embedded/codec_decoder"]
    shape = merged(["codec", "codec/nano", *parts])["model"]["init_args"]["codec"]
    assert codec.config == CodecConfig(**{**shape, "ratios": tuple(shape["ratios"])})
    demo = merged(["codec", "codec/nano", "demo/codec"])["model"]["init_args"]
    assert demo["start_from"] == "embedded"


@torch.no_grad()
def test_it_codes_music(codec):
    wav = music()
    again = codec.decode(codec.encode(wav))[..., : wav.shape[-1]]
    distance = MultiScaleMelDistance(32_000)
    assert distance(again, wav).item() < 0.45
    assert distance(torch.zeros_like(wav), wav).item() > 2
    assert si_sdr(again, wav).item() > 6
    used = [len(codec.encode(wav)[0, k].unique()) for k in range(4)]
    assert min(used) > 60  # of 150 frames


def test_training_goes_on_from_it(codec):
    module = CodecTraining(codec.config, OptimConfig(), start_from="embedded")
    assert all(torch.equal(tensor, codec.state_dict()[name]) for name, tensor in module.codec.state_dict().items())


def test_a_model_takes_it_along(tmp_path, codec):
    lm = tiny.language_model(entries=1024)
    save_model(tmp_path / "model", lm, tiny.TEXT, tiny.conditioners(), "embedded")
    assert (tmp_path / "model" / "codec" / "WEIGHTS_LICENSE").is_file()
    assert load_model(tmp_path / "model").codec.checksum == codec.checksum


def test_commands_know_its_name(tmp_path, codec, capsys):
    music_folder = tiny.write_manifest(tmp_path / "music", [("a", "train", 1.0, "x"), ("b", "test", 1.0, "y")], 32_000)
    run("tokens", ["--manifest", str(music_folder), "--codec", "embedded", "--out", str(tmp_path / "tokens")])
    header = yaml.safe_load((tmp_path / "tokens" / "index.json").read_text())
    assert header["codec"] == codec.checksum
    run("evaluate-codec", ["--codec", "embedded", "--manifest", str(music_folder), "--out", str(tmp_path / "out")])
    assert "embedded: encodec, 32,000 Hz" in capsys.readouterr().out


def test_a_folder_of_ones_own_is_told_with_a_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(codec_folder("./embedded")) == "embedded"
    assert codec_folder("embedded") == FOLDER


def test_its_bytes_are_those_that_were_checked():
    """Tokens, judges and models depend on them: a change is a new codec, and is meant."""
    digest = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert digest == "ce1aae7d591614e2c9a48fd3a1c578b3b6b594048ad4f5d9ab87c10828db010f"
