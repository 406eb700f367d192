"""Codebook interleaving patterns, against layouts written as loops."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

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
    }
    delays = [int(delay) for delay in name[6:].split(",")] if name.startswith("delay:") else delays[name]
    steps = [[(s - d, k) for k, d in enumerate(delays) if 0 <= s - d < frames] for s in range(frames + max(delays))]
    return steps


@st.composite
def patterns(draw):
    name = draw(st.sampled_from([*PATTERNS, "delay:"]))
    half = draw(st.integers(1, 4))
    codebooks = 2 * half if name.startswith("stereo") else half
    if name == "delay:":
        delays = draw(st.lists(st.integers(0, 5), min_size=half, max_size=half))
        name += ",".join(str(delay - min(delays)) for delay in delays)
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
    if not pattern.name.startswith("delay:"):
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


@torch.no_grad()
@settings(max_examples=30)
@given(patterns(), st.integers(1, 5))
def test_no_prediction_sees_its_own_step_or_a_later_one(pattern, frames):
    layers = layout(pattern.name, pattern.codebooks, frames)
    step_of = {code: s for s, step in enumerate(layers, start=1) for code in step}
    model = tiny.language_model(pattern.name, pattern.codebooks)
    # Row n is changed at the n-th code; the same row unchanged, so that both are the same sums in the same order.
    codes = tiny.codes(1, frames, pattern.codebooks).repeat(len(step_of), 1, 1)
    changed = codes.clone()
    for row, (t, k) in enumerate(step_of):
        changed[row, k, t] = (changed[row, k, t] + 1) % tiny.ENTRIES
    conditions = tiny.conditions([2] * len(step_of))
    before, mask = model.logits(codes, conditions)
    after, _ = model.logits(changed, conditions)
    differs = (before != after).any(-1)
    for row, own in enumerate(step_of.values()):
        seen_by = {(t, k) for k, t in differs[row].nonzero().tolist()}
        # All that comes later sees it, nothing else does; what training leaves out has no logits.
        assert seen_by == {(t, k) for (t, k), s in step_of.items() if s > own and mask[row, k, t]}


# The original's counts for 30 s at 50 frames a second.
COUNTS = [
    # name, K, steps to generate, training sequence, valid targets of each codebook
    ("delay", 4, 1503, 1501, [1500, 1499, 1498, 1497]),
    ("partial_delay", 4, 1501, 1501, [1500, 1499, 1499, 1499]),
    ("parallel", 4, 1500, 1501, [1500] * 4),
    ("flatten", 4, 6000, 6001, [1500] * 4),
    ("partial_flatten", 4, 3000, 3001, [1500] * 4),
    ("coarse_first", 4, 3000, 3001, [1500] * 4),
    ("delay:0,1,1,1", 4, 1501, 1501, [1500, 1499, 1499, 1499]),
    ("delay:0,3,3,3", 4, 1503, 1501, [1500, 1497, 1497, 1497]),
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


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [*PATTERNS, "delay:0,3,3,3"])
def test_all_happens_on_the_codes_device_and_in_no_loop_over_steps(name):
    pattern, counts = build_pattern(name, 4), []
    for frames in (5, 1500):
        with Operations() as operations:
            sequence = pattern.build(torch.empty(2, 4, frames, dtype=torch.int64, device="meta"))
            back, mask = pattern.revert(sequence)
        # A tensor made elsewhere could not have been combined with these.
        assert back.device.type == mask.device.type == "meta"
        counts.append(operations.count)
    assert counts[0] == counts[1]


def test_what_has_no_pattern_is_refused():
    for name, codebooks in (("dealy", 4), ("delay", 0), ("stereo_delay", 3)):
        with pytest.raises(InputError):
            build_pattern(name, codebooks)
    for delays in ("0,1,1", "0,1,1,1,1", "0,-1,1,1", "1,2,3,4", "0,1,x,1", "0,1,1.5,1", ""):
        with pytest.raises(InputError, match=r"4 whole numbers.* smallest must be 0, as in delay:0,3,3,3"):
            build_pattern(f"delay:{delays}", 4)
    with pytest.raises(ValueError, match="4 codebooks"):
        build_pattern("delay", 4).build(torch.zeros(1, 3, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="no number of frames"):
        build_pattern("flatten", 4).frames(7)
