"""The codec's fast paths, against the modules that are trained: tiles, chunks, the LSTM's steps, types."""

import copy

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_modules.codec import inference, seanet, tiled
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.inference import Half
from lightning_modules.codec.recurrence import Recurrence

SHAPES = {
    "reflect": {"ratios": (5, 2)},  # an odd ratio pads one more on the left
    "constant": {"pad_mode": "constant", "lstm_layers": 2},
    "shortcut": {"conv_shortcut": True, "residual_units": 3, "channels": 2},
    "causal": {"causal": True, "ratios": (5, 3)},
    "causal, zeros": {"causal": True, "pad_mode": "constant", "lstm_layers": 0},
    "no LSTM": {"lstm_layers": 0, "ratios": (3, 2, 2)},
    "kernels": {"kernel": 5, "last_kernel": 3, "residual_kernel": 5, "compress": 1, "dilation_base": 3},
    "wide": {"filters": 8, "dim": 12},
}


@pytest.fixture
def cut_small(monkeypatch):
    """Tiles of a few rows and chunks of a few frames, so that a short clip has many."""
    monkeypatch.setattr(tiled, "_TILE", 64)
    monkeypatch.setattr(tiled, "_LEAST", 1)
    monkeypatch.setattr(inference, "_CHUNK", 1)
    monkeypatch.setattr(inference, "_LEAST", 13)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("samples", [1, 2, 9, 64, 401, 3210])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_halves_equal_the_modules(cut_small, monkeypatch, shape, samples, device):
    # What a GPU is given are modules; here they run on the CPU, in the same chunks.
    stack = inference._stack
    monkeypatch.setattr(inference, "_stack", lambda layers, _, compiled: stack(layers, torch.device(device), compiled))
    codec = tiny.codec(**shape)
    wav = noise(2, codec.channels, samples)
    latents = codec.encoder(wav)
    torch.testing.assert_close(Half(codec.encoder, codec.hop, True)(wav), latents, atol=2e-6, rtol=1e-5)
    decoded = codec.decoder(latents)
    assert decoded.shape[-1] == latents.shape[-1] * codec.hop
    torch.testing.assert_close(Half(codec.decoder, codec.hop, False)(latents), decoded, atol=2e-6, rtol=1e-5)


@torch.no_grad()
@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(1, 900),
    tile=st.integers(1, 400),
    chunk=st.integers(9, 60),
    batch=st.integers(1, 5),
    causal=st.booleans(),
    mode=st.sampled_from(["reflect", "constant"]),
    ratios=st.lists(st.integers(2, 5), min_size=1, max_size=3).map(tuple),
)
def test_any_cut_gives_the_same(samples, tile, chunk, batch, causal, mode, ratios):
    codec = tiny.codec(causal=causal, pad_mode=mode, ratios=ratios, filters=2, codebooks=1)
    wav = noise(batch, 1, samples, seed=samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled, "_TILE", tile)
        patch.setattr(tiled, "_LEAST", 1)
        patch.setattr(inference, "_CHUNK", 1)
        patch.setattr(inference, "_LEAST", chunk)
        latents = Half(codec.encoder, codec.hop, True)(wav)
        decoded = Half(codec.decoder, codec.hop, False)(latents)
    torch.testing.assert_close(latents, codec.encoder(wav), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(decoded, codec.decoder(latents), atol=2e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("items", [1, 2, 4])  # up to three go one by one
def test_the_recurrence_carries_its_state(items):
    torch.manual_seed(0)
    module = seanet.ResidualLSTM(6, 2)
    x = torch.randn(items, 6, 30)
    recurrence, state, parts = Recurrence(module), None, []
    for part in x.split([1, 12, 17], -1):
        y, state = recurrence(part, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, -1), module(x), atol=1e-6, rtol=1e-5)
    _, (hidden, cell) = module.lstm(x.permute(2, 0, 1))
    torch.testing.assert_close(state[0], hidden, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(state[1], cell, atol=1e-6, rtol=1e-5)


def test_the_elu_is_torchs():
    x = torch.cat([torch.linspace(-90, 5, 1001), torch.tensor([0.0, -0.0, 1e-8, -1e-8, 90.0, -1e30, 1e30])])
    torch.testing.assert_close(tiled.elu(x), nn.functional.elu(x), atol=1.2e-7, rtol=1e-6)


@torch.no_grad()
def test_changed_weights_are_noticed():
    codec = tiny.codec()
    wav = noise(1, 1, 800)
    before = codec.encode(wav)
    assert codec._halves() is codec._halves()
    kept = copy.deepcopy(codec.state_dict())
    for parameter in codec.encoder.parameters():
        parameter.mul_(-0.7)
    assert not torch.equal(codec.encode(wav), before)
    codec.load_state_dict(kept)
    assert torch.equal(codec.encode(wav), before)


@torch.no_grad()
def test_bfloat16_weights_give_nearly_the_same_audio(monkeypatch):
    codec = tiny.codec(filters=8)
    wav = noise(1, 1, 1600)
    codes = codec.encode(wav)
    exact = codec.decode(codes)
    codec.encoder.bfloat16()
    codec.decoder.bfloat16()
    for supported in (False, True):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda supported=supported: supported)
        codec._made = None
        assert codec._halves()[0].dtype == (torch.bfloat16 if supported else torch.float32)
        assert codec.encode(wav).dtype == torch.int64
        decoded = codec.decode(codes)
        assert decoded.dtype == torch.float32
        assert 1e-6 < (decoded - exact).abs().max() < 0.05 * exact.abs().max()


def test_the_modules_of_a_gpu_compile_in_one_graph():
    codec = tiny.codec()
    stack = inference._stack(list(codec.encoder)[:-3], torch.device("cuda"), compiled=False)
    assert not any(name.endswith("original0") for name, _ in stack.named_parameters())  # weight norm is folded
    whole = torch.compile(stack, dynamic=True, fullgraph=True, backend="eager")
    for samples in (800, 1603):
        wav = noise(2, 1, samples)
        torch.testing.assert_close(whole(wav), stack(wav))


def test_reach_is_what_an_output_hears():
    """By brute force: which frames change when one frame's samples do."""
    with torch.no_grad():
        codec = tiny.codec(lstm_layers=0, residual_units=2, ratios=(5, 2))
        for layers, taken, given, channels in (
            (list(codec.encoder)[:-2], codec.hop, 1, 1),
            (list(codec.decoder)[1:], 1, codec.hop, codec.config.filters * 4),
        ):
            before, after = inference._reach(layers, taken)
            x = noise(1, channels, 101 * taken)
            changed = x.clone()
            changed[..., 50 * taken : 51 * taken] += 1
            network = nn.Sequential(*layers)
            differs = ((network(x) - network(changed)).abs().amax((0, 1)) > 0).view(101, given).any(1).nonzero()[:, 0]
            assert 50 - after <= differs.min()
            assert differs.max() <= 50 + before
            assert differs.max() - differs.min() >= before + after - 2  # nor is it far too much


def test_the_papers_codec_hears_little():
    with torch.device("meta"):
        encoder = seanet.encoder(CodecConfig())
        decoder = seanet.decoder(CodecConfig())
    assert inference._reach(list(encoder)[:-3], 640) == (1, 1)
    assert inference._reach(list(encoder)[-2:], 1) == inference._reach(list(decoder)[:1], 1) == (3, 3)
    assert inference._reach(list(decoder)[2:], 1) == (2, 2)
