"""Files of audiocraft, made of codecs of transformers by its names: the same codes and audio."""

import os
import re
from dataclasses import asdict

import pytest
import tiny
import torch
import yaml
from foreign_codecs import (
    SHAPES,
    assert_same,
    audiocraft_names,
    exported,
    old_names,
    peer,
    save,
    xp_cfg,
)

from datamodules.errors import InputError
from lightning_modules.codec.folder import codec_checksum, load_codec
from lightning_modules.converting.run import convert
from lightning_modules.converting.sources import read_model


@pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES)
def test_from_audiocraft(tmp_path, fields):
    theirs = peer(**fields)
    file = exported(tmp_path / "compression_state_dict.bin", theirs)
    names = torch.load(file, weights_only=True)["best_state"]
    assert "decoder.model.3.convtr.convtr.weight_g" in names  # as the published files have it
    assert "quantizer.vq.layers.0._codebook.embed" in names
    convert(file, tmp_path / "native")
    assert_same(load_codec(tmp_path / "native"), theirs)
    # The same codec by way of transformers is the same folder.
    convert(save(theirs, tmp_path / "hf"), tmp_path / "other")
    assert codec_checksum(tmp_path / "other") == codec_checksum(tmp_path / "native")


def test_other_shapes_of_the_file(tmp_path):
    theirs = peer()
    wanted = read_model(exported(tmp_path / "a.bin", theirs)).state_dict()
    first_release = exported(tmp_path / "b.bin", theirs, lambda p: {k: p[k] for k in ("best_state", "xp.cfg")})
    training = exported(tmp_path / "c.th", theirs, lambda p: {**p, "best_state": {"model": p["best_state"]}})
    (tmp_path / "folder").mkdir()
    exported(tmp_path / "folder" / "compression_state_dict.bin", theirs)
    for source in (first_release, training, tmp_path / "folder"):
        state = read_model(source).state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in wanted.items())


def test_convolutions_without_a_norm(tmp_path):
    theirs = peer()
    state = audiocraft_names(theirs)
    for place in ("encoder.model.0.conv.conv", "decoder.model.3.convtr.convtr"):
        gain, direction = state.pop(f"{place}.weight_g"), state.pop(f"{place}.weight_v")
        state[f"{place}.weight"] = torch._weight_norm(direction, gain, 0)
    config = xp_cfg(theirs).replace("disable_norm_outer_blocks: 0", "disable_norm_outer_blocks: 1")
    assert_same(read_model(exported(tmp_path / "c.bin", theirs, config=config, state=state)), theirs)


def test_what_a_config_leaves_out_is_audiocrafts_default(tmp_path):
    # SEANet's own defaults, which its configs override: reflection, no LSTM, true skip, three residual units.
    codec = tiny.codec(lstm_layers=0, residual_units=3)
    state = {}
    for name, tensor in codec.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "quantizer":
            rest = re.sub(r"codebooks\.(\d+)\.", r"vq.layers.\1._codebook.", rest)
            for ours, theirs in (("entries", "embed"), ("size", "cluster_size"), ("total", "embed_avg")):
                rest = rest.replace(f"_codebook.{ours}", f"_codebook.{theirs}")
            state[f"quantizer.{rest}"] = tensor
        else:
            inner = "convtr.convtr" if part == "decoder" and re.match(r"(2|7)\.", rest) else "conv.conv"
            state[f"{part}.model.{rest.replace('conv.', f'{inner}.')}"] = tensor
    del state["quantizer.initialised"]
    for k in range(4):
        state[f"quantizer.vq.layers.{k}._codebook.inited"] = torch.ones(1)
    state = old_names(state)
    config = {
        "sample_rate": 800, "compression_model": "encodec", "encodec": {"autoencoder": "seanet", "quantizer": "rvq"},
        "seanet": {"dimension": 8, "n_filters": 4, "ratios": [4, 2], "norm": "weight_norm"},
        "rvq": {"n_q": 4, "bins": 16},
    }  # fmt: skip
    read = read_model(exported(tmp_path / "c.bin", None, config=yaml.safe_dump(config), state=state))
    assert asdict(read.config) == asdict(codec.config)
    assert all(torch.equal(tensor, codec.state_dict()[name]) for name, tensor in read.state_dict().items())


CONFIGS = {
    "another model": ("compression_model: encodec", "compression_model: dac", "compression_model is 'dac'"),
    "another quantizer": ("quantizer: rvq", "quantizer: no_quant", "encodec.quantizer is 'no_quant'"),
    "normalised audio": ("renormalize: false", "renormalize: true", "encodec.renormalize is True"),
    "group norm": ("norm: weight_norm", "norm: time_group_norm", "seanet.norm is 'time_group_norm'"),
    "activation": ("activation: ELU", "activation: ReLU", "seanet.activation is 'ReLU'"),
    "another slope": ("alpha: 1.0", "alpha: 0.5", "seanet.activation_params is {'alpha': 0.5}"),
    "trimmed on both sides": ("trim_right_ratio: 1.0", "trim_right_ratio: 0.5", r"trim_right_ratio is 0\.5"),
    "final activation": ("final_activation: null", "final_activation: Tanh", "final_activation is 'Tanh'"),
    "padding": ("pad_mode: reflect", "pad_mode: circular", "seanet.pad_mode is 'circular'"),
    "one side alone": ("encoder: {}", "encoder: {n_filters: 8}", "seanet.encoder.n_filters is 8"),
    "a circle": ("causal: false", "causal: ${seanet.causal}", "encodec.causal.*cannot be followed|seanet.causal.*"),
    "nowhere": ("${sample_rate}", "${hertz}", "encodec.sample_rate is '${hertz}', which cannot be followed"),
    "a resolver": ("${channels}", "${oc.env:CHANNELS}", "cannot be followed"),
    "words": ("n_filters: 4", "n_filters: many", "seanet.n_filters is 'many'"),
    "no codebooks": ("n_q: 4", "n_q: 0", "rvq.n_q is 0"),
    "more codebooks": ("n_q: 4", "n_q: 5", r"quantizer\.vq\.layers\.4\._codebook\.\w+ is missing"),
    "fewer codebooks": ("n_q: 4", "n_q: 3", r"quantizer\.vq\.layers\.3\._codebook\.\w+ is unknown"),
    "more entries": ("bins: 16", "bins: 32", r"_codebook\.\w+ is \[16(, 8)?\], wanted \[32"),
    "broken YAML": ("rvq:", "rvq: [", "not readable as YAML"),
    "no mapping": ("", None, "not a config"),
}


@pytest.mark.parametrize(("old", "new", "message"), CONFIGS.values(), ids=CONFIGS)
def test_audiocraft_configs_that_our_codec_has_not_are_refused(tmp_path, old, new, message):
    theirs = peer()
    config = "- 1" if new is None else xp_cfg(theirs).replace(old, new)
    assert config != xp_cfg(theirs)
    file = exported(tmp_path / "c.bin", theirs, config=config)
    with pytest.raises(InputError, match=message.replace("${", r"\$\{").replace("{'", r"\{'")) as told:
        convert(file, tmp_path / "native")
    assert str(told.value).startswith(str(file))
    assert not (tmp_path / "native").exists()


class Trap:
    """What a stranger's pickle can be: a call."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def changed(package, drop=None, **more):
    state = {**package["best_state"], **more}
    state.pop(drop, None)
    return {**package, "best_state": state}


PACKAGES = {
    "a name of another": (lambda p: {"pretrained": "facebook/encodec_32khz"}, "mgl convert facebook/encodec_32khz OUT"),
    "a name of its own": (lambda p: {"pretrained": "dac_44khz"}, "mgl convert descript/dac_44khz OUT"),
    "no config": (lambda p: {"best_state": p["best_state"]}, "no xp.cfg"),
    "no state": (lambda p: {"xp.cfg": p["xp.cfg"]}, "no best_state"),
    "a tensor": (lambda p: torch.zeros(3), "not a model that audiocraft exported"),
    "missing": (
        lambda p: {
            **p,
            "best_state": {k: v for k, v in p["best_state"].items() if k != "encoder.model.0.conv.conv.bias"},
        },
        r"encoder\.model\.0\.conv\.conv\.bias is missing",
    ),
    "unknown": (lambda p: changed(p, extra=torch.zeros(1)), "extra is unknown"),
    "misshapen": (
        lambda p: {
            **p,
            "best_state": {**p["best_state"], "decoder.model.3.convtr.convtr.weight_g": torch.ones(8, 1, 1)},
        },
        r"decoder\.model\.3\.convtr\.convtr\.weight_g is \[8, 1, 1\], wanted \[16, 1, 1\]",
    ),
}


@pytest.mark.parametrize(("package", "message"), PACKAGES.values(), ids=PACKAGES)
def test_spoiled_files_are_refused(tmp_path, package, message):
    file = exported(tmp_path / "c.bin", peer(), package)
    with pytest.raises(InputError, match=message):
        convert(file, tmp_path / "native")
    assert not (tmp_path / "native").exists()


def test_nothing_of_a_strangers_file_runs(tmp_path):
    file = exported(tmp_path / "c.bin", peer(), lambda p: {**p, "more": Trap(tmp_path / "sprung")})
    with pytest.raises(InputError, match=r"not a file of tensors.*export_encodec.*export_lm"):
        convert(file, tmp_path / "native")
    assert not (tmp_path / "sprung").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "sprung").exists()  # the trap is one


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04" + b"\x00" * 60, b"\x80\x02}"])
def test_files_that_torch_does_not_know_are_refused(tmp_path, content):
    (tmp_path / "c.bin").write_bytes(content)
    with pytest.raises(InputError, match="not a file of tensors"):
        convert(tmp_path / "c.bin", tmp_path / "native")
