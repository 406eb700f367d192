"""What ``mgl bench codec`` counts is so."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks import codec as bench
from lightning_modules.codec import seanet
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.seanet import ResidualLSTM
from lightning_modules.converting.codec_huggingface import read_huggingface

SHAPE = CodecConfig(sample_rate=800, filters=4, ratios=(4, 2), dim=8, entries=64)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A peer that is alive, ours with its weights, and audio."""
    audio = bench.made_up_music(40, SHAPE.sample_rate)
    peer = bench.alive_peer(SHAPE, audio)
    folder = tmp_path_factory.mktemp("peer")
    peer.save_pretrained(folder)
    return read_huggingface(folder).eval(), peer, audio


def test_equal_codecs_pass_and_others_do_not(pair):
    ours, peer, audio = pair
    used, differ, unexplained, worst = bench.parity_rows(ours, peer, audio)
    assert used.ours >= 0.5
    assert "of 16,000" in differ.name
    # One tie, which processors round differently: it goes on through the codebooks behind it.
    assert differ.ours <= 4
    assert unexplained.ours == 0
    assert worst.ours < 10
    kept = ours.quantizer.codebooks[1].entries.clone()
    ours.quantizer.codebooks[1].entries.mul_(1.01)
    _, differ, unexplained, worst = bench.parity_rows(ours, peer, audio)
    ours.quantizer.codebooks[1].entries.copy_(kept)
    assert differ.ours > 20
    assert unexplained.ours > 5
    assert worst.ours > 10


def test_speed_and_memory_are_measured(pair, tmp_path):
    ours, peer, audio = pair
    before = next(ours.encoder.parameters()).dtype
    rows = bench.speed_rows(ours, peer, audio[..., :1600], 1, torch.bfloat16)
    assert [row.name for row in rows] == ["encode 2 s, batch 1, bfloat16", "decode 2 s, batch 1, bfloat16"]
    assert all(row.ours > 0 and row.peer > 0 and row.floor > row.ours for row in rows)
    assert next(ours.encoder.parameters()).dtype == before
    peer.save_pretrained(tmp_path)
    assert all(bench._grown(str(tmp_path), who, "decode", 2) >= 0 for who in ("ours", "peer"))


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_the_floor_counts_what_torch_counts(half):
    """torch's counter has no LSTM, so that is added by its formula."""
    shape = CodecConfig(filters=8, dim=16, lstm_layers=2, residual_units=2, conv_shortcut=True)
    codec = type("Shape", (), {"sample_rate": shape.sample_rate, "frame_rate": shape.frame_rate})()
    network = codec.encoder = codec.decoder = None
    network = getattr(seanet, half)(shape).eval()
    setattr(codec, half, network)
    products, states = bench.work(network, codec)
    lstm = sum(isinstance(layer, ResidualLSTM) for layer in network)
    assert lstm == 1
    inner = torch.nn.Sequential(*[layer for layer in network if not isinstance(layer, ResidualLSTM)])
    x = torch.randn(1, 1, shape.sample_rate) if half == "encoder" else torch.randn(1, shape.dim, 50)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        inner(x)
    width = 8 * 16
    assert states == 2 * 4 * width**2 * 50
    assert products - states == pytest.approx(counted.get_total_flops() / 2, rel=1e-3)
