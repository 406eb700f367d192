"""D-Adaptation as a choice beside AdamW: it learns, it follows the schedule, and it goes on where it was."""

import sys

import pytest
import torch
from torch import nn

from datamodules.errors import InputError
from lightning_modules.optim import OptimConfig, scheduled

CONFIG = OptimConfig(lr=1.0, weight_decay=0.0, warmup_steps=5, algorithm="dadaptation")


def train(steps, config=CONFIG, resume_at=None):
    """Losses of a small regression."""
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    y = x @ torch.randn(8, 1)
    model = nn.Linear(8, 1)
    made, losses = scheduled(model.parameters(), config, 200), []
    for step in range(steps):
        if step == resume_at:
            state, schedule = made["optimizer"].state_dict(), made["lr_scheduler"]["scheduler"].state_dict()
            made = scheduled(model.parameters(), config, 200)
            made["optimizer"].load_state_dict(state)
            made["lr_scheduler"]["scheduler"].load_state_dict(schedule)
        made["optimizer"].zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
        losses.append(loss.item())
    return losses


def test_dadaptation_finds_its_rate(capsys):
    losses = train(200)
    assert losses[-1] < 0.05 * losses[0]
    assert capsys.readouterr().out == ""


def test_dadaptation_resumes_exactly():
    assert train(40, resume_at=17) == train(40)


def test_its_absence_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "dadaptation", None)
    with pytest.raises(InputError, match="pip install dadaptation"):
        train(1)
    assert train(1, OptimConfig())
