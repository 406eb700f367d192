"""Text conditions: what is dropped, what is empty, what is frozen, what is saved."""

import time

import pytest
import tiny
import torch

from datamodules.errors import InputError
from lightning_modules.lm.conditioners import TextEncoderConfig, build_text_encoder, load_text_encoder
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig

LM = LanguageModelConfig(dim=16, layers=1, heads=2, codebooks=2, entries=8)


def training(text=tiny.TEXT, **options):
    return LanguageModelTraining(LM, text, OptimConfig(), **options)


@pytest.fixture
def pretrained(tmp_path):
    """A "published" T5 encoder in a local folder."""
    tiny.text_encoder().save(tmp_path / "t5")
    return TextEncoderConfig(str(tmp_path / "t5"))


@torch.no_grad()
def test_dropping_every_row_is_the_null_condition_bit_for_bit():
    given = tiny.conditions([4, 2])
    dropped, null = given.drop(torch.tensor([True, True])), given.null()
    assert torch.equal(dropped["text"].embeddings, null["text"].embeddings)
    assert torch.equal(dropped["text"].mask, null["text"].mask)
    model = tiny.language_model()
    codes = tiny.codes(2, 4)
    assert torch.equal(model.logits(codes, dropped)[0], model.logits(codes, null)[0])
    kept = given.drop(torch.tensor([False, True]))["text"]
    assert torch.equal(kept.embeddings[0], given["text"].embeddings[0])
    assert not kept.mask[1].any()


@torch.no_grad()
def test_an_empty_text_is_the_null_condition():
    embeddings, mask = tiny.text_encoder()(["", "piano", "  \n"])
    assert not mask[[0, 2]].any()
    assert (embeddings[[0, 2]] == 0).all()
    assert mask[1].sum() == len("piano") + 1  # the end-of-text token counts


@torch.no_grad()
def test_a_text_is_encoded_alike_beside_longer_ones_and_cut_when_too_long():
    encoder = tiny.text_encoder()
    alone, _ = encoder(["piano"])
    beside, mask = encoder(["piano", "a" * 1000])
    torch.testing.assert_close(beside[:1, : alone.shape[1]], alone, atol=1e-6, rtol=0)
    assert (beside[0, alone.shape[1] :] == 0).all()
    assert mask.shape[1] == 256


def test_which_samples_are_dropped_is_a_function_of_their_numbers():
    module = training(condition_dropout=0.3, seed=5)
    numbers = torch.arange(4000)
    dropped = module.dropped(numbers)
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.03)
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(module.dropped(order), dropped[order])
    assert torch.equal(module.dropped(numbers[17:18]), dropped[17:18])
    assert not torch.equal(training(condition_dropout=0.3, seed=6).dropped(numbers), dropped)
    assert not training(condition_dropout=0.0).dropped(numbers).any()
    assert training(condition_dropout=1.0).dropped(numbers).all()


@torch.no_grad()
def test_encoder_survives_saving(tmp_path):
    encoder = tiny.text_encoder()
    encoder.save(tmp_path / "t5")
    again = load_text_encoder(str(tmp_path / "t5"), trained=True)
    texts = ["a calm piano", "", "höhö"]
    for ours, theirs in zip(encoder(texts), again(texts), strict=True):
        assert torch.equal(ours, theirs)


def test_absent_encoder_is_an_input_error_at_once():
    begun = time.monotonic()
    with pytest.raises(InputError, match="TEXT=bytes"):
        build_text_encoder(TextEncoderConfig("nobody/has-this-encoder"))
    assert time.monotonic() - begun < 5


def test_a_frozen_encoder_is_no_part_of_the_module(pretrained):
    module = training(pretrained)
    assert not any("encoder" in name for name in [*module.state_dict(), *dict(module.named_parameters())])
    assert len(list(module.parameters())) == len(list(module.lm.parameters()))
    module.train()
    assert not module.text_encoder.model.training
    assert not module.text_encoder(["piano"]).embeddings.requires_grad


def test_a_byte_level_encoder_learns_along():
    module = training()
    assert any("encoder" in name for name in module.state_dict())
    embeddings, _ = module.text_encoder(["piano"])
    embeddings.sum().backward()
    assert all(p.grad is not None for p in module.text_encoder.parameters() if p.requires_grad)


def test_incomplete_tokenizer_is_refused(pretrained, monkeypatch):
    class Stub:
        @staticmethod
        def from_pretrained(name, **options):
            return ["<pad>", "</s>"]

    monkeypatch.setattr("lightning_modules.lm.conditioners.AutoTokenizer", Stub)
    with pytest.raises(InputError, match="incomplete"):
        build_text_encoder(pretrained)
