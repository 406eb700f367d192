"""Files of audiocraft, made of language models of transformers by its names: the same logits."""

import copy

import pytest
import torch
import yaml
from foreign_models import KINDS, PROMPTS, audiocraft_state, export, lm_config, musicgen, save
from safetensors.torch import load_file
from same_logits import assert_same_logits

from datamodules.errors import InputError
from lightning_modules.checkpoints import load_model
from lightning_modules.converting.run import convert


@pytest.fixture(scope="module")
def mono():
    return musicgen()


def with_text_encoder(folder, theirs, tmp_path):
    """Our folder, whose text encoder is a name on the hub, with that of ``theirs`` in it."""
    convert(save(theirs, tmp_path / "hf"), tmp_path / "whole")
    (tmp_path / "whole" / "text_encoder").rename(folder / "text_encoder")
    return load_model(folder)


# audiocraft has a projection whatever the widths are, transformers only between unequal ones.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "wide" not in kind])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_logits_are_those_of_transformers(tmp_path, kind, dtype):
    theirs = musicgen(**KINDS[kind])
    state = {name: tensor.to(dtype) for name, tensor in audiocraft_state(theirs).items()}
    convert(export(tmp_path / "audiocraft", theirs, state=state), tmp_path / "native")
    stored = load_file(tmp_path / "native" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    config = yaml.safe_load((tmp_path / "native" / "config.yaml").read_text())
    assert config["text"]["name"] == "google-t5/t5-base"
    assert config["lm"]["mask_padded_text"] is False
    assert config["lm"]["prefix"] == (["melody", "text"] if "melody" in kind else [])
    if dtype == torch.float16:
        return
    model = with_text_encoder(tmp_path / "native", theirs, tmp_path)
    assert (model.codec.channels, model.lm.config.codebooks) == ((2, 8) if "stereo" in kind else (1, 4))
    # audiocraft hides no padding, neither from cross-attention nor in a prefix.
    assert_same_logits(model, theirs, masked=False)
    assert_same_logits(model, theirs, PROMPTS[:1])
    if "melody" in kind:
        assert model.conditioners.melody.config.frames == 9


def same_as(mono, tmp_path, source):
    convert(export(tmp_path / "plain", mono), tmp_path / "wanted")
    convert(source, tmp_path / "native")
    wanted, made = (load_file(tmp_path / name / "model.safetensors") for name in ("wanted", "native"))
    assert made.keys() == wanted.keys()
    assert all(torch.equal(made[name], wanted[name]) for name in made)
    one, two = (yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("wanted", "native"))
    assert one["lm"] == two["lm"]


def test_positions_as_loud_as_there(tmp_path):
    theirs = musicgen()
    theirs.decoder.model.decoder.embed_positions.weights.mul_(0.3)
    config = lm_config(theirs)
    config[LM]["positional_scale"] = 0.3
    convert(export(tmp_path / "audiocraft", theirs, config), tmp_path / "native")
    assert_same_logits(with_text_encoder(tmp_path / "native", theirs, tmp_path), theirs, masked=False)


def test_the_file_finds_the_codec_beside_it(mono, tmp_path):
    same_as(mono, tmp_path, export(tmp_path / "audiocraft", mono) / "state_dict.bin")


def test_files_of_before_zip(mono, tmp_path):
    folder = export(tmp_path / "audiocraft", mono)
    for file in folder.iterdir():
        torch.save(torch.load(file, weights_only=True), file, _use_new_zipfile_serialization=False)
    same_as(mono, tmp_path, folder)


def test_attention_of_pytorchs_own(mono, tmp_path):
    state = {
        name.replace("attn.in_", "attn.mha.in_").replace("attn.out_", "attn.mha.out_"): tensor
        for name, tensor in audiocraft_state(mono).items()
    }
    assert any(".mha." in name for name in state)
    same_as(mono, tmp_path, export(tmp_path / "audiocraft", mono, state=state))


def test_the_pattern_of_the_first_releases(mono, tmp_path):
    config = lm_config(mono)
    config["codebooks_pattern"] = {"modeling": None}
    config["transformer_lm"]["q_modeling"] = "delay"
    same_as(mono, tmp_path, export(tmp_path / "audiocraft", mono, config))


@pytest.mark.parametrize("name", ["pretrained", "checkpoint"])
def test_a_codec_that_is_but_a_name(mono, tmp_path, monkeypatch, name):
    config, asked = lm_config(mono), []
    mono.audio_encoder.save_pretrained(tmp_path / "codec")
    config["compression_model_checkpoint"] = "//pretrained/facebook/encodec_32khz"
    folder = export(tmp_path / "audiocraft", mono, config if name == "checkpoint" else None)
    (folder / "compression_state_dict.bin").unlink()
    if name == "pretrained":
        torch.save({"pretrained": "facebook/encodec_32khz", "exported": True}, folder / "compression_state_dict.bin")

    def fetch(name, patterns):
        asked.append(name)
        return tmp_path / "codec"

    monkeypatch.setattr("lightning_modules.converting.sources.fetch", fetch)
    same_as(mono, tmp_path, folder)
    assert set(asked) == {"facebook/encodec_32khz"}


def test_a_hub_model_of_audiocrafts_files_alone(mono, tmp_path, monkeypatch):
    asked, folder = [], export(tmp_path / "audiocraft", mono)

    def fetch(name, patterns):
        asked.append((name, patterns))
        return folder

    monkeypatch.setattr("lightning_modules.converting.sources.fetch", fetch)
    same_as(mono, tmp_path, "someone/finetuned")
    files = ["state_dict.bin", "compression_state_dict.bin"]
    assert asked == [("someone/finetuned", ["config.json"]), ("someone/finetuned", files)]


def test_a_codec_that_cannot_be_had(mono, tmp_path):
    folder = export(tmp_path / "audiocraft", mono)
    (folder / "compression_state_dict.bin").unlink()
    with pytest.raises(InputError, match=r"its codec is missing; put it beside, as compression_state_dict\.bin"):
        convert(folder, tmp_path / "native")


def test_its_export_to_transformers_tells_of_the_padding(mono, tmp_path):
    convert(export(tmp_path / "audiocraft", mono), tmp_path / "native")
    with_text_encoder(tmp_path / "native", mono, tmp_path)
    told = []
    convert(tmp_path / "native", tmp_path / "again", "hf", tell=told.append)
    assert len(told) == 1
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("books", "pattern", "name"),
    [
        (4, {"modeling": "delay"}, "delay"),
        (4, {"modeling": "delay", "delay": {"delays": [0, 1, 1, 1]}}, "partial_delay"),
        (4, {"modeling": "delay", "delay": {"delays": [0, 0, 0, 0]}}, "parallel"),
        (4, {"modeling": "delay", "delay": {"delays": [0, 3, 3, 3]}}, "delay:0,3,3,3"),
        (4, {"modeling": "parallel"}, "parallel"),
        (4, {}, "parallel"),
        (4, {"modeling": "unroll", "unroll": {"flattening": [0, 1, 2, 3], "delays": [0] * 4}}, "flatten"),
        (4, {"modeling": "unroll", "unroll": {"flattening": [0, 1, 1, 1]}}, "partial_flatten"),
        (4, {"modeling": "coarse_first", "coarse_first": {"delays": [0, 0, 0]}}, "coarse_first"),
        (3, {"modeling": "delay", "delay": {"delays": [0, 1, 2]}}, "delay"),
    ],
)
def test_patterns(tmp_path, books, pattern, name):
    theirs = musicgen(books=books)
    config = {**lm_config(theirs), "codebooks_pattern": pattern}
    convert(export(tmp_path / "audiocraft", theirs, config), tmp_path / "native")
    assert yaml.safe_load((tmp_path / "native" / "config.yaml").read_text())["lm"]["pattern"] == name


def change(*path):
    """The config with another value at a place: its last argument at the keys before."""

    def changed(config):
        *keys, last, value = path
        found = config
        for key in keys:
            found = found.setdefault(key, {})
        if value is KeyError:
            del found[last]
        else:
            found[last] = value

    return changed


LM, T5 = "transformer_lm", ("conditioners", "description", "t5")
CONFIGS = {
    "norm last": (change(LM, "norm_first", False), "transformer_lm.norm_first is False; only True is converted"),
    "norm by default": (change(LM, "norm_first", KeyError), "transformer_lm.norm_first is False"),
    "another norm": (change(LM, "norm", "rms_norm"), "transformer_lm.norm is 'rms_norm'"),
    "activation": (change(LM, "activation", "relu"), "transformer_lm.activation is 'relu'"),
    "bias": (change(LM, "bias_ff", True), "transformer_lm.bias_ff is True"),
    "bias by default": (change(LM, "bias_attn", KeyError), "transformer_lm.bias_attn is True"),
    "bias of heads": (change(LM, "bias_proj", True), "transformer_lm.bias_proj is True"),
    "causality": (change(LM, "causal", False), "transformer_lm.causal is False"),
    "context": (change(LM, "past_context", 100), "transformer_lm.past_context is 100"),
    "positions": (change(LM, "positional_embedding", "rope"), "positional_embedding is 'rope'"),
    "decay": (change(LM, "xpos", True), "transformer_lm.xpos is True"),
    "scale": (change(LM, "layer_scale", 0.1), r"transformer_lm.layer_scale is 0\.1"),
    "query norm": (change(LM, "qk_layer_norm", True), "transformer_lm.qk_layer_norm is True"),
    "query norm across": (change(LM, "qk_layer_norm_cross", True), "qk_layer_norm_cross is True"),
    "shared keys": (change(LM, "kv_repeat", 2), "transformer_lm.kv_repeat is 2"),
    "another model": (change("lm_model", "transformer_lm_magnet"), "lm_model is 'transformer_lm_magnet'"),
    "sum": (change("fuser", "sum", ["description"]), "fuser.sum is"),
    "interpolation": (change("fuser", "input_interpolate", ["self_wav"]), "fuser.input_interpolate is"),
    "positions across": (change("fuser", "cross_attention_pos_emb", True), "fuser.cross_attention_pos_emb is True"),
    "a condition of nothing": (change("fuser", "cross", ["description", "bpm"]), "fuser names 'bpm'"),
    "a condition nowhere": (change("fuser", "cross", []), "description must stand once in fuser.cross or"),
    "a condition twice": (change("fuser", "prepend", ["description"]), "description must stand once"),
    "a lookup table": (change("conditioners", "genre", {"model": "lut"}), "conditioners.genre.model is 'lut'"),
    "clap": (change("conditioners", "description", "model", "clap"), "description.model is 'clap'"),
    "two texts": (change("conditioners", "title", {"model": "t5"}), "title.model is 't5'; only one t5"),
    "a trained T5": (change(*T5, "finetune", True), "t5.finetune is True"),
    "words taken out": (change(*T5, "normalize_text", True), "t5.normalize_text is True"),
    "another T5": (change(*T5, "name", "someone/t5"), "t5.name is 'someone/t5', no T5 that audiocraft knows"),
    "stereo steps": (change("interleave_stereo_codebooks", "per_timestep", True), "per_timestep is True"),
    "odd stereo": (
        lambda c: (c[LM].update(n_q=3), c["interleave_stereo_codebooks"].update(use=True), c.pop("codebooks_pattern")),
        "stereo language model of 3 codebooks",
    ),
    "musiclm": (change("codebooks_pattern", "modeling", "musiclm"), "the pattern 'musiclm' is not converted"),
    "flattened delays": (
        change("codebooks_pattern", {"modeling": "unroll", "unroll": {"delays": [0, 1, 1, 1]}}),
        r"the pattern 'unroll' with codebooks_pattern\.unroll\.delays \[0, 1, 1, 1\] is not converted",
    ),
    "another flattening": (
        change("codebooks_pattern", {"modeling": "unroll", "unroll": {"flattening": [0, 0, 1, 1]}}),
        r"flattening is \[0, 0, 1, 1\]",
    ),
    "flat first": (change("codebooks_pattern", "delay", "flatten_first", 2), "delay.flatten_first is 2"),
    "empty first": (change("codebooks_pattern", "delay", "empty_initial", -1), "delay.empty_initial is -1"),
    "few delays": (change("codebooks_pattern", "delay", "delays", [0, 1]), "there must be 4 whole numbers"),
    "late delays": (change("codebooks_pattern", "delay", "delays", [1, 2, 3, 4]), "the smallest must be 0"),
    "delays in words": (change("codebooks_pattern", "delay", "delays", "none"), "there must be 4 whole numbers"),
    "width in words": (change(LM, "dim", "wide"), "transformer_lm.dim is 'wide'"),
    "codebooks in words": (change(LM, "n_q", "four"), "transformer_lm.n_q is 'four'"),
    "positions in words": (change(LM, "positional_scale", "quiet"), "transformer_lm.positional_scale is 'quiet'"),
    "no layers": (change(LM, "num_layers", 0), "transformer_lm.num_layers is 0"),
    "other layers": (change(LM, "num_layers", 3), r"transformer\.layers\.2\..* is missing"),
    "heads": (change(LM, "num_heads", 3), "transformer_lm.dim is 16; wanted is an even multiple"),
    "entries": (change(LM, "card", 32), "the codec has 4 codebooks of 16 entries"),
}


@pytest.mark.parametrize(("edit", "message"), CONFIGS.values(), ids=CONFIGS)
def test_configs_that_our_model_has_not_are_refused(mono, tmp_path, edit, message):
    config = copy.deepcopy(lm_config(mono))
    edit(config)
    folder = export(tmp_path / "audiocraft", mono, config)
    with pytest.raises(InputError, match=message) as told:
        convert(folder, tmp_path / "native")
    assert str(told.value).startswith(str(folder / "state_dict.bin"))
    assert "\n" not in str(told.value)
    assert not (tmp_path / "native").exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("conditioners", "self_wav", "chroma_stem", "n_chroma", 24), "n_chroma is 24"),
        (change("conditioners", "self_wav", "chroma_stem", "radix2_exp", 12), "radix2_exp is 12"),
        (change("conditioners", "self_wav", "chroma_stem", "argmax", False), "argmax is False"),
        (change("dataset", "segment_duration", KeyError), "dataset.segment_duration is None"),
    ],
)
def test_melodies_that_are_heard_otherwise_are_refused(tmp_path, edit, message):
    theirs = musicgen(melody=True)
    config = lm_config(theirs)
    edit(config)
    with pytest.raises(InputError, match=message):
        convert(export(tmp_path / "audiocraft", theirs, config), tmp_path / "native")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("out_norm.bias"), r"1 tensors.*out_norm\.bias is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 tensors.*extra is unknown"),
        (
            lambda s: s.update({"transformer.layers.0.cross_attention.in_proj_weight": torch.zeros(32, 16)}),
            r"1 tensors.*cross_attention\.in_proj_weight is \[32, 16\], wanted \[48, 16\]$",
        ),
        (lambda s: s.pop("condition_provider.conditioners.description.output_proj.weight"), r"output_proj\.weight is"),
        (lambda s: s.update({"transformer.layers.0.linear1.bias": torch.zeros(48)}), r"linear1\.bias is unknown"),
    ],
)
def test_tensors_that_do_not_fit_are_named(mono, tmp_path, edit, message):
    state = audiocraft_state(mono)
    edit(state)
    with pytest.raises(InputError, match=message):
        convert(export(tmp_path / "audiocraft", mono, state=state), tmp_path / "native")


def test_a_model_without_conditions(mono, tmp_path):
    state = {
        name: tensor
        for name, tensor in audiocraft_state(mono).items()
        if "cross" not in name and "condition_provider" not in name
    }
    config = lm_config(mono)
    config.update(conditioners={}, fuser={"cross": [], "prepend": []})
    convert(export(tmp_path / "audiocraft", mono, config, state), tmp_path / "native")
    model = load_model(tmp_path / "native")
    assert model.lm.config.conditions == ()
    with pytest.raises(InputError, match="MusicGen of transformers attends to text"):
        convert(tmp_path / "native", tmp_path / "hf", "hf")
