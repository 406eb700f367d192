"""Cross-entropy as the decoding engine computes it, one step after the other."""

import tiny
import torch

from lightning_modules.generation.model import MusicModel
from lightning_modules.lm import held_out
from lightning_modules.lm.losses import cross_entropy_sums


def scored(how, model, codes, lengths):
    logits, targets = how(model, codes, model.conditions(["piano", ""]), lengths)
    return cross_entropy_sums(logits, targets, model.lm.config.entries)


@torch.no_grad()
def test_steps_score_the_same_codes_as_one_pass():
    """Both of different lengths; in int8 the same codes, and nearly as well."""
    lm, codes, lengths = tiny.language_model(dim=64, heads=2), tiny.codes(2, 12), torch.tensor([12, 7])
    model = MusicModel(lm, tiny.conditioners(), tiny.codec(), "", {})
    wanted, counts = scored(held_out._at_once, model, codes, lengths)
    sums, counted = scored(held_out._step_by_step, model, codes, lengths)
    assert torch.equal(counted, counts)
    assert counts[1].max() == 7
    torch.testing.assert_close(sums, wanted, atol=1e-3, rtol=0)
    model = MusicModel(lm, tiny.conditioners(), tiny.codec(), "", {}, int8=True)
    sums, counted = scored(held_out._step_by_step, model, codes, lengths)
    assert torch.equal(counted, counts)
    assert 1e-4 < (sums - wanted).abs().max() < 0.5
