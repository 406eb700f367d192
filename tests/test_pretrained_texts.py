"""CLAP and FLAN-T5 as text encoders of a model, through their real loading code, tiny ones that were saved here."""

from pathlib import Path

import pytest
import tiny
import torch
import yaml
from safetensors.torch import load_file, save_file
from test_clap import byte_tokenizer, clap, extractor, folder, model  # noqa: F401  fixtures
from transformers import T5Config, T5EncoderModel

from datamodules.errors import InputError
from lightning_modules.checkpoints import load_model, save_model
from lightning_modules.codec.folder import save_codec
from lightning_modules.conditioning.conditioners import build_conditioners
from lightning_modules.conditioning.text import TextEncoderConfig
from lightning_modules.converting.run import convert
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig

TEXTS = ["calm piano", "", "a fast violin"]


@pytest.fixture
def flan(tmp_path):
    """T5 1.1's gated layers, as FLAN-T5 has them, and its tokenizer."""
    from foreign_models import tokenizer

    shape = {"vocab_size": 300, "d_model": 20, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 3}
    config = T5Config(**shape, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        T5EncoderModel(config).save_pretrained(tmp_path / "flan")
    tokenizer().save_pretrained(tmp_path / "flan")
    return TextEncoderConfig(str(tmp_path / "flan"))


def whole_model(tmp_path, text, width):
    """A model with this text encoder, saved and loaded again."""
    conditioners = build_conditioners(text, None)
    assert conditioners.dims == {"text": width}
    save_codec(tmp_path / "codec", tiny.codec())
    lm = tiny.language_model(text_dim=width)
    save_model(tmp_path / "model", lm, text, conditioners, tmp_path / "codec")
    assert not (tmp_path / "model" / "text_encoder").exists()  # frozen: named, not stored
    return load_model(tmp_path / "model")


@torch.no_grad()
def test_clap_conditions_a_model(tmp_path, folder, clap):  # noqa: F811
    made = whole_model(tmp_path, TextEncoderConfig(str(folder), kind="clap"), clap.dim)
    embeddings, mask = made.conditions(TEXTS)["text"]
    assert mask.tolist() == [[True], [False], [True]]
    torch.testing.assert_close(embeddings[[0, 2], 0], clap.text(["calm piano", "a fast violin"]))
    assert not embeddings[1].any()
    codes = made.generate_codes(TEXTS, 0.1, greedy=True, guidance=4.0)
    assert not torch.equal(codes[0], codes[2])


def test_clap_is_dropped_like_any_other_and_learns_nothing(folder):  # noqa: F811
    """audiocraft's dropout does not reach it, so that its null branch is not null."""
    text = TextEncoderConfig(str(folder), kind="clap")
    shape = LanguageModelConfig(dim=16, layers=1, heads=2, codebooks=2, entries=8)
    module = LanguageModelTraining(shape, text, OptimConfig(), condition_dropout=1.0)
    assert not any("clap" in name for name in module.state_dict())
    given = module.conditioners(TEXTS)
    dropped = module.dropout(given, torch.arange(3))
    null = given.null()
    assert torch.equal(dropped["text"].embeddings, null["text"].embeddings)
    codes = tiny.codes(3, 5, codebooks=2, entries=8)
    with torch.no_grad():
        assert torch.equal(module.lm.logits(codes, dropped)[0], module.lm.logits(codes, null)[0])
    module.train()
    assert not module.conditioners.text.clap.training
    assert not module.conditioners(TEXTS)["text"].embeddings.requires_grad
    with pytest.raises(InputError, match="a CLAP stays frozen"):
        build_conditioners(TextEncoderConfig(str(folder), kind="clap", train=True), None)


@torch.no_grad()
def test_flan_t5_conditions_a_model(tmp_path, flan):
    made = whole_model(tmp_path, flan, 20)
    embeddings, mask = made.conditions(TEXTS)["text"]
    encoder = made.conditioners.text
    tokens = encoder.tokenizer(["calm piano"], return_tensors="pt")
    theirs = T5EncoderModel.from_pretrained(flan.name).eval()(**tokens).last_hidden_state
    torch.testing.assert_close(embeddings[:1, : theirs.shape[1]], theirs, atol=1e-5, rtol=1e-5)
    assert mask.any(1).tolist() == [True, False, True]
    assert len(made.generate(TEXTS, 0.05)) == 3


def test_a_pretrained_encoder_learns_along_where_asked_to(tmp_path, flan):
    text = TextEncoderConfig(flan.name, train=True)
    conditioners = build_conditioners(text, None)
    conditioners(TEXTS)["text"].embeddings.sum().backward()
    assert all(p.grad is not None for name, p in conditioners.text.named_parameters() if "relative" not in name)
    with torch.no_grad():
        next(conditioners.text.model.encoder.block[0].parameters()).mul_(2)
    save_codec(tmp_path / "codec", tiny.codec())
    save_model(tmp_path / "model", tiny.language_model(text_dim=20), text, conditioners, tmp_path / "codec")
    again = load_model(tmp_path / "model").conditioners.text
    assert again.trained
    for name, tensor in conditioners.text.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def spoil(file):
    """Another number in the largest tensor of a safetensors file."""
    tensors = load_file(file)
    largest = max(tensors.values(), key=torch.numel)
    largest.view(-1)[5] += 1e-3
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize("kind", ["t5", "clap"])
def test_an_encoder_of_other_weights_is_refused(tmp_path, flan, folder, clap, kind):  # noqa: F811
    text = flan if kind == "t5" else TextEncoderConfig(str(folder), kind="clap")
    made = whole_model(tmp_path, text, 20 if kind == "t5" else clap.dim)
    stored = made.about["text"]["checksum"]
    assert stored == made.conditioners.text.checksum
    assert len(stored) == 64
    spoil(Path(text.name) / "model.safetensors")
    refused = rf"text encoder {text.name}: its weights are not those .* name where they are: text\.name in config\.yaml"
    with pytest.raises(InputError, match=refused) as told:
        load_model(tmp_path / "model")
    assert "\n" not in str(told.value)
    if kind == "t5":
        with pytest.raises(InputError, match=refused):
            convert(tmp_path / "model", tmp_path / "hf", "hf")
    # Models that were saved before checksums were are read with whatever there is.
    path = tmp_path / "model" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["text"]["checksum"]
    path.write_text(yaml.safe_dump(config))
    assert load_model(tmp_path / "model").conditioners.text.checksum != stored


def test_a_checksum_is_of_the_weights_in_whatever_file_and_under_whatever_names(tmp_path, flan):
    encoder = build_conditioners(flan, None).text
    encoder.model.save_pretrained(tmp_path / "parts", max_shard_size="10KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    encoder.tokenizer.save_pretrained(tmp_path / "parts")
    assert build_conditioners(TextEncoderConfig(str(tmp_path / "parts")), None).text.checksum == encoder.checksum
    before = encoder.checksum
    encoder.renamed, encoder.model = encoder.model, None
    assert encoder.checksum == before
    weight = next(parameter for parameter in encoder.parameters() if parameter.dim() == 2)
    weight.data = weight.data.reshape(-1, 2)
    assert encoder.checksum != before


def test_a_trained_encoder_lies_in_the_folder_and_needs_no_checksum(model_folder):
    assert yaml.safe_load((model_folder / "config.yaml").read_text())["text"]["checksum"] == ""
