"""The language model, against transformers' MusicGen and against itself."""

import math
from dataclasses import replace

import pytest
import tiny
import torch
import yaml
from torch.nn import functional as F

from experiments.compose import layer_path
from lightning_modules.lm.linear import Linear
from lightning_modules.lm.losses import codebook_means, cross_entropy_sums
from lightning_modules.lm.model import LanguageModelConfig, parameter_count
from lightning_modules.lm.patterns import PATTERNS


@pytest.fixture(scope="module")
def peer_and_ours():
    """A random MusicgenForCausalLM, and ours with its weights."""
    from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

    ours = tiny.language_model(codebooks=3, text_dim=24)
    entries, dim, layers = ours.config.entries, ours.config.dim, ours.config.layers
    shape = MusicgenDecoderConfig(
        vocab_size=entries, hidden_size=dim, num_hidden_layers=layers, num_attention_heads=2, ffn_dim=2 * dim,
        num_codebooks=3, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, layerdrop=0.0,
        bos_token_id=entries, pad_token_id=entries, tie_word_embeddings=False,
    )  # fmt: skip
    peer = MusicgenForCausalLM(shape).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in peer.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.2 * noise if "norm.weight" in name else 0.25 * noise

    theirs = peer.state_dict()
    state = ours.state_dict()
    body = "model.decoder"
    state["embedding.weight"] = torch.cat([theirs[f"{body}.embed_tokens.{k}.weight"] for k in range(3)])
    state["heads.weight"] = torch.cat([theirs[f"lm_heads.{k}.weight"] for k in range(3)])
    for part in ("weight", "bias"):
        state[f"transformer.norm.{part}"] = theirs[f"{body}.layer_norm.{part}"]
    for i in range(layers):
        old, new = f"{body}.layers.{i}", f"transformer.blocks.{i}"
        for mine, other in (("self", "self_attn"), ("cross", "encoder_attn"), ("ff", "final")):
            for part in ("weight", "bias"):
                state[f"{new}.norm_{mine}.{part}"] = theirs[f"{old}.{other}_layer_norm.{part}"]
        q, k, v = (theirs[f"{old}.self_attn.{x}_proj.weight"] for x in "qkv")
        state[f"{new}.self_attention.qkv.weight"] = torch.cat([q, k, v])
        q, k, v = (theirs[f"{old}.encoder_attn.{x}_proj.weight"] for x in "qkv")
        state[f"{new}.cross_attention.query.weight"] = q
        state[f"{new}.cross_attention.key_value.weight"] = torch.cat([k, v])
        for mine, other in (("self_attention", "self_attn"), ("cross_attention", "encoder_attn")):
            state[f"{new}.{mine}.out.weight"] = theirs[f"{old}.{other}.out_proj.weight"]
        state[f"{new}.ff_in.weight"], state[f"{new}.ff_out.weight"] = (theirs[f"{old}.fc{n}.weight"] for n in (1, 2))
    ours.load_state_dict(state)
    return peer, ours


def asked(peer, ours, shown=None):
    """A sequence, conditions of which some are padded, and the peer's logits; it attends to the text or ``shown``."""
    given = tiny.conditions([7, 3, 5], dim=24)
    sequence = ours.pattern.build(tiny.codes(3, 11, codebooks=3))
    embeddings, mask = given["text"]
    projected = F.linear(embeddings, ours.projections["text"].weight, ours.projections["text"].bias) * mask[..., None]
    attended = mask.long() if shown is None else shown
    theirs = peer(
        input_ids=sequence.reshape(9, -1), encoder_hidden_states=projected, encoder_attention_mask=attended
    ).logits
    return sequence, given, theirs.view(3, 3, -1, 16)


@torch.no_grad()
def test_logits_equal_transformers(peer_and_ours):
    peer, ours = peer_and_ours
    sequence, given, theirs = asked(peer, ours)
    mine = ours(sequence, ours.context(given))
    assert mine.std() > 0.5  # weights that say something
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_that_is_heard_equals_transformers(peer_and_ours):
    """audiocraft's way, for which transformers needs states of zeros and a mask that hides none of them."""
    peer, ours = peer_and_ours
    sequence, given, theirs = asked(peer, ours, shown=torch.ones(3, 7))
    hidden, config = ours(sequence, ours.context(given)), ours.config
    ours.config = replace(config, mask_padded_text=False)
    heard = ours(sequence, ours.context(given))
    ours.config = config
    torch.testing.assert_close(heard, theirs, atol=1e-5, rtol=1e-5)
    assert (heard - hidden).abs().amax((1, 2, 3))[1:].min() > 1e-3


@torch.no_grad()
def test_null_condition_adds_exactly_nothing():
    model = tiny.language_model()
    sequence = model.pattern.build(tiny.codes(2, 5))
    context = model.context(tiny.conditions([4, 2]).null())
    assert (context.cross.states == 0).all()  # the projection's bias does not leak in
    block = model.transformer.blocks[0].cross_attention
    assert (block(torch.randn(2, 6, 32), context.cross) == 0).all()
    logits = model(sequence, context)
    assert torch.isfinite(logits).all()
    for layer in model.transformer.blocks:
        layer.cross_attention.out.weight.zero_()
    assert torch.equal(model(sequence, context), logits)


@torch.no_grad()
def test_one_null_row_leaves_its_neighbour_alone():
    model = tiny.language_model()
    codes, given = tiny.codes(2, 5), tiny.conditions([4, 4])
    whole, _ = model.logits(codes, given)
    half, _ = model.logits(codes, given.drop(torch.tensor([False, True])))
    torch.testing.assert_close(half[0], whole[0], atol=1e-6, rtol=0)
    assert (half[1] - whole[1]).abs().max() > 1e-2


@torch.no_grad()
def test_padding_of_the_text_never_matters():
    model = tiny.language_model()
    codes, given = tiny.codes(1, 5), tiny.conditions([3])
    embeddings, mask = given["text"]
    garbage = torch.cat([embeddings, torch.randn(1, 4, 16)], 1)
    padded = type(given)({"text": type(given["text"])(garbage, F.pad(mask, (0, 4)))})
    torch.testing.assert_close(model.logits(codes, padded)[0], model.logits(codes, given)[0], atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
def test_future_codes_never_change_earlier_logits(pattern):
    model = tiny.language_model(pattern)
    codes, given = tiny.codes(1, 6), tiny.conditions([3])
    before, mask = model.logits(codes, given)
    steps = model.pattern.steps(6)
    changed = codes.clone()
    changed[0, 1, 3] = (changed[0, 1, 3] + 1) % 16
    after, _ = model.logits(changed, given)
    depends = (after != before).any(-1)[0]
    # Everything up to and including the changed code's own step is predicted without seeing it.
    assert not depends[steps <= steps[1, 3]].any()
    assert depends[(steps > steps[1, 3]) & mask[0]].any()


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
def test_loss_over_the_sequence_equals_masked_loss_over_codes(pattern):
    model = tiny.language_model(pattern)
    codes, given = tiny.codes(3, 7), tiny.conditions([3, 1, 2])
    sums, counts = cross_entropy_sums(*model.teacher_forced(codes, given), special=16)
    logits, mask = model.logits(codes, given)
    losses = -logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0] * mask
    torch.testing.assert_close(sums, losses.sum(2), atol=1e-4, rtol=1e-5)
    assert torch.equal(counts, mask.sum(2))
    wanted = torch.stack([losses[:, k][mask[:, k]].mean() for k in range(4)])
    torch.testing.assert_close(codebook_means(sums, counts)[0], wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
def test_padding_never_changes_the_loss(pattern):
    model = tiny.language_model(pattern)
    given, lengths = tiny.conditions([3, 2]), torch.tensor([6, 4])
    codes, garbage = tiny.codes(2, 6), tiny.codes(2, 6, seed=1)
    garbage[0], garbage[1, :, :4] = codes[0], codes[1, :, :4]
    sums, counts = cross_entropy_sums(*model.teacher_forced(codes, given, lengths), special=16)
    again, _ = cross_entropy_sums(*model.teacher_forced(garbage, given, lengths), special=16)
    assert torch.equal(sums, again)
    assert counts[1].tolist() == [min(4, c) for c in counts[0].tolist()]  # the frames within the length, all of them
    if pattern in ("parallel", "flatten", "partial_flatten"):  # whose sequence of 4 frames begins that of 6
        short, _ = cross_entropy_sums(*model.teacher_forced(codes[:, :, :4], given), special=16)
        torch.testing.assert_close(sums[1], short[1], atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_a_uniform_model_has_the_entropy_of_the_entries():
    model = tiny.language_model()
    model.heads.weight.zero_()
    sums, counts = cross_entropy_sums(*model.teacher_forced(tiny.codes(2, 9), tiny.conditions([2, 2])), special=16)
    torch.testing.assert_close(codebook_means(sums, counts)[1], torch.full((4,), math.log(16)))


@pytest.mark.parametrize(
    ("size", "parameters"), [("small", 420_371_456), ("medium", 1_838_737_920), ("large", 3_256_956_928)]
)
def test_parameters_of_the_papers_sizes(size, parameters):
    shape = yaml.safe_load(layer_path(f"size/{size}").read_text())["model"]["init_args"]["lm"]
    assert parameter_count(LanguageModelConfig(**shape), {"text": 768}) == parameters


def test_initial_weights_follow_the_rule():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        from lightning_modules.lm.model import LanguageModel

        model = LanguageModel(LanguageModelConfig(dim=128, layers=3, heads=2, entries=256), {"text": 64})
    shrunk = 0.98658  # standard deviation of a unit normal cut at 3

    def check(weight, fan_in, depth=None):
        std = 1 / math.sqrt(fan_in) / (math.sqrt(2 * depth) if depth else 1)
        assert weight.std().item() == pytest.approx(shrunk * std, rel=0.02)
        assert weight.abs().max() <= 3 * std

    check(model.embedding.weight, 128)
    check(model.heads.weight, 128)
    check(model.projections["text"].weight, 64)
    for depth, block in enumerate(model.transformer.blocks, start=1):
        check(block.self_attention.qkv.weight, 128, depth)
        check(block.cross_attention.out.weight, 128, depth)
        check(block.ff_in.weight, 128, depth)
        check(block.ff_out.weight, 512, depth)
    assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_recomputed_activations_change_nothing(every):
    """Loss and gradients bit for bit, and less is kept between forward and backward."""
    codes, given = tiny.codes(2, 6), tiny.conditions([4, 2])

    def trained(recompute):
        model, kept = tiny.language_model(layers=5), []
        model.transformer.recompute = recompute
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            logits, targets = model.teacher_forced(codes, given)
        sums, counts = cross_entropy_sums(logits, targets, 16)
        codebook_means(sums, counts)[0].mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}, sum(kept), model

    plain, all_of_it, model = trained(0)
    again, less, _ = trained(every)
    assert all(torch.equal(gradient, again[name]) for name, gradient in plain.items())
    assert less < all_of_it
    with torch.no_grad():
        model.logits(codes, given)  # without gradients there is nothing to recompute


@pytest.mark.parametrize("frozen", [None, "weight", "x"])
def test_mixed_precision_keeps_no_copy_of_weights(frozen):
    """What ``nn.Linear`` gives, bit for bit; beside the inputs nothing is kept but the weights themselves."""
    torch.manual_seed(0)
    x, plain = torch.randn(2, 37, 64), torch.nn.Linear(64, 96, bias=False)
    ours = Linear(64, 96)
    ours.load_state_dict(plain.state_dict())

    def trained(layer):
        here, kept = x.clone().requires_grad_(frozen != "x"), []
        layer.weight.requires_grad_(frozen != "weight")
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), hooks:
            made = layer(here)
        made.float().square().sum().backward()
        return made, here.grad, layer.weight.grad, {t.data_ptr(): t.numel() for t in kept}

    *wanted, _ = trained(plain)
    *found, kept = trained(ours)
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    kept.pop(ours.weight.data_ptr(), None)
    assert sum(kept.values()) == (0 if frozen == "weight" else x.numel())
