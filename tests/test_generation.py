"""Decoding: against a loop without cache, and independent of what else is in the batch."""

import numpy as np
import pytest
import scipy.stats
import tiny
import torch

from datamodules.errors import InputError
from lightning_modules.generation.decoder import Decoder
from lightning_modules.generation.engine import generate_codes
from lightning_modules.generation.guidance import branches
from lightning_modules.generation.sampling import Sampling, draw, noise
from lightning_modules.lm.patterns import PATTERNS

PROMPTS = ["a calm piano", "", "drums", "a fast violin and a slow bass"]


@torch.no_grad()
def loop(model, given, frames, sampling, uniform, guidance=3.0):
    """One pass over everything drawn so far for every step: no cache, no batching of the two branches."""
    pattern = model.pattern
    steps = pattern.steps(frames)
    sequence = torch.full((len(uniform), pattern.codebooks, pattern.length(frames)), pattern.special)
    for step in range(1, sequence.shape[2]):
        logits = model(sequence[..., :step], model.context(given))[:, :, -1]
        null = model(sequence[..., :step], model.context(given.null()))[:, :, -1]
        logits = (null + guidance * (logits - null)).numpy()
        for b, k in np.ndindex(logits.shape[:2]):
            if not (steps[k] == step).any():
                continue
            likeliest = np.argsort(-logits[b, k], kind="stable")[: 1 if sampling.greedy else sampling.top_k]
            weights = np.exp((logits[b, k, likeliest] - logits[b, k].max()) / sampling.temperature)
            cumulative = np.cumsum(weights / weights.sum())
            sequence[b, k, step] = likeliest[np.searchsorted(cumulative, uniform[b, k, step].item())]
    books = torch.arange(pattern.codebooks)[:, None]
    return sequence[:, books, steps]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("sampling", [Sampling(greedy=True), Sampling(5, 0.8)], ids=["greedy", "drawn"])
def test_engine_equals_a_loop_without_cache(pattern, sampling):
    model = tiny.language_model(pattern)
    given, seeds = tiny.conditions([4, 2]), [3, 4]
    uniform = noise(seeds, model.pattern.length(5), 4)
    codes = generate_codes(Decoder(model), branches(given, ["text"], 2.0), 5, seeds, sampling)
    assert torch.equal(codes, loop(model, given, 5, sampling, uniform, 2.0))
    if not sampling.greedy:
        assert len(codes.unique()) > 5


def test_guidance_of_one_is_the_conditional_branch_alone():
    model = tiny.language_model()
    given = tiny.conditions([4, 2])
    rows, decoder = [], Decoder(model)
    heads = decoder.heads
    decoder.heads = lambda x: rows.append(len(x)) or heads(x)
    codes = generate_codes(decoder, branches(given, ["text"], 1.0), 4, [1, 2], Sampling())
    assert set(rows) == {2}
    assert torch.equal(codes, loop(model, given, 4, Sampling(), noise([1, 2], 8, 4), 1.0))
    generate_codes(decoder, branches(given, ["text"], 3.0), 4, [1, 2], Sampling())
    assert rows[-1] == 4


def test_a_sample_is_the_same_alone_and_anywhere_in_a_batch(model):
    ids = ["a", "b", "c", "d"]
    together = model.generate_codes(PROMPTS, 0.12, seed=7, ids=ids)
    for place, (prompt, name) in enumerate(zip(PROMPTS, ids, strict=True)):
        (alone,) = model.generate_codes([prompt], 0.12, seed=7, ids=[name])
        assert torch.equal(alone, together[place])
    backwards = model.generate_codes(PROMPTS[::-1], 0.12, seed=7, ids=ids[::-1])
    assert all(torch.equal(a, b) for a, b in zip(backwards[::-1], together, strict=True))


def test_seeds_and_names_make_samples_differ(model):
    def one(**options):
        return model.generate_codes(["piano"], 0.3, **options)[0]

    assert torch.equal(one(seed=1), one(seed=1))
    assert not torch.equal(one(seed=1), one(seed=2))
    assert not torch.equal(one(seed=1, ids=["a"]), one(seed=1, ids=["b"]))
    twice = model.generate_codes(["piano", "piano"], 0.3)
    assert not torch.equal(*twice)
    assert torch.equal(one(greedy=True, seed=1), one(greedy=True, seed=2))


def test_the_text_and_the_guidance_matter(model):
    def one(prompt, **options):
        return model.generate_codes([prompt], 0.3, seed=1, **options)[0]

    assert not torch.equal(one("piano", guidance=8.0), one("a slow violin", guidance=8.0))
    assert not torch.equal(one("piano", guidance=8.0), one("piano", guidance=1.0))
    # Without text there is nothing to guide towards.
    assert torch.equal(one("", guidance=8.0), one("", guidance=1.0))


@pytest.mark.parametrize("duration", [0.01, 0.0125, 0.1, 0.123, 0.3, 0.29])
def test_clips_last_exactly_as_long_as_asked(model, duration):
    clips = model.generate(["piano", "drums"], duration)
    assert [tuple(clip.shape) for clip in clips] == [(1, round(duration * tiny.RATE))] * 2
    (codes, _) = model.generate_codes(["piano", "drums"], duration)
    assert codes.shape == (4, -(-round(duration * 1e6) // 10_000))  # 100 frames a second, the last one whole
    decoded = model.codec.decode(codes[None])[0]
    torch.testing.assert_close(decoded[:, : clips[0].shape[1]], clips[0], atol=1e-5, rtol=0)


def test_what_comes_out_can_be_worked_on(model):
    # No tensor of inference mode, which refuses changes in place and training.
    logits, _ = model.lm.logits(tiny.codes(1, 5), model.conditions(["piano"]))
    logits.sum().backward()
    (clip,) = model.generate(["piano"], 0.1)
    clip *= 0.5


def test_progress_counts_every_step(model):
    seen = []
    model.generate_codes(["piano"], 0.05, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(step, 8) for step in range(1, 9)]  # 5 frames, 4 codebooks in the delay pattern


def test_bad_requests_are_refused(model):
    for options in ({"duration": 0.0}, {"duration": -1.0}, {"top_k": 0}, {"temperature": 0.0}, {"temperature": -1.0}):
        with pytest.raises(InputError):
            model.generate_codes(["piano"], **options)
    with pytest.raises(InputError, match="no prompts"):
        model.generate_codes([])


def test_drawing_equals_inverting_the_distribution():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 4, 16, generator=generator) * 2
    uniform = torch.rand(50, 4, generator=generator)
    codes = draw(logits, uniform, Sampling(top_k=6, temperature=0.7))
    for b, k in np.ndindex(50, 4):
        row = logits[b, k].double().numpy()
        likeliest = np.argsort(-row)[:6]
        weights = np.exp(row[likeliest] / 0.7)
        place = np.searchsorted(np.cumsum(weights) / weights.sum(), uniform[b, k].item())
        assert codes[b, k] == likeliest[place]


def test_frequencies_are_the_probabilities():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, -0.5])
    uniform = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0))
    codes = draw(logits.expand(20_000, 1, 6), uniform, Sampling(temperature=1.5))
    counts = torch.bincount(codes.flatten(), minlength=6).numpy()
    assert scipy.stats.chisquare(counts, 20_000 * (logits.double() / 1.5).softmax(0).numpy()).pvalue > 1e-3
    few = draw(logits.expand(20_000, 1, 6), uniform, Sampling(top_k=2))
    assert few.unique().tolist() == [0, 1]


def test_extreme_noise_stays_inside():
    logits = torch.randn(1, 3, 16)
    uniform = torch.tensor([[0.0, 1 - 2.0**-24, 1.0]])
    codes = draw(logits, uniform, Sampling(top_k=16))
    order = logits.argsort(-1, descending=True)[0]
    assert codes[0].tolist() == [order[0, 0], order[1, -1], order[2, -1]]


def test_noise_of_a_row_is_its_seeds_alone():
    rows = noise([1, 2, 1], 30, 4)
    assert torch.equal(rows[0], rows[2])
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(noise([2], 30, 4)[0], rows[1])
    # A longer clip begins with the shorter one's noise.
    assert torch.equal(noise([1], 50, 4)[0, :, :30], rows[0])
