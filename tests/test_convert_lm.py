"""Language models to and from transformers: the same logits and codes on both sides."""

import json
import re
import shutil

import pytest
import tiny
import torch
import yaml
from foreign_models import KINDS, PROMPTS, edit, loaded, logits, melodies, musicgen, save
from safetensors.torch import load_file, save_file
from same_logits import (
    assert_same_greedy_codes,
    assert_same_logits,
    assert_same_logits_over_1500_steps,
    codes,
)
from transformers import PreTrainedTokenizerBase, T5EncoderModel
from transformers.utils import logging

from datamodules.errors import InputError
from experiments.__main__ import main
from lightning_modules.checkpoints import load_model
from lightning_modules.codec.folder import save_codec
from lightning_modules.conditioning.t5 import T5TextEncoder
from lightning_modules.converting.run import convert


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
