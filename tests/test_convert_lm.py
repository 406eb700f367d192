"""Language models to and from transformers: the same logits and codes on both sides."""

import dataclasses
import json
import re
import shutil
from unittest.mock import patch

import pytest
import tiny
import torch
import yaml
from foreign_models import KINDS, PROMPTS, export, greedy, halves, loaded, logits, melodies, musicgen, save
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase, T5EncoderModel
from transformers.utils import logging

from datamodules.errors import InputError
from experiments.__main__ import main
from lightning_modules.checkpoints import load_model, save_model
from lightning_modules.codec.folder import save_codec
from lightning_modules.codec.stereo import StereoCodec
from lightning_modules.conditioning.t5 import T5TextEncoder
from lightning_modules.converting.run import convert
from lightning_modules.generation.decoder import Decoder, Request
from lightning_modules.generation.guidance import branches

FRAMES = 11


def codes(lm, batch=2, seed=1, frames=FRAMES):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(lm.config.entries, (batch, lm.config.codebooks, frames), generator=generator)


def stepped(lm, sequence, heard, first=0):
    """The logits that the engine decodes from step ``first`` on, one by one; the steps before go in at once."""
    request = Request(Decoder(lm), branches(heard, lm.config.conditions, 1.0), len(sequence), sequence.shape[-1])
    if first:
        request.take_in(sequence[..., :first])
    columns = enumerate(sequence[..., first:].unbind(2), first + 1)
    return torch.stack([request.logits(column, request.prefix + step) for step, column in columns], 2)


@torch.no_grad()
def assert_same_logits(model, theirs, prompts=PROMPTS, tolerance=1e-4, masked=None):
    """Under teacher forcing all at once, and step by step; without prompts under no text."""
    without, prompts = prompts is None, prompts or PROMPTS[:1]
    classes = melodies(len(prompts))
    heard = model.conditioners(prompts, classes if model.conditioners.melody is not None else None)
    heard = heard.null(["text"]) if without else heard
    played = codes(model.lm, len(prompts))
    sequence = model.lm.pattern.build(played, trim=True)[..., :-1]
    wanted = logits(theirs, sequence, prompts, classes, without=without, masked=masked)
    assert wanted.std() > 0.5  # alive
    ours, _ = model.lm.teacher_forced(played, heard)
    torch.testing.assert_close(ours, wanted, atol=tolerance, rtol=0)
    ours = stepped(model.lm, sequence, heard)
    torch.testing.assert_close(ours, wanted, atol=tolerance, rtol=0)


@torch.no_grad()
def assert_same_logits_over_1500_steps(model, theirs, masked, stepwise):
    """One text, padded as beside a longer one: in one pass, and as many of the last steps one by one."""
    lm, classes, steps = model.lm, melodies(2), 1500
    heard = model.conditioners(PROMPTS, classes if model.conditioners.melody is not None else None)
    heard = heard.select(torch.tensor([1]))
    sequence = lm.pattern.build(codes(lm, 1, frames=steps), trim=True)[..., :-1]
    wanted = logits(theirs, sequence, PROMPTS, classes[1:], masked=masked)
    assert wanted.shape == (1, lm.config.codebooks, steps, lm.config.entries)
    assert wanted.std() > 0.5
    with patch.object(lm, "config", dataclasses.replace(lm.config, mask_padded_text=masked)):
        ours, last = lm(sequence, lm.context(heard)), stepped(lm, sequence, heard, steps - stepwise)
    pairs = (ours, wanted), (last, wanted[:, :, -stepwise:]), (last, ours[:, :, -stepwise:])
    errors = [float((one - two).abs().max()) for one, two in pairs]
    print("largest difference {:.1e} in one pass, {:.1e} step by step, {:.1e} between the two".format(*errors))
    assert max(errors) < 1e-4


@torch.no_grad()
def assert_same_greedy_codes(model, theirs, prompts, frames):
    """Wherever transformers' two best are further apart than ten times the error of the logits measured here."""
    classes, pattern = melodies(len(prompts)), model.lm.pattern
    heard = model.conditioners(prompts, classes if model.conditioners.melody is not None else None)
    model.conditions = lambda *_: heard
    wanted = greedy(theirs, prompts, classes, frames)
    ours = torch.stack(model.generate_codes(prompts, frames / 100, guidance=3.0, greedy=True))
    assert wanted.shape == ours.shape == (len(prompts), model.lm.config.codebooks, frames)
    assert len(wanted.unique()) > 8
    sequence, played = pattern.build(wanted), pattern.build(ours)
    both, neither = halves(theirs, sequence[..., :-1], prompts, classes)
    guided = branches(heard, model.lm.config.conditions, 3.0).conditions
    error = (stepped(model.lm, sequence[..., :-1].repeat(2, 1, 1), guided) - torch.cat([both, neither])).abs().max()
    assert error < 1e-4
    best = (neither + 3 * (both - neither)).topk(2).values
    same = sequence == played
    # A doubtful code that fell otherwise changes those after it: compared up to there.
    clear = (best[..., 0] - best[..., 1] > 10 * error) & same.all(1, keepdim=True).cummin(-1).values[..., :-1]
    present = sequence[..., 1:] != pattern.special
    left_out = (present & ~clear).sum() / present.sum()
    print(f"error {error:.1e}, left out {left_out:.2%} of {present.sum()}, {len(wanted.unique())} different codes")
    assert same[..., 1:][present & clear].all()
    assert left_out < 0.05


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """Each kind as transformers' model, its folder, and ours made of it; made when first asked for."""
    made = {}

    def get(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("peer")
            model = musicgen(**KINDS[kind])
            save(model, folder / "hf")
            convert(folder / "hf", folder / "native")
            made[kind] = model, folder / "hf", folder / "native"
        return made[kind]

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(peers, kind):
    theirs, _, native = peers(kind)
    model = load_model(native)
    assert_same_logits(model, theirs, PROMPTS)
    assert_same_logits(model, theirs, PROMPTS[:1])
    assert_same_logits(model, theirs, None)
    assert (model.codec.channels, model.codec.codebooks) == (2 if "stereo" in kind else 1, model.lm.config.codebooks)
    assert model.about["text"]["name"] == "text_encoder"
    if "melody" in kind:
        assert model.conditioners.melody.config.frames == 9


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_over_1500_steps(peers, kind, masked):
    theirs, _, native = peers(kind)
    assert_same_logits_over_1500_steps(load_model(native), theirs, masked, 1500)


@pytest.mark.parametrize("kind", ["mono", "stereo", "melody"])
def test_greedy_codes_are_those_of_generate(peers, kind):
    theirs, _, native = peers(kind)
    # transformers does not hide the padding of a prefix: there the texts are of one length.
    prompts = ["calm piano", "calm viola" if kind == "melody" else "a"]
    assert_same_greedy_codes(load_model(native), theirs, prompts, 24)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(peers, kind, tmp_path):
    theirs, folder, native = peers(kind)
    convert(native, tmp_path / "hf", "hf")
    again = loaded(tmp_path / "hf")
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "hf"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    sequence = torch.randint(17, (2, again.config.decoder.num_codebooks, 9))
    given = sequence, PROMPTS, melodies(2)
    assert torch.equal(logits(again, *given), logits(theirs, *given))
    convert(tmp_path / "hf", tmp_path / "native")
    ours = [load_file(place / "model.safetensors") for place in (native, tmp_path / "native")]
    assert ours[0].keys() == ours[1].keys()
    assert all(torch.equal(ours[0][name], ours[1][name]) for name in ours[0])
    configs = [yaml.safe_load((place / "config.yaml").read_text()) for place in (native, tmp_path / "native")]
    for config in configs:
        del config["converted_from"]
    assert configs[0] == configs[1]
    # The settings are the same but for the dropout, and for what a T5 says of itself alone.
    fields = [json.loads((place / "config.json").read_text()) for place in (folder, tmp_path / "hf")]
    for config in fields:
        del config["decoder"]["dropout"], config["audio_encoder"]["target_bandwidths"]
        for name in ("architectures", "dtype"):
            config["text_encoder"].pop(name, None)
    assert fields[0] == fields[1]


@pytest.mark.parametrize("kind", ["mono", "stereo"])
def test_the_pipeline_of_transformers_plays_an_export(peers, kind, tmp_path):
    from transformers import pipeline

    convert(peers(kind)[2], tmp_path / "hf", "hf")
    said = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    wanted = {"guidance_scale": 3.0, "max_length": 1500, "do_sample": True, "top_k": 250}
    wanted.update(dict.fromkeys(("decoder_start_token_id", "pad_token_id", "bos_token_id"), 16))
    assert {name: said[name] for name in wanted} == wanted
    played = pipeline("text-to-audio", model=str(tmp_path / "hf"))("calm piano", generate_kwargs={"max_new_tokens": 20})
    assert played["sampling_rate"] == 800
    assert played["audio"].squeeze().shape == ((2, 17 * 8) if kind == "stereo" else (17 * 8,))


def test_processor_and_melody_of_an_export(peers, tmp_path):
    from transformers import AutoProcessor

    convert(peers("melody")[2], tmp_path / "hf", "hf")
    processor = AutoProcessor.from_pretrained(tmp_path / "hf")
    model = loaded(tmp_path / "hf")
    tones = torch.sin(torch.arange(40_000) * 0.8), torch.sin(torch.arange(40_000) * 0.9)
    made = []
    for tone in tones:
        given = processor(audio=tone.numpy(), sampling_rate=800, text=["calm piano"], return_tensors="pt")
        assert given["input_features"].shape[-1] == 12
        made.append(model.generate(**given, max_length=24, do_sample=False))
    assert made[0].shape[-1] == 20 * 8
    assert not torch.equal(*made)


def test_ours_with_bytes_survives_the_way_there_and_back(model_folder, tmp_path):
    convert(model_folder, tmp_path / "hf", "hf")
    model = loaded(tmp_path / "hf")
    ours = load_model(model_folder)
    prompts = ["calm piano", "ä"]
    tokens = ours.conditioners.text.tokenizer(prompts, padding=True, return_tensors="pt")
    played = codes(ours.lm)
    sequence = ours.lm.pattern.build(played, trim=True)[..., :-1]
    with torch.no_grad():
        theirs = model(**tokens, decoder_input_ids=sequence.reshape(8, -1)).logits.unflatten(0, (2, 4))
        mine, _ = ours.lm.teacher_forced(played, ours.conditioners(prompts))
    torch.testing.assert_close(theirs, mine, atol=1e-5, rtol=0)
    convert(tmp_path / "hf", tmp_path / "again")
    again = load_model(tmp_path / "again")
    assert again.about["text"] == ours.about["text"]
    for one, two in ((ours.lm, again.lm), (ours.conditioners, again.conditioners), (ours.codec, again.codec)):
        two = two.state_dict()
        assert all(torch.equal(tensor, two[name]) for name, tensor in one.state_dict().items())


def test_half_precision_stays_and_is_half_the_size(tmp_path):
    save(musicgen().half(), tmp_path / "hf")
    theirs = loaded(tmp_path / "hf", dtype=torch.float32)
    convert(tmp_path / "hf", tmp_path / "native")
    assert {tensor.dtype for tensor in load_file(tmp_path / "native" / "model.safetensors").values()} == {torch.float16}
    assert_same_logits(load_model(tmp_path / "native"), theirs)
    convert(tmp_path / "native", tmp_path / "again", "hf")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "again"))
    assert all(torch.equal(before[name].float(), after[name].float()) for name in before)
    assert {after[name].dtype for name in after if name.startswith(("decoder", "enc_to"))} == {torch.float16}
    assert_same_logits(load_model(tmp_path / "native"), loaded(tmp_path / "again"))


def test_single_precision_beside_half_is_not_rounded(tmp_path):
    save(musicgen(), tmp_path / "hf")
    state = load_file(tmp_path / "hf" / "model.safetensors")
    for name in state:
        if name.startswith("text_encoder"):
            state[name] = state[name].half()
    save_file(state, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    convert(tmp_path / "hf", tmp_path / "native")
    convert(tmp_path / "native", tmp_path / "again", "hf")
    encoder = tmp_path / "native" / "text_encoder"
    assert {tensor.dtype for tensor in load_file(encoder / "model.safetensors").values()} == {torch.float32}
    T5EncoderModel.from_pretrained(encoder).half().save_pretrained(encoder)
    convert(tmp_path / "native", tmp_path / "more", "hf")
    for name in ("again", "more"):
        made = loaded(tmp_path / name).state_dict()
        assert all(torch.equal(made[name], tensor.float()) for name, tensor in state.items())


def test_sharded_weights(peers, tmp_path):
    theirs, _, native = peers("mono")
    save(theirs, tmp_path / "hf", max_shard_size="20KB")
    shards = sorted((tmp_path / "hf").glob("model-*.safetensors"))
    assert len(shards) > 2
    convert(tmp_path / "hf", tmp_path / "native")
    ours = [load_file(place / "model.safetensors") for place in (native, tmp_path / "native")]
    assert all(torch.equal(ours[0][name], ours[1][name]) for name in ours[0])
    # In place, where one file takes the place of many: what is left of them would be read first.
    convert(tmp_path / "native", tmp_path / "hf", "hf")
    assert not list((tmp_path / "hf").glob("model-*"))
    loaded(tmp_path / "hf")


def test_files_of_older_releases(peers, tmp_path):
    """The tied table of the text encoder under its other name or both, and a table of positions."""
    theirs, _, native = peers("mono")
    shared = "text_encoder.shared.weight"
    tied = "text_encoder.encoder.embed_tokens.weight"
    for names in ((shared, tied), (tied,)):
        save(theirs, tmp_path / "hf")
        state = load_file(tmp_path / "hf" / "model.safetensors")
        table = state.pop(shared)
        state.update({name: table.clone() for name in names})
        state["decoder.model.decoder.embed_positions.weights"] = torch.zeros(2048, 16)
        save_file(state, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
        convert(tmp_path / "hf", tmp_path / "native")
        assert (tmp_path / "native/text_encoder/model.safetensors").read_bytes() == (
            native / "text_encoder/model.safetensors"
        ).read_bytes()


@pytest.mark.parametrize(
    ("stored", "name"),
    [("t5-base", "google-t5/t5-base"), ("google/flan-t5-base", "google/flan-t5-base"), ("/home/me/t5", "text_encoder")],
)
def test_the_name_of_the_text_encoder(peers, tmp_path, stored, name):
    shutil.copytree(peers("mono")[1], tmp_path / "hf")
    edit(tmp_path / "hf", "text_encoder", _name_or_path=stored)
    convert(tmp_path / "hf", tmp_path / "native")
    convert(tmp_path / "native", tmp_path / "again", "hf")
    assert yaml.safe_load((tmp_path / "native/config.yaml").read_text())["text"]["name"] == name
    again = json.loads((tmp_path / "again/config.json").read_text())["text_encoder"].get("_name_or_path")
    assert again == (None if name == "text_encoder" else name)


def test_more_codebooks_in_the_codec_than_the_model_has(tmp_path):
    theirs = musicgen(books=3)
    save(theirs, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "native")
    model = load_model(tmp_path / "native")
    assert model.codec.codebooks == 3
    assert_same_logits(model, theirs)


@pytest.mark.parametrize("kind", ["mono", "melody"])
def test_padding_that_transformers_treats_otherwise_is_told(peers, kind, tmp_path):
    """Without padding the export is exact all the same."""
    theirs, _, native = peers(kind)
    shutil.copytree(native, tmp_path / "native")
    config = yaml.safe_load((native / "config.yaml").read_text())
    config["lm"]["mask_padded_text"] = not config["lm"]["mask_padded_text"]
    (tmp_path / "native/config.yaml").write_text(yaml.safe_dump(config))
    told = []
    convert(tmp_path / "native", tmp_path / "hf", "hf", tell=told.append)
    assert len(told) == 1
    assert "mask_padded_text" in told[0]
    assert "\n" not in told[0]
    assert ("no text" in told[0]) == (kind == "melody")
    model = load_model(tmp_path / "native")
    assert_same_logits(model, loaded(tmp_path / "hf"), PROMPTS[:1])
    for prompts in (PROMPTS, None):
        assert_same_logits(model, theirs, prompts, masked=kind == "melody")
    with pytest.raises(AssertionError, match="not close"):
        assert_same_logits(model, theirs)
    # Without a text: the half that guidance is away from.
    if kind == "mono":
        assert_same_logits(model, loaded(tmp_path / "hf"), None)
    else:
        with pytest.raises(AssertionError, match="not close"):
            assert_same_logits(model, loaded(tmp_path / "hf"), None)
    told.clear()
    convert(native, tmp_path / "other", "hf", tell=told.append)
    assert not told


def edit(folder, part=None, **fields):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config if part is None else config[part]).update(fields)
    path.write_text(json.dumps(config))


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


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_replaced_whole_and_nothing_else_is(peers, tmp_path):
    for kind in ("mono", "stereo"):
        convert(peers(kind)[1], tmp_path / "native")
        convert(peers(kind)[2], tmp_path / "hf", "hf")
        assert load_model(tmp_path / "native").codec.codebooks == load_model(peers(kind)[2]).codec.codebooks
    assert loaded(tmp_path / "hf").config.decoder.num_codebooks == 8
    # In place; what is not written again goes.
    convert(tmp_path / "native", tmp_path / "native")
    assert load_model(tmp_path / "native").lm.config.codebooks == 8
    save_codec(tmp_path / "codec", tiny.codec())
    (tmp_path / "native" / "training.json").write_text("{}")
    for source, out, to in (
        (peers("mono")[1], "codec", "native"), (tmp_path / "codec", "hf", "hf"), (peers("mono")[1], "native", "native"),
        (peers("mono")[2], "native", "hf"), (peers("mono")[1], "hf", "native"),
    ):  # fmt: skip
        before = files(tmp_path)
        with pytest.raises(InputError, match=f"{out}: is "):
            convert(source, tmp_path / out, to)
        assert files(tmp_path) == before


@pytest.mark.parametrize("to", ["native", "hf"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("there", [False, True])
def test_what_fails_on_the_way_leaves_the_old_model(peers, tmp_path, monkeypatch, to, error, there):
    if there:
        convert(peers("stereo")[2], tmp_path / "out", to)
    before = files(tmp_path)
    save = T5TextEncoder.save if to == "native" else PreTrainedTokenizerBase.save_pretrained

    def stopped(self, folder, **options):
        save(self, folder, **options)
        raise error

    owner, name = (T5TextEncoder, "save") if to == "native" else (PreTrainedTokenizerBase, "save_pretrained")
    monkeypatch.setattr(owner, name, stopped)
    with pytest.raises(error):
        convert(peers("mono")[2], tmp_path / "out", to)
    assert files(tmp_path) == before
    assert (tmp_path / "out").exists() == there


def test_a_name_of_the_hub_comes_from_its_cache_offline(peers, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    home = tmp_path / "cache" / "models--someone--music"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    shutil.copytree(peers("mono")[1], home / "snapshots" / ("0" * 40))
    convert("someone/music", tmp_path / "native")
    assert files(tmp_path / "native").keys() == files(peers("mono")[2]).keys()


def test_the_command(peers, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    theirs, folder, _ = peers("mono")
    parameters = sum(p.numel() for part in (theirs.decoder, theirs.enc_to_dec_proj) for p in part.parameters()) / 1e6
    # transformers warns of every MusicGen's special token, once a process.
    logging.warning_once.cache_clear()
    capfd.readouterr()
    main(["convert", str(folder), "native"])
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out == (
        f"MusicGen, {parameters:.1f} M parameters in 2 layers of 16, pattern delay over 4 x 16 codes, text attended "
        "to, codec 800 Hz mono, text encoder text_encoder: native\n"
    )
    logging.warning_once.cache_clear()
    main(["convert", "native", "hf", "--to", "hf"])
    said = capfd.readouterr()
    assert (said.err, len(said.out.splitlines())) == ("", 1)
    loaded(tmp_path / "hf")
    # What takes long is told, however few its tensors are.
    monkeypatch.setattr("experiments.commands.convert._PATIENCE", 0.0)
    main(["convert", str(peers("melody")[1]), "native"])
    said = capfd.readouterr()
    assert re.search(r"reading tensors .*100%.*\n.*writing .*100%", said.err)
    assert "melody and text before" in said.out
