"""EnCodecs to and from transformers: the same codes and audio on both sides."""

import json
from dataclasses import replace
from math import ceil

import pytest
import tiny
import torch
from foreign_codecs import (
    SHAPES,
    assert_same,
    audio,
    edit,
    folded,
    loaded,
    old_names,
    peer,
    save,
)
from safetensors.torch import load_file, save_file

from datamodules.errors import InputError
from lightning_modules.codec.folder import codec_checksum, load_codec, save_codec
from lightning_modules.converting import codec_huggingface
from lightning_modules.converting.codec_prefix import first_codebooks
from lightning_modules.converting.run import convert


@pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES)
def test_from_transformers_and_back(tmp_path, fields):
    theirs = peer(**fields)
    save(theirs, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "native")
    ours = load_codec(tmp_path / "native")
    assert_same(ours, theirs)
    convert(tmp_path / "native", tmp_path / "again", "hf")
    again = loaded(tmp_path / "again")
    # The codes that it gives without being told a bandwidth, which is what a user does.
    wav = audio(theirs)
    assert torch.equal(again.encode(wav)[0][0], ours.encode(wav))
    before, after = (
        load_file(tmp_path / "hf" / "model.safetensors"),
        load_file(tmp_path / "again" / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    fields = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("hf", "again")]
    for config in fields:
        del config["target_bandwidths"]
    assert fields[0] == fields[1]


@pytest.mark.parametrize("change", [old_names, folded])
def test_other_spellings_of_weight_norm(tmp_path, change):
    theirs = peer(use_conv_shortcut=True)
    convert(save(theirs, tmp_path / "hf", change), tmp_path / "native")
    ours = load_codec(tmp_path / "native")
    assert_same(ours, theirs)
    if change is old_names:
        assert torch.equal(
            ours.decoder[3].conv.parametrizations.weight.original0,
            theirs.decoder.layers[3].conv.parametrizations.weight.original0,
        )


def test_a_folded_weight_of_zeros_stays_zero(tmp_path):
    def change(state):
        state = folded(state)
        for name in ("encoder.layers.0.conv.weight", "decoder.layers.3.conv.weight"):
            state[name][1] = 0
        return state

    convert(save(peer(), tmp_path / "hf", change), tmp_path / "native")
    ours = load_codec(tmp_path / "native")
    for layer in (ours.encoder[0], ours.decoder[3]):
        assert torch.equal(layer.conv.weight[1], torch.zeros_like(layer.conv.weight[1]))
        assert torch.isfinite(layer.conv.weight).all()


def test_half_precision_is_read_as_single(tmp_path):
    half = save(peer(), tmp_path / "hf", lambda state: {name: tensor.half() for name, tensor in state.items()})
    convert(half, tmp_path / "native")
    assert {tensor.dtype for tensor in load_file(tmp_path / "native" / "model.safetensors").values()} == {
        torch.float32,
        torch.bool,
    }
    theirs = peer()
    theirs.load_state_dict({name: tensor.half().float() for name, tensor in theirs.state_dict().items()})
    assert_same(load_codec(tmp_path / "native"), theirs)


@pytest.mark.parametrize("codebooks", [1, 3, 4])
def test_a_prefix_of_the_codebooks(tmp_path, codebooks):
    theirs = peer()
    save(theirs, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "native", codebooks=codebooks)
    ours = load_codec(tmp_path / "native")
    assert ours.config.codebooks == codebooks
    assert_same(ours, theirs, codebooks)
    # The same of a native folder, and back to transformers.
    convert(tmp_path / "hf", tmp_path / "all")
    convert(tmp_path / "all", tmp_path / "prefix", codebooks=codebooks)
    assert codec_checksum(tmp_path / "prefix") == ours.checksum
    convert(tmp_path / "native", tmp_path / "again", "hf")
    assert loaded(tmp_path / "again").config.num_quantizers == codebooks


@pytest.mark.parametrize("codebooks", [0, -1, 5])
def test_codebooks_that_it_does_not_have(tmp_path, codebooks):
    save(peer(), tmp_path / "hf")
    with pytest.raises(InputError, match=f"{codebooks} codebooks: this codec has 4"):
        convert(tmp_path / "hf", tmp_path / "native", codebooks=codebooks)
    assert not (tmp_path / "native").exists()


def test_stereo_by_two_passes(tmp_path):
    theirs = peer()
    save(theirs, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "native", codebooks=3, stereo=True)
    ours = load_codec(tmp_path / "native")
    assert (ours.channels, ours.codebooks) == (2, 6)
    wav = torch.randn(2, 2, 300, generator=torch.Generator().manual_seed(2)) * 0.3
    codes = ours.encode(wav)
    for side in range(2):
        with torch.no_grad():
            wanted = theirs.encode(wav[:, side : side + 1])[0][0, :, :3]
        assert torch.equal(codes[:, side::2], wanted)
    assert not torch.equal(codes[:, 0], codes[:, 1])
    for source in ("native", "hf"):
        with pytest.raises(InputError, match="convert the mono codec"):
            convert(tmp_path / source, tmp_path / "again", "hf", stereo=source == "hf")
    assert not (tmp_path / "again").exists()
    with pytest.raises(InputError, match="needs a mono codec"):
        convert(tmp_path / "native", tmp_path / "more", stereo=True)
    assert first_codebooks(ours, 1).codebooks == 2


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"causal": True, "pad_mode": "constant", "ratios": (5, 2), "codebooks": 3},
        {"channels": 2, "conv_shortcut": True},
    ],
)
def test_ours_survives_the_way_there_and_back(tmp_path, shape):
    codec = tiny.codec(**shape)
    save_codec(tmp_path / "mine", codec)
    convert(tmp_path / "mine", tmp_path / "hf", "hf")
    theirs = loaded(tmp_path / "hf")
    assert_same(codec, theirs, codec.codebooks)
    convert(tmp_path / "hf", tmp_path / "again")
    again = load_codec(tmp_path / "again")
    assert again.checksum == codec.checksum
    assert all(torch.equal(tensor, codec.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_codebooks_that_were_never_filled_stay_so(tmp_path):
    codec = tiny.codec()
    codec.quantizer.initialised.fill_(False)
    save_codec(tmp_path / "mine", codec)
    convert(tmp_path / "mine", tmp_path / "hf", "hf")
    convert(tmp_path / "hf", tmp_path / "again")
    assert not load_codec(tmp_path / "again").quantizer.initialised
    assert codec_checksum(tmp_path / "again") == codec.checksum


def test_the_processor_comes_along(tmp_path):
    from transformers import AutoProcessor

    save_codec(tmp_path / "mine", tiny.codec(channels=2))
    convert(tmp_path / "mine", tmp_path / "hf", "hf")
    processor = AutoProcessor.from_pretrained(tmp_path / "hf")
    assert (processor.sampling_rate, processor.feature_size) == (800, 2)


def test_bandwidths_give_exactly_the_codebooks(tmp_path):
    # 7 books of 11 bits at 13 Hz are 1.001 kbit/s, of which floating point makes 6.
    assert 1000 * 1.001 // (13 * 11) == 6
    codec = tiny.codec(sample_rate=99, codebooks=7, entries=2048)
    save_codec(tmp_path / "mine", codec)
    convert(tmp_path / "mine", tmp_path / "hf", "hf")
    theirs = loaded(tmp_path / "hf")
    wav = torch.randn(1, 1, 800) * 0.3
    assert torch.equal(theirs.encode(wav)[0][0], codec.encode(wav))
    for rate in (8000, 11025, 32000, 44100):
        for hop in (320, 441, 600, 640):
            for entries in (2, 16, 1024, 2048):
                for codebooks in range(1, 40):
                    shape = replace(codec.config, sample_rate=rate, ratios=(hop,), entries=entries)
                    bandwidth = codec_huggingface._bandwidth(replace(shape, codebooks=codebooks))
                    step = ceil(rate / hop) * (entries - 1).bit_length()
                    assert int(1000 * bandwidth // step) == codebooks == int(bandwidth * 1000 / step)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"lstm_layers": 0}, "lstm_layers is 0"),
        ({"entries": 12}, "12 entries.*power of two"),
        ({"channels": 3}, "3 chan"),
    ],
)
def test_ours_that_transformers_has_not(tmp_path, shape, message):
    save_codec(tmp_path / "mine", tiny.codec(**shape))
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "mine", tmp_path / "hf", "hf")
    assert not (tmp_path / "hf").exists()


FIELDS = {
    "group norm": ({"norm_type": "time_group_norm"}, "norm_type is 'time_group_norm'"),
    "normalised audio": ({"normalize": True}, "normalize is True"),
    "chunks": ({"chunk_length_s": 1.0, "overlap": 0.01}, r"chunk_length_s is 1\.0"),
    "trimmed on both sides": ({"trim_right_ratio": 0.5}, r"trim_right_ratio is 0\.5"),
    "padding": ({"pad_mode": "replicate"}, "pad_mode is 'replicate'"),
    "narrower codebooks": ({"codebook_dim": 4}, "codebook_dim is 4"),
    "more entries": (
        {"codebook_size": 32, "target_bandwidths": [2.0]},
        r"embed is \[16, 8\], wanted \[32, 8\]",
    ),
    "more codebooks": ({"target_bandwidths": [2.0]}, r"quantizer\.layers\.4\.codebook\.\w+ is missing"),
    "fewer codebooks": ({"target_bandwidths": [1.2]}, r"quantizer\.layers\.3\.codebook\.\w+ is unknown"),
    "no codebook": ({"target_bandwidths": [0.1]}, "target_bandwidths .* is 0"),
    "no bandwidth": ({"target_bandwidths": []}, "target_bandwidths"),
    "one entry": ({"codebook_size": 1}, "target_bandwidths"),
    "a ratio of nothing": ({"upsampling_ratios": [4, 0]}, "upsampling_ratios"),
    "no ratio": ({"upsampling_ratios": []}, "upsampling_ratios"),
    "no filters": ({"num_filters": 0}, "num_filters is 0"),
    "words": ({"num_filters": "many"}, "num_filters"),
    "another shape": ({"num_filters": 8}, r"encoder\.layers\.\d+\..* wanted"),
    "an enormous shape": ({"num_filters": 10**6}, r"encoder\.layers\.\d+\..* wanted"),
    "another model": ({"model_type": "mimi"}, "model_type is 'mimi'"),
    "a language model": ({"model_type": "musicgen"}, "text_encoder is missing"),
}


@pytest.mark.parametrize(("fields", "message"), FIELDS.values(), ids=FIELDS)
def test_configs_that_our_codec_has_not_are_refused(tmp_path, fields, message):
    edit(save(peer(), tmp_path / "hf"), **fields)
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "hf", tmp_path / "native")
    assert not (tmp_path / "native").exists()


BIAS = "encoder.layers.0.conv.bias"
SPOILED = {
    "missing": (lambda f: save_state(f, drop=BIAS), f"{BIAS} is missing"),
    "a gain missing": (
        lambda f: save_state(f, drop="decoder.layers.3.conv.parametrizations.weight.original0"),
        r"decoder\.layers\.3\.conv\.parametrizations\.weight\.original0 is missing",
    ),
    "a weight missing": (
        lambda f: save_state(f, drop="decoder.layers.3.conv.parametrizations.weight."),
        r"decoder\.layers\.3\.conv\.weight is missing",
    ),
    "unknown": (lambda f: save_state(f, more={"extra": torch.zeros(1)}), "extra is unknown"),
    "misshapen": (lambda f: save_state(f, more={BIAS: torch.zeros(3)}), rf"{BIAS} is \[3\], wanted \[4\]"),
    "cut short": (lambda f: (f / "model.safetensors").write_bytes(b"\x08" * 20), "not readable as safetensors"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "save_pretrained it again"),
    "pickled weights": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "no other file of weights is read",
    ),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "not readable as JSON"),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "not readable as JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "model_type is None"),
    "no config": (lambda f: (f / "config.json").unlink(), "holds no model"),
}


def save_state(folder, drop=None, more=()):
    state = load_file(folder / "model.safetensors")
    left = {name: tensor for name, tensor in state.items() if drop is None or not name.startswith(drop)}
    save_file({**left, **dict(more)}, folder / "model.safetensors")


@pytest.mark.parametrize(("spoil", "message"), SPOILED.values(), ids=SPOILED)
def test_spoiled_folders_are_refused(tmp_path, spoil, message):
    spoil(save(peer(), tmp_path / "hf"))
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "hf", tmp_path / "native")
    assert not (tmp_path / "native").exists()
