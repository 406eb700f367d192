"""The shape of ``small`` against transformers, as far as random weights tell: 24 layers of 1,024, up to 1,500 steps."""

import dataclasses
import shutil

import pytest
import torch
from foreign_models import KINDS, PROMPTS, export, logits, melodies, musicgen, save
from test_convert_lm import assert_same_greedy_codes, assert_same_logits, stepped

from lightning_modules.checkpoints import load_model
from lightning_modules.converting.run import convert

pytestmark = pytest.mark.slow
SMALL = {"dim": 1024, "heads": 16, "layers": 24, "entries": 2048, "text_dim": 64, "ffn_dim": 4096}
STEPS, STEPWISE = 1500, 100


@pytest.fixture(scope="module", params=["mono", "stereo", "melody"])
def small(request, tmp_path_factory):
    """transformers' model, ours made of its folder, and our folder."""
    folder = tmp_path_factory.mktemp("small")
    theirs = musicgen(**KINDS[request.param], **SMALL)
    convert(save(theirs, folder / "hf"), folder / "native")
    shutil.rmtree(folder / "hf")
    yield theirs, load_model(folder / "native"), folder / "native"
    shutil.rmtree(folder)


@pytest.mark.parametrize("masked", [True, False])
@torch.no_grad()
def test_logits_over_1500_steps(small, masked):
    """One text, padded as beside a longer one; in one pass, and the last steps one by one over the cache."""
    theirs, model, _ = small
    lm, classes = model.lm, melodies(2)
    lm.config = dataclasses.replace(lm.config, mask_padded_text=masked)
    heard = model.conditioners(PROMPTS, classes if model.conditioners.melody is not None else None)
    context = lm.context(heard.select(torch.tensor([1])))
    played = torch.randint(2048, (1, lm.config.codebooks, STEPS), generator=torch.Generator().manual_seed(1))
    sequence = lm.pattern.build(played, trim=True)[..., :-1]
    wanted = logits(theirs, sequence, PROMPTS, classes[1:], masked=masked)
    assert wanted.shape == (1, lm.config.codebooks, STEPS, 2048)
    assert wanted.std() > 0.5
    ours = lm(sequence, context)
    steps = stepped(lm, sequence, context, STEPS - STEPWISE)
    last = wanted[:, :, -STEPWISE:]
    errors = [(one - two).abs().max() for one, two in ((ours, wanted), (steps, last), (steps, ours[:, :, -STEPWISE:]))]
    print("largest difference {:.1e} in one pass, {:.1e} step by step, {:.1e} between the two".format(*errors))
    assert max(errors) < 1e-4


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
