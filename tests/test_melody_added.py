"""Melodies that are added to the steps at which their frames begin."""

from contextlib import nullcontext

import pytest
import tiny
import torch

from datamodules.errors import InputError
from datamodules.features.chroma import NO_CLASS
from datamodules.tokens.store import TokenStore
from lightning_modules.conditioning.conditions import Condition, Conditions
from lightning_modules.conditioning.melody import MelodyConfig, MelodyEncoder
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig


def test_a_spread_melody_has_the_nearest_class_at_every_frame_and_nothing_where_there_is_none():
    heard = MelodyEncoder(MelodyConfig(frames=5, stems="", spread=2.5))
    given = torch.tensor([[3, 4, NO_CLASS, 0, 11], [NO_CLASS] * 5], dtype=torch.uint8)
    embeddings, mask = heard(given)
    wanted = [given[0, min(round(place / 2.5 + 1e-9), 4)].item() for place in range(12)]
    assert wanted == [3, 3, 4, 4, NO_CLASS, NO_CLASS, NO_CLASS, 0, 0, 11, 11, 11]
    assert mask[0].tolist() == [one != NO_CLASS for one in wanted]
    assert torch.equal(embeddings[0, mask[0]], torch.eye(12)[[one for one in wanted if one != NO_CLASS]])
    assert not embeddings[~mask].any()
    assert not mask[1].any()
    dropped = Conditions({"melody": heard(given)}).null()["melody"]
    assert torch.equal(dropped.embeddings, heard(given[1:]).embeddings.expand(2, -1, -1))
    with pytest.raises(InputError, match=r"melody\.spread is 0\.5"):
        MelodyEncoder(MelodyConfig(spread=0.5))


@pytest.mark.parametrize("pattern", ["delay", "flatten"])
def test_an_added_melody_is_heard_at_its_own_steps_and_after(pattern):
    """What stands at a frame changes nothing before the step at which that frame is predicted first."""
    model = tiny.language_model(pattern, added=("melody",))
    text = tiny.conditions([3]).items
    given = torch.randint(12, (2, 6), generator=torch.Generator().manual_seed(3))
    given[1] = given[0]
    given[1, 4] = (given[0, 4] + 6) % 12
    codes = tiny.codes(1, 8)
    with torch.no_grad():
        logits = [
            model.teacher_forced(
                codes,
                Conditions({**text, "melody": Condition(torch.eye(12)[row][None], torch.ones(1, 6, dtype=torch.bool))}),
            )[0][0]
            for row in given
        ]
    step = 4 * model.pattern.per_frame
    assert torch.equal(logits[0][:, :step], logits[1][:, :step])
    assert (logits[0][:, step] - logits[1][:, step]).abs().max() > 1e-3


def test_only_melodies_are_added():
    with pytest.raises(InputError, match=r"lm\.added is \['text'\]"):
        tiny.language_model(added=("text",))


@pytest.mark.parametrize("spread", [0.0, 4.0, 2.0])
def test_an_added_melody_goes_at_the_pace_of_the_codes(tmp_path, spread):
    module = LanguageModelTraining(
        LanguageModelConfig(dim=16, layers=1, heads=2, codebooks=2, entries=8, added=("melody",)),
        tiny.TEXT, OptimConfig(), MelodyConfig(9, "", spread),
    )  # fmt: skip
    store = TokenStore(tiny.write_store(tmp_path / "store"))  # two frames of codes last as long as one of chroma
    with nullcontext() if spread == 2 else pytest.raises(InputError, match=f"melody.spread is {spread}; .*, here 2"):
        module._check(store)
