"""The average of the weights, against a loop, and the schedule of the learning rate."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from lightning_modules.callbacks import WeightAverage
from lightning_modules.optim import OptimConfig, learning_rate_factor, scheduled


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        self.frozen = torch.nn.Parameter(torch.tensor([5.0]), requires_grad=False)
        self.b = torch.nn.Parameter(torch.tensor([[3.0]]))

    def move(self, step):
        with torch.no_grad():
            self.a += step
            self.b *= 0.9


def run(average, module, steps, start=0, accumulate=2):
    """What Lightning calls: on_train_batch_end after every micro-batch, a step being done with the last of them."""
    state = SimpleNamespace(global_step=start)
    average.on_fit_start(SimpleNamespace(global_step=0), module)  # Lightning restores the step after this
    average.on_train_start(state, module)
    for step in range(start + 1, start + steps + 1):
        for micro in range(accumulate):
            if micro == accumulate - 1:
                module.move(step)
                state.global_step = step
            average.on_train_batch_end(state, module, None, None, 0)


def averaged(average, module):
    with average.applied(module):
        return [module.a.detach().clone(), module.b.detach().clone()]


def by_hand(decay, every, steps):
    """The bias-corrected average: sum of decay^(n - i) w_i over the sum of decay^(n - i)."""
    module, seen = Module(), []
    for step in range(1, steps + 1):
        module.move(step)
        if step % every == 0:
            seen.append([module.a.detach().clone(), module.b.detach().clone()])
    weights = [decay ** (len(seen) - i) for i in range(1, len(seen) + 1)]
    return [sum(w * s[part] for w, s in zip(weights, seen, strict=True)) / sum(weights) for part in range(2)]


@pytest.mark.parametrize(("decay", "every"), [(0.9, 1), (0.5, 3), (0.99, 2)])
def test_average_equals_a_loop(decay, every):
    average, module = WeightAverage(decay, every), Module()
    run(average, module, 12)
    assert average.updates == 12 // every
    for ours, wanted in zip(averaged(average, module), by_hand(decay, every, 12), strict=True):
        torch.testing.assert_close(ours, wanted)


def test_first_update_is_the_weights_themselves():
    average, module = WeightAverage(0.99, 5), Module()
    before = Module()
    run(average, module, 4)
    assert torch.equal(averaged(average, module)[0], module.a)  # nothing was averaged yet
    run(average, module, 1, start=4)
    torch.testing.assert_close(averaged(average, module)[0], module.a.detach())
    assert not torch.equal(module.a, before.a)


def test_validation_sees_the_average_and_training_gets_its_weights_back_bit_for_bit():
    average, module = WeightAverage(0.9, 1), Module()
    run(average, module, 7)
    weights = [p.detach().clone() for p in module.parameters()]
    wanted = averaged(average, module)
    average.on_validation_start(None, module)
    assert torch.equal(module.a, wanted[0])
    assert not torch.equal(module.a, weights[0])
    average.on_validation_end(None, module)
    assert all(torch.equal(p, w) for p, w in zip(module.parameters(), weights, strict=True))
    with pytest.raises(RuntimeError), average.applied(module):
        raise RuntimeError
    assert all(torch.equal(p, w) for p, w in zip(module.parameters(), weights, strict=True))


def test_a_validation_that_is_interrupted_leaves_the_weights_in_training():
    average, module = WeightAverage(0.9, 1), Module()
    run(average, module, 7)
    weights = [p.detach().clone() for p in module.parameters()]
    state = [a.clone() for a in average.state_dict()["average"]]
    average.on_validation_start(None, module)
    average.on_exception(None, module, KeyboardInterrupt())
    assert all(torch.equal(p, w) for p, w in zip(module.parameters(), weights, strict=True))
    assert all(torch.equal(a, w) for a, w in zip(average.state_dict()["average"], state, strict=True))
    average.on_exception(None, module, KeyboardInterrupt())  # outside a validation there is nothing to undo
    assert torch.equal(module.a, weights[0])


def test_a_restored_average_goes_on_as_if_nothing_had_happened():
    straight, whole = WeightAverage(0.9, 2), Module()
    run(straight, whole, 9)
    first, module = WeightAverage(0.9, 2), Module()
    run(first, module, 5)
    second = WeightAverage(0.9, 2)
    second.load_state_dict(first.state_dict())
    run(second, module, 4, start=5)
    for ours, wanted in zip(averaged(second, module), averaged(straight, whole), strict=True):
        assert torch.equal(ours, wanted)
    assert second.updates == straight.updates


def test_learning_rate_warms_up_and_decays():
    config = OptimConfig(warmup_steps=10, min_lr_ratio=0.1)
    factors = [learning_rate_factor(step, config, 100) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1)
    assert factors[55] == pytest.approx(0.1 + 0.9 * 0.5)  # half way down
    assert factors[100] == pytest.approx(0.1)
    assert learning_rate_factor(500, config, 100) == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in pairwise(factors[10:]))
    # A short run does not spend itself on the ramp.
    assert learning_rate_factor(2, OptimConfig(warmup_steps=4000), 20) == pytest.approx(1)


def test_optimizer_follows_the_schedule_and_leaves_frozen_weights_out():
    module = Module()
    made = scheduled(module.parameters(), OptimConfig(lr=0.1, warmup_steps=2, weight_decay=0.0), 10)
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    assert made["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.1 * 0.5 * (1 + math.cos(math.pi / 8))])
