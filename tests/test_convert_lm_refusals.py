"""What is no model that can be converted, to or from transformers: refused in one line before anything is written."""

import shutil
from dataclasses import replace

import pytest
import tiny
import torch
from foreign_models import edit, export, loaded
from safetensors.torch import load_file, save_file

from datamodules.errors import InputError
from lightning_modules.checkpoints import save_model
from lightning_modules.codec.folder import save_codec
from lightning_modules.codec.stereo import StereoCodec
from lightning_modules.conditioning.conditioners import Conditioners, build_text_encoder
from lightning_modules.converting.run import convert


def state(folder, drop=(), **more):
    path = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if name not in drop}
    save_file({**kept, **{name.replace("__", "."): tensor for name, tensor in more.items()}}, path, {"format": "pt"})


D, B = "decoder", "decoder.model.decoder.layers.0"
REFUSED = {
    "a bert": (lambda f: edit(f, "text_encoder", model_type="bert"), "text_encoder is of model_type 'bert'"),
    "a dac": (lambda f: edit(f, "audio_encoder", model_type="dac"), "audio_encoder is of model_type 'dac'"),
    "no text encoder": (lambda f: edit(f, text_encoder=None), "text_encoder is missing"),
    "no decoder": (lambda f: edit(f, decoder=None), "decoder is missing"),
    "tied": (lambda f: edit(f, D, tie_word_embeddings=True), "tie_word_embeddings is True"),
    "activation": (lambda f: edit(f, D, activation_function="relu"), "activation_function is 'relu'"),
    "cross width": (lambda f: edit(f, D, cross_attention_hidden_size=20), "cross_attention_hidden_size is 20"),
    "cross width, its own": (lambda f: edit(f, D, cross_attention_hidden_size=16), "cross_attention_hidden_size is 16"),
    "channels": (lambda f: edit(f, D, audio_channels=3), "audio_channels|not the config"),
    "no width": (lambda f: edit(f, D, hidden_size=0), "hidden_size is 0"),
    "width in words": (lambda f: edit(f, D, hidden_size="wide"), "hidden_size"),
    "heads": (lambda f: edit(f, D, num_attention_heads=3), "hidden_size is 16; wanted is .* num_attention_heads, 3"),
    "feed-forward": (lambda f: edit(f, D, ffn_dim=40), "ffn_dim is 40, no multiple of hidden_size"),
    "codebooks": (lambda f: edit(f, D, num_codebooks=3), r"embed_tokens\.3\.weight is unknown"),
    "more codebooks": (lambda f: edit(f, D, num_codebooks=5), "codec has 4 codebooks of 16 entries, .* 5 of 16"),
    "very many layers": (lambda f: edit(f, D, num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    "very wide": (lambda f: edit(f, D, hidden_size=2**40, ffn_dim=2**42), "not the shape of a language model"),
    "odd stereo": (lambda f: edit(f, D, audio_channels=2, num_codebooks=3), "stereo"),
    "entries": (lambda f: edit(f, D, vocab_size=32), "codebooks of 16 entries, the language model 4 of 32"),
    "another layer": (lambda f: edit(f, D, num_hidden_layers=1), r"layers\.1\..* is unknown"),
    "another width": (lambda f: edit(f, D, ffn_dim=64), r"2|fc1\.weight is \[48, 16\], wanted \[64, 16\]"),
    "codec's group norm": (lambda f: edit(f, "audio_encoder", norm_type="time_group_norm"), "audio_encoder: norm_type"),
    "missing": (lambda f: state(f, [f"{B}.fc1.weight"]), rf"1 tensors do not fit .*: {B}\.fc1\.weight is missing"),
    "four missing": (
        lambda f: state(f, [f"{B}.self_attn.{one}_proj.weight" for one in ("q", "k", "v", "out")]),
        rf"4 tensors do not fit its config: {B}\.self_attn\.q_proj.*; .*k_proj.*; .*v_proj\.weight is missing$",
    ),
    "unknown": (lambda f: state(f, extra__bias=torch.zeros(1)), r"extra\.bias is unknown"),
    "misshapen": (lambda f: state(f, enc_to_dec_proj__bias=torch.zeros(3)), r"enc_to_dec_proj\.bias is \[3\], wanted"),
    "integers": (lambda f: state(f, enc_to_dec_proj__bias=torch.zeros(16).int()), r"bias is of torch\.int32"),
    "of the codec": (
        lambda f: state(f, ["audio_encoder.encoder.layers.0.conv.bias"]),
        r"1 tensors.*audio_encoder\.encoder\.layers\.0\.conv\.bias is missing",
    ),
    "of the text encoder": (
        lambda f: state(f, ["text_encoder.encoder.final_layer_norm.weight"]),
        r"1 tensors.*text_encoder\.encoder\.final_layer_norm\.weight is missing",
    ),
    "text encoder's shape": (lambda f: edit(f, "text_encoder", d_ff=17), r"text_encoder\..*\.wi\.weight is"),
    "no tokenizer": (lambda f: [file.unlink() for file in f.glob("tokenizer*")], "holds no tokenizer; save that"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer"),
    "larger tokenizer": (lambda f: edit(f, "text_encoder", vocab_size=260), "tokenizer has 262 tokens, .* 260"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "cut short": (lambda f: (f / "model.safetensors").write_bytes(b"\x08" * 20), "not readable as safetensors"),
    "index of elsewhere": (
        lambda f: [
            (f / "model.safetensors").unlink(),
            (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret.safetensors"}}'),
        ],
        "not an index of weights",
    ),
    "a shard that is missing": (
        lambda f: [
            (f / "model.safetensors").unlink(),
            (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}'),
        ],
        "model-1.safetensors is missing",
    ),
    "decoder alone": (lambda f: edit(f, model_type="musicgen_decoder"), "model_type is 'musicgen_decoder'"),
}


@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_model_of_ours_is_refused_in_one_line(peers, tmp_path, spoil, message):
    shutil.copytree(peers("mono")[1], tmp_path / "hf")
    spoil(tmp_path / "hf")
    with pytest.raises(InputError, match=message) as told:
        convert(tmp_path / "hf", tmp_path / "native")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "native").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_chroma": 24}, "num_chroma is 24; only 12"),
        ({"chroma_length": 0}, "chroma_length is 0"),
        ({"chroma_length": "long"}, "chroma_length"),
    ],
)
def test_melodies_that_are_heard_otherwise_are_refused(peers, tmp_path, fields, message):
    shutil.copytree(peers("melody")[1], tmp_path / "hf")
    edit(tmp_path / "hf", **fields)
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "hf", tmp_path / "native")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"pattern": "parallel"}, "pattern 'parallel': MusicGen of transformers has but 'delay' for a mono codec"),
        ({"pattern": "partial_delay"}, "pattern 'partial_delay'"),
        ({"pattern": "flatten"}, "pattern 'flatten'"),
        ({"pattern": "coarse_first"}, "pattern 'coarse_first'"),
        ({"cross": (), "prefix": ("text",)}, r"cross \[\], prefix \['text'\], added \[\]: MusicGen"),
        ({"added": ("melody",)}, r"added \['melody'\]: MusicGen"),
        ({"position_scale": 0.1}, r"position_scale is 0\.1: MusicGen of transformers has 1 only"),
        ({"dim": 16, "text_dim": 16}, r"projections\.text: .*, 16, and this one's is not the identity"),
    ],
)
def test_ours_that_transformers_has_not(tmp_path, codec_folder, shape, message):
    lm = tiny.language_model(**shape)
    save_model(tmp_path / "mine", lm, tiny.TEXT, tiny.conditioners(), codec_folder)
    with pytest.raises(InputError, match=message) as told:
        convert(tmp_path / "mine", tmp_path / "hf", "hf")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "hf").exists()


def test_groups_of_bytes_that_transformers_has_not(tmp_path, codec_folder):
    text = replace(tiny.TEXT, ngrams=20)
    heard = Conditioners(build_text_encoder(text))
    save_model(tmp_path / "mine", tiny.language_model(), text, heard, codec_folder)
    with pytest.raises(InputError, match=r"text\.ngrams is 20: T5 of transformers hears every byte by itself"):
        convert(tmp_path / "mine", tmp_path / "hf", "hf")


def test_delays_by_number_are_a_pattern_like_the_named_ones(tmp_path, codec_folder):
    save_model(tmp_path / "mine", tiny.language_model("delay:0,1,2,3"), tiny.TEXT, tiny.conditioners(), codec_folder)
    convert(tmp_path / "mine", tmp_path / "hf", "hf")
    loaded(tmp_path / "hf")


@pytest.mark.parametrize("codec", [tiny.codec(channels=2), StereoCodec(tiny.codec(codebooks=2))], ids=["two", "passes"])
def test_stereo_that_transformers_has_not(tmp_path, codec):
    save_codec(tmp_path / "codec", codec)
    save_model(tmp_path / "mine", tiny.language_model(), tiny.TEXT, tiny.conditioners(), tmp_path / "codec")
    with pytest.raises(InputError, match=r"codec has 2 channels|pattern 'delay'"):
        convert(tmp_path / "mine", tmp_path / "hf", "hf")


def test_options_of_codecs_are_refused_before_weights_are_read(peers, tmp_path, monkeypatch):
    theirs, *folders = peers("mono")
    folders.append(export(tmp_path / "audiocraft", theirs))
    for name in ("read_huggingface_lm", "read_native", "lm_audiocraft.read_audiocraft_lm"):
        monkeypatch.delattr(f"lightning_modules.converting.sources.{name}")
    for source in folders:
        for options in ({"codebooks": 2}, {"stereo": True}):
            with pytest.raises(InputError, match="are for codecs"):
                convert(source, tmp_path / "native", **options)
    assert not (tmp_path / "native").exists()
    # Nor for a folder that holds something else.
    save_codec(tmp_path / "codec", tiny.codec())
    with pytest.raises(InputError, match="codec: is a codec's folder, and the source is a language model"):
        convert(folders[0], tmp_path / "codec")
    # Nor are they fetched.
    (tmp_path / "hub").mkdir()
    shutil.copy(folders[0] / "config.json", tmp_path / "hub")
    asked = []
    fetch = "lightning_modules.converting.sources.fetch"
    monkeypatch.setattr(fetch, lambda name, patterns: asked.append(patterns) or tmp_path / "hub")
    with pytest.raises(InputError, match="are for codecs"):
        convert("someone/music", tmp_path / "native", codebooks=2)
    assert asked == [["config.json"]]
