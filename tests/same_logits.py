"""Whether a language model of ours says what transformers' says: logits in one pass and step by step, greedy codes."""

import dataclasses
from unittest.mock import patch

import torch
from foreign_models import PROMPTS, greedy, halves, logits, melodies

from lightning_modules.generation.decoder import Decoder, Request
from lightning_modules.generation.guidance import branches

FRAMES = 11


def codes(lm, batch=2, seed=1, frames=FRAMES):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(lm.config.entries, (batch, lm.config.codebooks, frames), generator=generator)


def stepped(lm, sequence, heard, first=0):
    """The logits that the engine decodes from step ``first`` on, one by one; the steps before go in at once."""
    request = Request(Decoder(lm), branches(heard, lm.config.conditions, 1.0), len(sequence), sequence.shape[-1])
    if first:
        request.take_in(sequence[..., :first])
    columns = enumerate(sequence[..., first:].unbind(2), first + 1)
    return torch.stack([request.logits(column, request.prefix + step) for step, column in columns], 2)


@torch.no_grad()
def assert_same_logits(model, theirs, prompts=PROMPTS, tolerance=1e-4, masked=None):
    """Under teacher forcing all at once, and step by step; without prompts under no text."""
    without, prompts = prompts is None, prompts or PROMPTS[:1]
    classes = melodies(len(prompts))
    heard = model.conditioners(prompts, classes if model.conditioners.melody is not None else None)
    heard = heard.null(["text"]) if without else heard
    played = codes(model.lm, len(prompts))
    sequence = model.lm.pattern.build(played, trim=True)[..., :-1]
    wanted = logits(theirs, sequence, prompts, classes, without=without, masked=masked)
    assert wanted.std() > 0.5  # alive
    ours, _ = model.lm.teacher_forced(played, heard)
    torch.testing.assert_close(ours, wanted, atol=tolerance, rtol=0)
    ours = stepped(model.lm, sequence, heard)
    torch.testing.assert_close(ours, wanted, atol=tolerance, rtol=0)


@torch.no_grad()
def assert_same_logits_over_1500_steps(model, theirs, masked, stepwise):
    """One text, padded as beside a longer one: in one pass, and as many of the last steps one by one."""
    lm, classes, steps = model.lm, melodies(2), 1500
    heard = model.conditioners(PROMPTS, classes if model.conditioners.melody is not None else None)
    heard = heard.select(torch.tensor([1]))
    sequence = lm.pattern.build(codes(lm, 1, frames=steps), trim=True)[..., :-1]
    wanted = logits(theirs, sequence, PROMPTS, classes[1:], masked=masked)
    assert wanted.shape == (1, lm.config.codebooks, steps, lm.config.entries)
    assert wanted.std() > 0.5
    with patch.object(lm, "config", dataclasses.replace(lm.config, mask_padded_text=masked)):
        ours, last = lm(sequence, lm.context(heard)), stepped(lm, sequence, heard, steps - stepwise)
    pairs = (ours, wanted), (last, wanted[:, :, -stepwise:]), (last, ours[:, :, -stepwise:])
    errors = [float((one - two).abs().max()) for one, two in pairs]
    print("largest difference {:.1e} in one pass, {:.1e} step by step, {:.1e} between the two".format(*errors))
    assert max(errors) < 1e-4


@torch.no_grad()
def assert_same_greedy_codes(model, theirs, prompts, frames):
    """Wherever transformers' two best are further apart than ten times the error of the logits measured here."""
    classes, pattern = melodies(len(prompts)), model.lm.pattern
    heard = model.conditioners(prompts, classes if model.conditioners.melody is not None else None)
    model.conditions = lambda *_: heard
    wanted = greedy(theirs, prompts, classes, frames)
    ours = torch.stack(model.generate_codes(prompts, frames / 100, guidance=3.0, greedy=True))
    assert wanted.shape == ours.shape == (len(prompts), model.lm.config.codebooks, frames)
    assert len(wanted.unique()) > 8
    sequence, played = pattern.build(wanted), pattern.build(ours)
    both, neither = halves(theirs, sequence[..., :-1], prompts, classes)
    guided = branches(heard, model.lm.config.conditions, 3.0).conditions
    error = (stepped(model.lm, sequence[..., :-1].repeat(2, 1, 1), guided) - torch.cat([both, neither])).abs().max()
    assert error < 1e-4
    best = (neither + 3 * (both - neither)).topk(2).values
    same = sequence == played
    # A doubtful code that fell otherwise changes those after it: compared up to there.
    clear = (best[..., 0] - best[..., 1] > 10 * error) & same.all(1, keepdim=True).cummin(-1).values[..., :-1]
    present = sequence[..., 1:] != pattern.special
    left_out = (present & ~clear).sum() / present.sum()
    print(f"error {error:.1e}, left out {left_out:.2%} of {present.sum()}, {len(wanted.unique())} different codes")
    assert same[..., 1:][present & clear].all()
    assert left_out < 0.05
