"""The language model that ships: it loads by its name, is small, and has learnt what its codec's music is like."""

import math

import pytest
import torch

from datamodules.audio_io import read_audio
from datamodules.corpus import build_corpus
from datamodules.manifest import read_manifest
from lightning_modules.checkpoints import load_model, model_folder
from lightning_modules.codec.folder import codec_checksum
from lightning_modules.lm.losses import cross_entropy_sums

FOLDER = model_folder("embedded")


@pytest.fixture(scope="module")
def model():
    return load_model("embedded")


def test_it_is_small_and_licensed_and_has_a_card(model):
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files if file.suffix == ".safetensors") <= 15_000_000
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in files)  # a team reads an installed package
    assert "CC0" in (FOLDER / "WEIGHTS_LICENSE").read_text()
    card = (FOLDER / "README.md").read_text()
    for part in (model.lm, model.conditioners):
        assert f"{sum(parameter.numel() for parameter in part.parameters()):,}" in card


def test_its_codec_is_the_embedded_one(model):
    assert model.codec.checksum == codec_checksum("embedded")


@torch.no_grad()
def test_it_has_learnt_the_codes_of_music(model, tmp_path):
    (piece,) = read_manifest(build_corpus(tmp_path / "corpus", pieces=1, seed=8, workers=1))
    wav = read_audio(piece.path, sample_rate=32_000, start=1.0, duration=6.0)
    codes = model.codec.encode(wav[None])
    mixed_up = codes[..., torch.randperm(codes.shape[-1], generator=torch.Generator().manual_seed(0))]
    told, untold = cross_entropy(model, codes, piece.caption), cross_entropy(model, codes, "")
    assert told < untold < math.log(model.lm.config.entries)
    assert told < cross_entropy(model, codes.flip(-1), piece.caption) < cross_entropy(model, mixed_up, piece.caption)


def cross_entropy(model, codes, prompt):
    """Mean over the codebooks, in nats a code."""
    logits, targets = model.lm.teacher_forced(codes, model.conditions([prompt]))
    sums, counts = cross_entropy_sums(logits, targets, model.lm.config.entries)
    return float((sums / counts).mean())


def test_it_generates_as_long_as_it_is_asked_to(model):
    (clip,) = model.generate(["piano"], duration=0.5, seed=0)
    assert clip.shape == (1, 16_000)
    assert clip.abs().max() > 1e-3
