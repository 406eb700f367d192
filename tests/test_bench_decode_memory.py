"""A model that only decodes holds its weights once, and decodes the same."""

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from experiments.benchmarks import decode_memory
from lightning_modules.generation.decoder import Decoder
from lightning_modules.generation.engine import forced_logits
from lightning_modules.generation.guidance import branches
from lightning_modules.lm.model import LanguageModelConfig


@pytest.mark.parametrize("int8", [False, True])
def test_weights_that_were_let_go_are_not_missed(int8):
    model, given, codes = tiny.language_model(), tiny.conditions([3]), tiny.codes(1, 6)
    made = branches(given, ["text"], 3.0)
    wanted, _ = forced_logits(Decoder(model, int8=int8), made, codes)
    kept = sum(parameter.numel() for parameter in model.parameters())
    decoder = Decoder(model, int8=int8, alone=True)
    assert sum(parameter.numel() for parameter in model.parameters()) < 0.6 * kept
    assert torch.equal(forced_logits(decoder, made, codes)[0], wanted)


def test_own_memory_is_what_no_file_gives_back(tmp_path):
    """Tensors in memory are seen, those that lie in a file are not."""
    save_file({"weight": torch.ones(16_000_000)}, tmp_path / "weights")
    before = decode_memory.own_memory()
    mapped = load_file(tmp_path / "weights")["weight"]
    assert float(mapped.sum()) == 16_000_000
    assert decode_memory.own_memory() - before < 20
    made = mapped + 1
    assert 60 < decode_memory.own_memory() - before < 90
    assert float(made[0]) == 2


def test_rows_are_of_both_types(monkeypatch):
    """Weights that lie there twice would be beyond what is wanted."""
    figures = {torch.float32: (115.0, 100.0, 0.0), torch.bfloat16: (200.0, 100.0, 3.0)}
    monkeypatch.setattr(decode_memory, "in_fresh_process", lambda function, config, dim, dtype, steps: figures[dtype])
    rows = decode_memory.memory_rows(LanguageModelConfig(), 8, 4)
    assert [round(row.ours, 6) for row in rows] == [15, 0, 100, 3]
    assert all(row.small_is_good for row in rows)
