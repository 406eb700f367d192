"""The shape of ``small`` against transformers, as far as random weights tell: 24 layers of 1,024, up to 1,500 steps."""

import shutil

import pytest
import torch
from foreign_models import KINDS, PROMPTS, export, musicgen, save
from same_logits import assert_same_greedy_codes, assert_same_logits, assert_same_logits_over_1500_steps

from lightning_modules.checkpoints import load_model
from lightning_modules.converting.run import convert

pytestmark = pytest.mark.slow
SMALL = {"dim": 1024, "heads": 16, "layers": 24, "entries": 2048, "text_dim": 64, "ffn_dim": 4096}


@pytest.fixture(scope="module", params=["mono", "stereo", "melody"])
def small(request, tmp_path_factory):
    """transformers' model, ours made of its folder, and our folder."""
    folder = tmp_path_factory.mktemp("small")
    theirs = musicgen(**KINDS[request.param], **SMALL)
    convert(save(theirs, folder / "hf"), folder / "native")
    shutil.rmtree(folder / "hf")
    yield theirs, load_model(folder / "native"), folder / "native"
    shutil.rmtree(folder)


def test_logits_over_1500_steps(small):
    theirs, model, _ = small
    # Padding hidden and heard; to channels it is all the same.
    for masked in [True] if model.codec.channels == 2 else [True, False]:
        assert_same_logits_over_1500_steps(model, theirs, masked, 50)


def test_greedy_codes_are_those_of_generate(small):
    theirs, model, _ = small
    assert_same_greedy_codes(model, theirs, PROMPTS[:1], 50)


def test_files_of_audiocraft(small, tmp_path):
    """The same weights under its names, in its two files."""
    theirs, model, native = small
    convert(export(tmp_path / "audiocraft", theirs), tmp_path / "native")
    shutil.rmtree(tmp_path / "audiocraft")
    shutil.copytree(native / "text_encoder", tmp_path / "native" / "text_encoder")
    made = load_model(tmp_path / "native")
    shutil.rmtree(tmp_path / "native")
    wanted = model.lm.state_dict()
    assert made.lm.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in made.lm.state_dict().items())
    assert_same_logits(made, theirs, masked=False)
