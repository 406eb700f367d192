"""What ``mgl bench decode`` measures is so: both sides do the same steps, and disagreement shows."""

import pytest
import torch

from datamodules.errors import InputError
from experiments.benchmarks import decode
from experiments.commands.bench import bench
from lightning_modules.generation.decoder import Decoder
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig

SHAPE = LanguageModelConfig(dim=32, layers=2, heads=2, entries=64)
STEPS = 9


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    lm = LanguageModel(SHAPE, {"text": 768}).eval()
    return lm, decode.peer_of(lm)


def test_both_decode_the_same_steps(pair):
    lm, peer = pair
    turns = decode.Turns(peer, {"float32": Decoder(lm), "int8": Decoder(lm, int8=True)}, 2, STEPS).run()
    assert turns.done == len(turns.seconds) == STEPS
    speed, error, low, share = turns.rows()
    assert speed.name == "9 steps, batch 2, float32"
    assert speed.ratio == speed.ours / speed.peer
    assert speed.floor > speed.ours > 0
    assert error.ours < 100  # 1e-4
    assert low.peer == speed.peer
    assert 0.001 < share.ours < 0.1
    exact = turns.sides["float32"]
    assert len(exact.seconds) == STEPS
    # Every step was fed what the peer had drawn.
    assert len(exact.drawing.sequence[..., 1:STEPS].unique()) > 10


def test_other_weights_are_seen(pair):
    lm, peer = pair
    kept = lm.transformer.blocks[1].ff_out.weight.clone()
    with torch.no_grad():
        lm.transformer.blocks[1].ff_out.weight.mul_(1.01)
        turns = decode.Turns(peer, {"float32": Decoder(lm)}, 1, STEPS).run()
        lm.transformer.blocks[1].ff_out.weight.copy_(kept)
    assert turns.rows()[1].ours > 100


def test_the_floor_has_every_product_of_a_step(pair):
    """Its products read every weight of the blocks and heads but those of the text's keys and values, once."""
    lm, _ = pair
    rows, weights = [], 0
    for product, count, width in decode._products(Decoder(lm), 1, 2):
        made = product(torch.randn(count, width))
        rows.append(count)
        weights += width * made.shape[1]
    wanted = sum(
        parameter.numel()
        for name, parameter in lm.named_parameters()
        if parameter.dim() == 2 and not name.startswith(("embedding", "projections")) and "key_value" not in name
    )
    assert weights == wanted
    assert rows.count(1) == 2 * SHAPE.layers


def test_full_is_for_decode_alone():
    with pytest.raises(InputError, match="decode and evaluate alone"):
        bench(["metrics"], full=True)
