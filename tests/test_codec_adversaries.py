"""Discriminators, their losses, and the balancer, against formulas and loops."""

import pytest
import torch
from torch import nn

from lightning_modules.codec.balancer import Balancer
from lightning_modules.codec.discriminators import (
    DiscriminatorConfig,
    Discriminators,
    Judged,
    STFTDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)

SMALL = DiscriminatorConfig(windows=(64, 32), filters=4)


def test_the_papers_discriminators_have_their_parameters():
    with torch.device("meta"):
        made = Discriminators(DiscriminatorConfig())
    # 94,466 each in audiocraft, whose first convolution has no weight norm: 32 gains more.
    assert [sum(p.numel() for p in scale.parameters()) for scale in made.scales] == [94_498] * 5


def test_scores_follow_time_and_channels():
    torch.manual_seed(0)
    judge = STFTDiscriminator(channels=2, window=64, filters=4)
    wav = torch.randn(3, 2, 640)
    scores, features = judge(wav)
    frames = 1 + (640 - 64) // 16
    assert scores.shape[:3] == (3, 1, frames)
    assert [f.shape[3] for f in features] == [33, 17, 9, 5, 5]
    # What it hears of one item depends on no other.
    torch.testing.assert_close(judge(wav[1:2]).scores, scores[1:2])
    # A change at the end moves the scores there and not those of the beginning.
    changed = wav.clone()
    changed[..., 600:] += 1
    moved = (judge(changed).scores - scores).abs().amax((0, 1, 3)) > 1e-6
    assert moved[-1]
    assert not moved[:20].any()


def test_losses_by_their_formulas():
    real = [
        Judged(torch.tensor([2.0, 0.5]), [torch.tensor([1.0, -3.0])]),
        Judged(torch.tensor([-1.0]), [torch.ones(2)]),
    ]
    fake = [
        Judged(torch.tensor([-2.0, 0.0]), [torch.tensor([2.0, -3.0])]),
        Judged(torch.tensor([1.0]), [torch.zeros(2)]),
    ]
    assert discriminator_loss(real, fake) == pytest.approx(((0.25 + 0.5) + (2 + 2)) / 2)
    assert adversarial_loss(fake) == pytest.approx((1.0 - 1.0) / 2)
    assert feature_loss(real, fake) == pytest.approx(((0.5 / 2) + 1.0) / 2)


def test_features_of_the_real_audio_teach_nobody():
    judge = Discriminators(SMALL)
    real = torch.randn(1, 1, 200, requires_grad=True)
    fake = torch.randn(1, 1, 200, requires_grad=True)
    feature_loss(judge(real), judge(fake)).backward()
    assert real.grad is None
    assert fake.grad.abs().sum() > 0


def losses_of(output, scale=1.0):
    return {"a": scale * output.square().mean(), "b": output.abs().mean()}


def test_shares_do_not_depend_on_the_losses_scale():
    output = torch.randn(3, 1, 50, requires_grad=True)
    one, norms = Balancer({"a": 1.0, "b": 3.0})(losses_of(output), output)
    large, larger = Balancer({"a": 1.0, "b": 3.0})(losses_of(output, 1e4), output)
    torch.testing.assert_close(one, large)
    assert larger["a"] == pytest.approx(1e4 * norms["a"].item(), rel=1e-4)
    gradients = [torch.autograd.grad(loss, output)[0] for loss in losses_of(output).values()]
    wanted = sum(
        share * gradient / gradient.flatten(1).norm(dim=1).mean()
        for share, gradient in zip((0.25, 0.75), gradients, strict=True)
    )
    torch.testing.assert_close(one, wanted)


def test_norms_are_averaged_without_bias():
    balancer, seen = Balancer({"a": 1.0}, decay=0.5), []
    for factor in (1.0, 4.0, 2.0):
        output = torch.full((2, 3), factor, requires_grad=True)
        total, norms = balancer({"a": output.square().sum() / 2}, output)  # the gradient is the output
        seen.append(norms["a"].item())
    weights = [0.25, 0.5, 1.0]
    usual = sum(w * n for w, n in zip(weights, seen, strict=True)) / sum(weights)
    torch.testing.assert_close(total, output.detach() / usual)


def test_a_loss_that_comes_later_begins_with_its_own_norm():
    balancer = Balancer({"a": 1.0, "b": 1.0}, decay=0.9)
    output = torch.randn(2, 8, requires_grad=True)
    for _ in range(5):
        alone, _ = balancer({"a": losses_of(output)["a"]}, output)
    torch.testing.assert_close(alone.flatten(1).norm(dim=1).mean(), torch.tensor(1.0))  # the whole share is its own
    both, _ = balancer(losses_of(output), output)
    gradient_b = torch.autograd.grad(losses_of(output)["b"], output)[0]
    torch.testing.assert_close(both - alone / 2, gradient_b / gradient_b.flatten(1).norm(dim=1).mean() / 2)


def test_a_gradient_of_nothing_stays_finite():
    output = torch.zeros(2, 4, requires_grad=True)
    total, _ = Balancer({"a": 1.0})({"a": output.square().sum()}, output)
    assert torch.equal(total, torch.zeros(2, 4))


def test_the_balancers_state_is_in_its_module():
    balancer = Balancer({"a": 1.0, "b": 2.0})
    output = torch.randn(2, 4, requires_grad=True)
    balancer(losses_of(output), output)
    again = Balancer({"a": 1.0, "b": 2.0})
    again.load_state_dict(balancer.state_dict())
    torch.testing.assert_close(again(losses_of(output), output)[0], balancer(losses_of(output), output)[0])
    assert isinstance(balancer, nn.Module)
