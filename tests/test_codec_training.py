"""Losses and distances of the codec, and that training lowers them."""

import pytest
import tiny
import torch
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from datamodules.batches import AudioBatch
from lightning_modules.codec.losses import MultiScaleMelDistance, MultiScaleMelLoss, si_sdr
from lightning_modules.codec.measures import code_perplexity
from lightning_modules.codec.training import CodecTraining
from lightning_modules.optim import OptimConfig


def noisy(level, seed=0):
    generator = torch.Generator().manual_seed(seed)
    wave = torch.sin(torch.arange(4000) / 20) * 0.5
    return (wave + level * torch.randn(3, 1, 4000, generator=generator)), wave.expand(3, 1, -1)


def test_si_sdr_equals_torchmetrics():
    output, target = noisy(0.3)
    wanted = scale_invariant_signal_distortion_ratio(output + 0.2, target, zero_mean=True)[:, 0]
    torch.testing.assert_close(si_sdr(output + 0.2, target), wanted, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(si_sdr(3 * output, target), si_sdr(output, target), atol=1e-3, rtol=1e-4)
    assert torch.isfinite(si_sdr(torch.zeros(1, 1, 100), torch.zeros(1, 1, 100))).all()


@pytest.mark.parametrize("kind", [MultiScaleMelLoss, MultiScaleMelDistance])
def test_mel_distance_is_a_distance(kind):
    distance = kind(32_000)
    near, clean = noisy(0.01)
    far, _ = noisy(0.3)
    assert (distance(clean, clean) == 0).all()
    torch.testing.assert_close(distance(near, clean), distance(clean, near))
    assert (distance(near, clean) > 0).all()
    assert (distance(far, clean) > distance(near, clean)).all()
    assert torch.isfinite(distance(torch.zeros_like(clean), clean)).all()


def test_mel_distance_is_in_decades():
    # Every magnitude ten times larger is one decade, wherever both are above the floor.
    wav = torch.randn(2, 1, 8000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(MultiScaleMelDistance(32_000)(10 * wav, wav), torch.ones(2), atol=1e-3, rtol=0)


def test_no_mel_filter_is_empty():
    for mel in MultiScaleMelDistance(32_000).mels:
        assert (mel.mel_scale.fb.sum(0) > 0).all()


def test_perplexity_of_codes():
    assert code_perplexity(torch.arange(16).repeat(3), 16).item() == pytest.approx(16)
    assert code_perplexity(torch.zeros(2, 9, dtype=torch.int64), 16).item() == pytest.approx(1)
    halves = torch.tensor([0, 0, 0, 1])
    assert code_perplexity(halves, 16).item() == pytest.approx(0.75**-0.75 * 0.25**-0.25)


def test_a_few_steps_lower_the_loss():
    config = tiny.codec().config
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = CodecTraining(config, OptimConfig(), free_steps=5)
        module.log = module.log_dict = lambda *args, **kwargs: None
        optimizer = torch.optim.Adam(module.codec.parameters(), lr=3e-3)
        wav = torch.stack([torch.sin(torch.arange(2400) / period)[None] * 0.3 for period in (3.0, 5.0, 8.0, 13.0)])
        batch = AudioBatch(wav, torch.full((4,), 2400), [""] * 4, torch.arange(4), [""] * 4, [{}] * 4)
        losses = []
        for step in range(40):
            loss = module.training_step(batch, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert module.codec.quantizer.initialised
    assert min(losses[-5:]) < 0.8 * losses[0]
