"""Codebook interleaving patterns, against layouts written as loops."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.errors import InputError
from lightning_modules.lm.patterns import PATTERNS, build_pattern

SPECIAL = 99


def layout(name, codebooks, frames):
    """The steps after the empty one, each a list of (frame, codebook); MusicGen's definitions, one loop each."""
    books = range(codebooks)
    if name == "coarse_first":
        return [[(t, 0)] for t in range(frames)] + [
            [(t, k) for k in books if k] for t in range(frames) if codebooks > 1
        ]
    if name == "flatten":
        return [[(t, k)] for t in range(frames) for k in books]
    if name == "partial_flatten":
        return [part for t in range(frames) for part in ([(t, 0)], [(t, k) for k in books if k]) if part]
    delays = {
        "parallel": [0 for k in books],
        "delay": list(books),
        "partial_delay": [int(k > 0) for k in books],
        "stereo_delay": list(books),
        "stereo_partial_delay": [k // 2 for k in books],
    }[name]
    steps = [[(s - d, k) for k, d in enumerate(delays) if 0 <= s - d < frames] for s in range(frames + max(delays))]
    return steps


@st.composite
def patterns(draw):
    name = draw(st.sampled_from(PATTERNS))
    half = draw(st.integers(1, 4))
    codebooks = 2 * half if name.startswith("stereo") else half
    return build_pattern(name, codebooks, SPECIAL)


def codes_of(pattern, frames, batch=2):
    return torch.arange(batch * pattern.codebooks * frames).view(batch, pattern.codebooks, frames)


@given(patterns(), st.integers(1, 12))
def test_building_equals_a_loop_over_the_layout(pattern, frames):
    codes = codes_of(pattern, frames)
    steps = layout(pattern.name, pattern.codebooks, frames)
    wanted = torch.full((2, pattern.codebooks, 1 + len(steps)), SPECIAL)
    for s, step in enumerate(steps, start=1):
        for t, k in step:
            wanted[:, k, s] = codes[:, k, t]
    assert torch.equal(pattern.build(codes), wanted)
    assert pattern.length(frames) == wanted.shape[2]
    assert pattern.frames(wanted.shape[2]) == frames


@given(patterns(), st.integers(1, 12), st.sampled_from([0, 1]))
def test_reverting_undoes_building(pattern, frames, first_step):
    codes = codes_of(pattern, frames)
    back, mask = pattern.revert(pattern.build(codes)[..., first_step:], first_step=first_step)
    assert torch.equal(back, codes)
    assert mask.all()


@given(patterns(), st.integers(1, 12))
def test_reverting_a_trimmed_sequence_gives_what_the_mask_says(pattern, frames):
    codes = codes_of(pattern, frames) + 1
    whole, sequence = pattern.build(codes), pattern.build(codes, trim=True)
    assert torch.equal(sequence, whole[..., : sequence.shape[2]])
    back, mask = pattern.revert(sequence, frames)
    assert torch.equal(back[mask], codes[mask])
    assert (back[~mask] == 0).all()
    assert mask.sum() == (sequence != SPECIAL).sum()  # nothing that is in the sequence is lost


@given(patterns(), st.integers(2, 12))
def test_order_of_the_steps(pattern, frames):
    steps = pattern.steps(frames)
    assert steps.min() == 1  # step 0 is empty
    assert steps.max() == pattern.length(frames) - 1
    assert (steps.diff(dim=1) > 0).all()  # a codebook's codes come in time's order, one a step
    assert (steps.diff(dim=0) >= 0).all()  # a coarse codebook is never predicted after a finer one of its frame
    if pattern.name == "flatten":
        assert len(steps.unique()) == steps.numel()  # the exact factorisation: one code a step
    if pattern.name == "coarse_first" and pattern.codebooks > 1:
        assert steps[0].max() < steps[1:].min()


@given(patterns(), st.integers(1, 6))
def test_logits_are_gathered_like_codes(pattern, frames):
    length = pattern.length(frames)
    values = torch.randn(2, pattern.codebooks, length, 5)
    back, mask = pattern.revert(values)
    assert back.shape == (2, pattern.codebooks, frames, 5)
    for s, step in enumerate(layout(pattern.name, pattern.codebooks, frames), start=1):
        for t, k in step:
            assert torch.equal(back[:, k, t], values[:, k, s])
    assert mask.all()
    cut, present = pattern.revert(values[:, :, : length - 1], frames)
    assert torch.isfinite(cut).all()
    assert (cut[~present] == 0).all()


# The original's counts for 30 s at 50 frames a second.
COUNTS = [
    # name, K, steps to generate, training sequence, valid targets of each codebook
    ("delay", 4, 1503, 1501, [1500, 1499, 1498, 1497]),
    ("partial_delay", 4, 1501, 1501, [1500, 1499, 1499, 1499]),
    ("parallel", 4, 1500, 1501, [1500] * 4),
    ("flatten", 4, 6000, 6001, [1500] * 4),
    ("partial_flatten", 4, 3000, 3001, [1500] * 4),
    ("coarse_first", 4, 3000, 3001, [1500] * 4),
    ("stereo_partial_delay", 8, 1503, 1501, [1500, 1500, 1499, 1499, 1498, 1498, 1497, 1497]),
    ("stereo_delay", 8, 1507, 1501, [1500 - k for k in range(8)]),
]


@pytest.mark.parametrize(("name", "codebooks", "generated", "trained", "targets"), COUNTS)
def test_lengths_equal_the_originals(name, codebooks, generated, trained, targets):
    pattern = build_pattern(name, codebooks)
    sequence = pattern.build(torch.zeros(1, codebooks, 1500, dtype=torch.int64), trim=True)
    assert pattern.length(1500) - 1 == generated
    assert sequence.shape[2] == pattern.trimmed_length(1500) == trained
    assert (sequence[0, :, 1:] != 2048).sum(1).tolist() == targets


@pytest.mark.parametrize(("name", "codebooks", "channels"), [("delay", 4, 1), ("stereo_partial_delay", 8, 2)])
@pytest.mark.parametrize("frames", [4, 9])
def test_delay_equals_transformers(name, codebooks, channels, frames):
    from transformers import MusicgenForCausalLM

    pattern = build_pattern(name, codebooks, SPECIAL)
    length = pattern.length(frames)
    peer = SimpleNamespace(num_codebooks=codebooks, config=SimpleNamespace(audio_channels=channels))
    start = torch.full((codebooks, 1), SPECIAL)
    _, mask = MusicgenForCausalLM.build_delay_pattern_mask(peer, start, SPECIAL, length)
    ours = pattern.build(torch.full((1, codebooks, frames), -1))[0]
    assert torch.equal(ours, mask)


def test_what_has_no_pattern_is_refused():
    for name, codebooks in (("dealy", 4), ("delay", 0), ("stereo_delay", 3)):
        with pytest.raises(InputError):
            build_pattern(name, codebooks)
    with pytest.raises(ValueError, match="4 codebooks"):
        build_pattern("delay", 4).build(torch.zeros(1, 3, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="no number of frames"):
        build_pattern("flatten", 4).frames(7)
