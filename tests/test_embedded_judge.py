"""The judge that ships: small, whole, licensed, known everywhere by its name, and hears what plays."""

import hashlib
import json

import numpy as np
import pytest
import torch
from evaluation_clips import write_clips
from torchaudio.functional import resample

from datamodules.corpus.arranging import Arrangement, Part, Stroke
from datamodules.corpus.packages import soundfont_path
from datamodules.corpus.rendering import SAMPLE_RATE, render
from evaluation.judges import resolve_judge
from evaluation.judges.contract import TextJudge
from evaluation.judges.embedded import load_judge
from evaluation.judges.loading import EMBEDDED
from evaluation.judges.training import JudgeTraining
from evaluation.runner import evaluate
from experiments.compose import merged

TUNE = (60, 62, 64, 65, 67, 69, 71, 72, 71, 69, 67, 65, 64, 62, 60, 67)


@pytest.fixture(scope="module")
def judge():
    return resolve_judge("embedded")


def test_it_is_small_and_licensed_and_has_a_card(judge):
    files = {file.name: file.stat() for file in EMBEDDED.iterdir()}
    assert set(files) == {"config.yaml", "model.safetensors", "README.md", "WEIGHTS_LICENSE"}
    assert files["model.safetensors"].st_size <= 5_000_000
    assert all(stat.st_mode & 0o044 == 0o044 for stat in files.values())  # a team reads an installed package
    assert "CC0" in (EMBEDDED / "WEIGHTS_LICENSE").read_text()
    card = (EMBEDDED / "README.md").read_text()
    assert f"{sum(parameter.numel() for parameter in judge.parameters()):,} parameters" in card
    assert judge.checksum[:12] in card  # the card is this judge's


def test_it_is_of_the_shape_that_its_recipe_trains(judge):
    recipe = merged(["judge", "embedded/judge"])["model"]["init_args"]
    recipe |= {"coder": None, "coded": 0.0}  # named by its class
    assert JudgeTraining(**recipe).judge.config == judge.config


def part(instrument, role, pitches, every=0.5):
    strokes = [Stroke(number * every, 0.9 * every, pitch, 90) for number, pitch in enumerate(pitches)]
    return Part(instrument, role, tuple(strokes))


def heard(judge, *parts):
    """Class scores [L] and the embedding [D] of four bars."""
    samples = torch.from_numpy(np.array(render(Arrangement(parts, 100.0, 16.0), soundfont_path(None))))
    wav = resample(samples, SAMPLE_RATE, judge.sample_rate)
    found = judge.embed_audio(wav[None, None], torch.tensor([len(wav)]))
    return found.logits[0], found.clips()[0]


BEAT = part("drum kit", "drums", [36, 42, 38, 42] * 8)


FAMILIES = {"flute": "woodwinds", "piano": "piano", "trumpet": "brass", "drawbar organ": "organ", "violin": "strings"}


@pytest.mark.parametrize(("instrument", "family"), FAMILIES.items())
def test_it_hears_who_plays(judge, instrument, family):
    pitches = [pitch + 12 for pitch in TUNE] * 2
    logits, embedding = heard(judge, part(instrument, "melody", pitches))
    families = [label for label in judge.labels if label.startswith("family:")]
    assert families[int(logits[: len(families)].argmax())] == f"family:{family}"
    assert logits[judge.labels.index("drums")] < 0
    assert heard(judge, part(instrument, "melody", pitches), BEAT)[0][judge.labels.index("drums")] > 0
    texts = judge.embed_text([f"A folk tune played by {name}." for name in FAMILIES])
    assert int((texts @ embedding).argmax()) == list(FAMILIES).index(instrument)


def test_an_evaluation_needs_nothing_but_its_name(tmp_path, judge):
    assert isinstance(judge, TextJudge)
    generator = torch.Generator().manual_seed(0)
    clips = {f"c{n}": 0.1 * torch.randn(1, 3 * 16_000, generator=generator) for n in range(4)}
    for name in ("reference", "generated"):
        write_clips(tmp_path / name, clips)
    results = evaluate(tmp_path / "generated", tmp_path / "reference", out=tmp_path / "results.json")
    assert {one["checksum"] for one in results["protocol"]["judges"].values()} == {judge.checksum}
    assert json.loads((tmp_path / "results.json").read_text())["metrics"]["fad"]["value"] == pytest.approx(0, abs=1e-9)


def test_its_bytes_are_those_that_were_checked():
    """Every number made with it depends on them: a change is a new judge, and is meant."""
    digest = hashlib.sha256((EMBEDDED / "model.safetensors").read_bytes()).hexdigest()
    assert digest == load_judge(EMBEDDED).checksum == "459389cd24c138fc2c7f7c1d9048523f106e8ecc5bb26461a0a364c697221d34"
