"""``mgl verify-published`` on checkpoints saved here: they agree, and where they do not it says so."""

import re

import pytest
import torch
from foreign_models import KINDS, musicgen, save

from datamodules.errors import InputError
from experiments import parity
from experiments.__main__ import run
from lightning_modules import checkpoints


@pytest.fixture(scope="module", params=["mono", "stereo", "melody"])
def folder(request, tmp_path_factory):
    return save(musicgen(**KINDS[request.param]), tmp_path_factory.mktemp("published") / "model")


def test_a_checkpoint_agrees(folder, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    run("verify-published", ["--model", str(folder), "--frames", "40", "--greedy", "20"])
    said = capsys.readouterr().out
    assert said.count(" yes ") == 6
    assert " NO " not in said
    clear, decoded = map(int, re.search(r" 0 unlike of (\d+) clear ones \((\d+) decoded", said).groups())
    assert clear > 0.95 * decoded


@pytest.mark.parametrize("part", ["transformer.blocks.1.ff_in.weight", "projections.text.bias", "codec"])
def test_what_differs_is_shown_and_ends_with_1(folder, part, monkeypatch, capsys):
    whole = checkpoints.load_model

    def spoilt(*args, **kwargs):
        model = whole(*args, **kwargs)
        if part == "codec":
            mono = getattr(model.codec, "mono", model.codec)
            mono.quantizer.codebooks[0].entries.mul_(1.5)
        else:
            with torch.no_grad():
                model.lm.get_parameter(part).mul_(1.05)
        return model

    monkeypatch.setattr(checkpoints, "load_model", spoilt)
    with pytest.raises(SystemExit) as ended:
        run("verify-published", ["--model", str(folder), "--frames", "30", "--greedy", "4"])
    assert ended.value.code == 1
    said = capsys.readouterr()
    rows = [line for line in said.out.splitlines() if " NO " in line]
    assert any(("codes" in row) == (part == "codec") for row in rows)
    assert "they do not agree" in said.err


def test_nothing_to_compare_is_refused(tmp_path):
    with pytest.raises(InputError, match="nothing would be compared"):
        run("verify-published", ["--model", str(tmp_path), "--frames", "0"])


def test_texts_differ_in_length():
    assert len({len(text.split()) for text in parity.TEXTS}) == len(parity.TEXTS)
