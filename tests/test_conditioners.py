"""Text conditions: what is dropped, what is empty, what is frozen, what is saved."""

import json
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from datamodules.errors import InputError
from lightning_modules.conditioning.conditioners import build_text_encoder
from lightning_modules.conditioning.dropout import ConditionDropout
from lightning_modules.conditioning.t5 import load_text_encoder
from lightning_modules.conditioning.text import TextEncoderConfig
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
    with pytest.warns(UserWarning, match="1001 tokens; the encoder hears the first 256"):
        beside, mask = encoder(["piano", "a" * 1000])
    with warnings.catch_warnings(action="error"):
        encoder(["a" * 1000])  # said once
    torch.testing.assert_close(beside[:1, : alone.shape[1]], alone, atol=1e-6, rtol=0)
    assert (beside[0, alone.shape[1] :] == 0).all()
    assert mask.shape[1] == 256


NGRAMS = replace(tiny.TEXT, ngrams=50)


def by_hand(encoder, text):
    """What the layers of an encoder of 50 rows begin with, byte by byte."""
    tokens = [byte + 3 for byte in text.encode()] + [1]  # 0 is padding, 1 the end, 2 the unknown token
    table, made = encoder.model.shared.weight, []
    for end in range(len(tokens)):
        one = table[tokens[end]].clone()
        for length in (3, 4, 5, 6):
            number = 0
            for place in range(end - length + 1, end + 1):
                number = (number * 1_000_003 + (tokens[place] if place >= 0 else 0) + 1) % (2**31 - 1)
            one += table[len(table) - 50 + number % 50]
        made.append(one / 5**0.5)
    return torch.stack(made)[None]


@torch.no_grad()
def test_groups_of_bytes_are_heard_with_every_byte(tmp_path):
    encoder = build_text_encoder(NGRAMS)
    assert len(encoder.model.shared.weight) == len(encoder.tokenizer) + 50
    text = "Flöte, piano"
    heard, _ = encoder([text])
    wanted = encoder.model(inputs_embeds=by_hand(encoder, text)).last_hidden_state
    torch.testing.assert_close(heard, wanted, atol=1e-5, rtol=0)
    beside, _ = encoder([text, "a" * 90])
    torch.testing.assert_close(beside[:1, : heard.shape[1]], heard, atol=1e-5, rtol=0)
    encoder.save(tmp_path / "t5")
    again, _ = load_text_encoder(str(tmp_path / "t5"), trained=True)([text])
    assert torch.equal(again, heard)


@pytest.mark.parametrize("ngrams", [51, -1, "many"])
def test_a_config_that_says_more_than_the_table_has_is_refused(tmp_path, ngrams):
    build_text_encoder(NGRAMS).save(tmp_path / "t5")
    path = tmp_path / "t5" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ngrams": ngrams}))
    with pytest.raises(InputError, match=rf"ngrams .?{ngrams}.?, and its table 434 rows, of which 384 are"):
        load_text_encoder(str(tmp_path / "t5"), trained=True)


def test_a_table_has_no_fewer_rows_than_none():
    with pytest.raises(InputError, match="ngrams is -1"):
        build_text_encoder(replace(tiny.TEXT, ngrams=-1))


def dropped(module, numbers):
    """Which rows have lost their text."""
    rows = tiny.conditions([1] * len(numbers))
    return ~module.dropout(rows, numbers)["text"].mask[:, 0]


def test_which_samples_are_dropped_is_a_function_of_their_numbers():
    module = training(condition_dropout=0.3, seed=5)
    numbers = torch.arange(4000)
    out = dropped(module, numbers)
    assert out.float().mean().item() == pytest.approx(0.3, abs=0.03)
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dropped(module, order), out[order])
    assert torch.equal(dropped(module, numbers[17:18]), out[17:18])
    assert not torch.equal(dropped(training(condition_dropout=0.3, seed=6), numbers), out)
    assert not dropped(training(condition_dropout=0.0), numbers).any()
    assert dropped(training(condition_dropout=1.0), numbers).all()


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
    assert not any("conditioners" in name for name in [*module.state_dict(), *dict(module.named_parameters())])
    assert len(list(module.parameters())) == len(list(module.lm.parameters()))
    module.train()
    assert not module.conditioners.text.model.training
    assert not module.conditioners.text(["piano"]).embeddings.requires_grad


def test_a_byte_level_encoder_learns_along():
    module = training()
    assert any("conditioners" in name for name in module.state_dict())
    embeddings, _ = module.conditioners.text(["piano"])
    embeddings.sum().backward()
    assert all(p.grad is not None for p in module.conditioners.text.parameters() if p.requires_grad)


def test_incomplete_tokenizer_is_refused(pretrained, monkeypatch):
    class Stub:
        @staticmethod
        def from_pretrained(name, **options):
            return ["<pad>", "</s>"]

    monkeypatch.setattr("lightning_modules.conditioning.t5.AutoTokenizer", Stub)
    with pytest.raises(InputError, match="missing or damaged \\(found: a tokenizer of 2 tokens\\)"):
        build_text_encoder(pretrained)


def test_conditions_are_dropped_together_and_apart():
    numbers = torch.arange(4000)
    dropout = ConditionDropout(0.2, {"melody": 0.5}, seed=3)
    conditioners = tiny.conditioners(melody=True)
    classes = torch.full((4000, 9), 7, dtype=torch.uint8)
    left = dropout(conditioners([""] * 4000, classes), numbers)
    text = torch.tensor([dropout.drops(number, "text") for number in range(4000)])
    melody = torch.tensor([dropout.drops(number, "melody") for number in range(4000)])
    assert text.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert melody.float().mean().item() == pytest.approx(0.2 + 0.8 * 0.5, abs=0.03)
    assert melody[text].all()  # without everything means without the melody too
    assert torch.equal(left["melody"].embeddings[:, 0, 7] == 0, melody)
    with pytest.raises(InputError, match="attribute_dropout of 'melody': the model hears text"):
        training(attribute_dropout={"melody": 0.5})


def test_what_is_no_t5_is_refused_rather_than_drawn_at_random(tmp_path):
    from transformers import BertConfig, BertModel

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=300, **shape)).save_pretrained(tmp_path / "bert")
    tiny.text_encoder().tokenizer.save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="of kind 'bert', which is no T5"):
        build_text_encoder(TextEncoderConfig(str(tmp_path / "bert")))


def test_tensors_that_are_missing_are_not_drawn_at_random(pretrained):
    (file,) = Path(pretrained.name).glob("*.safetensors")
    tensors = load_file(file)
    del tensors["encoder.block.0.layer.0.SelfAttention.q.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(InputError, match="1 tensors of a T5 encoder are not in it"):
        build_text_encoder(pretrained)


def test_a_damaged_encoder_is_said_to_be(pretrained):
    (file,) = Path(pretrained.name).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="missing or damaged; fetch it again"):
        build_text_encoder(pretrained)


def test_a_frozen_encoder_is_in_float32_in_any_run(pretrained):
    """Else a model would be trained on other texts' embeddings than it generates from."""
    encoder = build_text_encoder(pretrained)
    plain = encoder(["a calm piano"]).embeddings
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(["a calm piano"]).embeddings, plain)
