"""Layered configs: every cell composes, with the parameters it should have; and what a run is told it will need."""

import itertools

import pytest
import tiny
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from datamodules.errors import InputError
from datamodules.tokens.store import TokenStore
from experiments import training
from experiments.__main__ import main
from experiments.compose import CONFIGS, language_model_layers, layer_path, layers, resolve_layers
from experiments.plan import lines, plan
from lightning_modules.conditioning.text import TextEncoderConfig
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig, parameter_count
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig

PATTERNS = (
    "coarse_first", "delay", "flatten", "parallel", "partial_delay", "partial_flatten", "stereo_delay",
    "stereo_partial_delay",
)  # fmt: skip
PAPER = {"small": 420_371_456, "medium": 1_838_737_920, "large": 3_256_956_928}


def printed(capsys, arguments):
    """The config that ``mgl`` would run with, in Lightning's own words."""
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def fit(*names, **flags):
    words = [word for name in names for word in ("-c", name)]
    return ["fit", *words, "--run", "run", *(word for key, value in flags.items() for word in (f"--{key}", value))]


STORE = {"data.init_args.store": "tokens"}


def sizes():
    return sorted(name.removeprefix("size/") for name in layers() if name.startswith("size/"))


@pytest.mark.parametrize("size", sizes())
def test_every_cell_composes(capsys, size):
    assert {name.removeprefix("pattern/") for name in layers() if name.startswith("pattern/")} == set(PATTERNS)
    own = yaml.safe_load(layer_path(f"size/{size}").read_text())["model"]["init_args"]["lm"]
    # Both text encoders with each size, all patterns with each size.
    for pattern, conditioning in zip(PATTERNS, itertools.cycle(["t5", "bytes"]), strict=False):
        composed = printed(capsys, fit(*language_model_layers(size, pattern, conditioning, "cpu"), **STORE))
        model = composed["model"]["init_args"]
        assert model["lm"]["pattern"] == pattern
        assert {key: model["lm"][key] for key in own} == own
        assert model["text"]["name"] == {"t5": "google-t5/t5-base", "bytes": "bytes"}[conditioning]
        assert composed["trainer"]["max_steps"] == 1_000_000
        assert composed["trainer"]["accelerator"] == "cpu"
        shape, text = LanguageModelConfig(**model["lm"]), TextEncoderConfig(**model["text"])
    with torch.device("meta"):
        module = LanguageModelTraining(shape, text, OptimConfig(**model["optim"]))
    expected = parameter_count(shape, {"text": text.dim})
    assert sum(parameter.numel() for parameter in module.lm.parameters()) == expected
    if size in PAPER:
        assert expected - (text.dim - 768) * shape.dim == PAPER[size]


MELODY = {"small": 319_672_320, "medium": 1_385_625_600, "large": 2_451_480_576}


@pytest.mark.parametrize("size", MELODY)
def test_melody_models_have_the_papers_sizes(capsys, size):
    names = [*language_model_layers(size, "delay", "t5", "cpu"), "conditioning/melody"]
    model = printed(capsys, fit(*names, **STORE))["model"]["init_args"]
    assert (model["lm"]["cross"], model["lm"]["prefix"]) == ([], ["melody", "text"])
    assert model["melody"] == {"frames": 235, "stems": "htdemucs"}
    assert model["attribute_dropout"] == {"melody": 0.5}
    assert parameter_count(LanguageModelConfig(**model["lm"]), {"text": 768, "melody": 12}) == MELODY[size]


def test_text_encoders_by_one_line(capsys):
    for layer, name, kind in (
        ("flan_t5", "google/flan-t5-base", "t5"),
        ("clap", "laion/larger_clap_music", "clap"),
    ):
        composed = printed(capsys, fit(*language_model_layers("small", "delay", layer, "cpu"), **STORE))
        text = composed["model"]["init_args"]["text"]
        assert (text["name"], text["kind"], text["train"]) == (name, kind, False)


@pytest.mark.parametrize("name", layers())
def test_every_layer_is_one_commented_idea(name):
    text = layer_path(name).read_text()
    assert text.startswith("# ")
    assert isinstance(yaml.safe_load(text), dict)


def test_layers_of_one_kind_touch_only_what_is_theirs():
    """So their order within a command never matters."""
    owned = {"size": {"dim", "layers", "heads"}, "pattern": {"pattern"}}
    for name in layers():
        kind = name.partition("/")[0]
        if kind in owned:
            assert set(yaml.safe_load(layer_path(name).read_text())["model"]["init_args"]["lm"]) == owned[kind]


@pytest.mark.parametrize(
    "names",
    [
        ("codec", "codec/encodec_32khz", "cluster/gpus"),
        ("codec", "codec/mid", "cluster/gpus"),
        ("codec", "codec/nano", "cluster/cpu", "demo/codec"),
    ],
)
def test_codec_layers_compose(capsys, names):
    composed = printed(capsys, fit(*names, **{"data.init_args.manifest": "corpus"}))
    assert composed["model"]["class_path"].endswith("CodecTraining")
    assert composed["data"]["init_args"]["sample_rate"] == 32_000
    assert composed["model"]["init_args"]["codec"]["entries"] in (1024, 2048)


def test_later_layers_and_flags_win(capsys, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("trainer: {max_steps: 7}\nmodel: {init_args: {lm: {dim: 64}}}")
    composed = printed(capsys, fit("lm", "size/nano", str(mine), **STORE, **{"model.init_args.lm.heads": "8"}))
    assert composed["trainer"]["max_steps"] == 7
    assert (composed["model"]["init_args"]["lm"]["dim"], composed["model"]["init_args"]["lm"]["heads"]) == (64, 8)


def test_layers_are_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    size = str(CONFIGS / "size" / "nano.yaml")
    assert resolve_layers(["fit", "-c", "size/nano", "--config=size/nano"]) == ["fit", "-c", size, f"--config={size}"]
    (tmp_path / "mine.yaml").touch()
    assert resolve_layers(["-c", "mine.yaml", "x"]) == ["-c", "mine.yaml", "x"]
    for wrong in ("size/huge", "../compose", "/etc/passwd.yaml", "", "size"):
        with pytest.raises(InputError, match="there is no config"):
            resolve_layers(["-c", wrong])


def compose(store, **options):
    asked = {"size": "nano", "data": str(store), "codec": "codec", "text": "bytes", "seed": 5, "run": "r", "dry": True}
    return training.compose(training.Request(**{**asked, **options}))


@pytest.mark.parametrize(("gpus", "accumulate"), [(0, 192), (1, 32), (4, 8), (32, 1)])
def test_192_crops_are_dealt_out(capsys, token_store, monkeypatch, gpus, accumulate):
    monkeypatch.setattr(training, "_gpus", lambda: gpus)
    composed = printed(capsys, compose(token_store).arguments)
    batch = composed["data"]["init_args"]["batch_size"]
    assert batch == (6 if gpus else 1)
    assert composed["trainer"]["accumulate_grad_batches"] == accumulate
    assert batch * max(1, gpus) * accumulate == 192
    assert composed["trainer"]["val_check_interval"] == 2000 * accumulate


def test_a_composition_fits_its_tokens(capsys, token_store):
    made = compose(token_store, pattern="flatten")
    composed = printed(capsys, made.arguments)
    lm = composed["model"]["init_args"]["lm"]
    assert (lm["codebooks"], lm["entries"], lm["pattern"]) == (2, 8, "flatten")
    assert composed["data"]["init_args"]["store"] == str(token_store)
    assert [
        composed["seed_everything"],
        composed["model"]["init_args"]["seed"],
        composed["data"]["init_args"]["seed"],
    ] == [5] * 3
    told = "\n".join(made.lines)
    assert "192 = 1 device x 1 x 192" in told
    assert "REHEARSAL" not in told
    shape = LanguageModelConfig(**lm)
    assert f"{parameter_count(shape, {'text': composed['model']['init_args']['text']['dim']}):,}" in told


def test_a_melody_model_hears_what_its_tokens_heard(capsys, token_store):
    made = compose(token_store, melody=True, run="")
    given = printed(capsys, made.arguments)["model"]["init_args"]
    assert given["lm"]["prefix"] == ["melody", "text"]
    assert given["melody"]["stems"] == TokenStore(token_store).header.stems == ""
    told = "\n".join(made.lines)
    assert "the full mix" in told
    assert "nano-delay-bytes-melody-s5" in told
    shape = LanguageModelConfig(**{**given["lm"], "cross": (), "prefix": ("melody", "text")})
    assert f"{parameter_count(shape, {'text': given['text']['dim'], 'melody': 12}):,}" in told


def test_what_cannot_be_composed_is_refused(tmp_path, token_store, monkeypatch):
    monkeypatch.setattr(training, "_gpus", lambda: 0)
    for options in ({"pattern": "zigzag"}, {"text": "bert"}, {"cluster": "moon"}, {"cluster": "gpus"}, {"codec": ""}):
        with pytest.raises(InputError):
            compose(token_store, **options)
    for store in ("", "  ", tmp_path / "nowhere"):
        with pytest.raises(InputError):
            compose(store)
    with pytest.raises(InputError, match="DRY"):
        compose(tiny.write_manifest(tmp_path / "corpus", [("a", "train", 0.1, "")]))
    monkeypatch.setattr(training, "_gpus", lambda: 5)
    with pytest.raises(InputError, match="5 devices"):
        compose(token_store)


def test_plan_counts_what_there_is():
    shape = LanguageModelConfig(dim=64, layers=3, heads=2, codebooks=4, entries=32)
    figures = plan(shape, {"text": 16}, frames=1500, batch_size=2, crops=6)
    model = LanguageModel(shape, {"text": 16})
    assert figures.parameters == sum(parameter.numel() for parameter in model.parameters())
    # Weights, gradients, two moments, average, four bytes each.
    assert figures.state_bytes == 20 * figures.parameters
    assert (figures.steps, figures.codes) == (1500, 6 * 1500 * 4)
    flat = plan(
        LanguageModelConfig(dim=64, layers=3, heads=2, entries=32, pattern="flatten"),
        {"text": 16},
        frames=1500,
        batch_size=2,
        crops=6,
    )
    assert (flat.steps, flat.codes) == (6000, figures.codes)
    assert flat.flops > 4 * figures.flops
    assert (
        plan(shape, {"text": 16}, frames=1500, batch_size=4, crops=6).activation_bytes == 2 * figures.activation_bytes
    )
    assert any(f"{figures.parameters:,}" in line for line in lines(figures))


def test_planned_arithmetic_is_what_torch_counts():
    shape = LanguageModelConfig(dim=64, layers=3, heads=2, codebooks=4, entries=32)
    model, frames, crops = LanguageModel(shape, {"text": 16}), 12, 2
    # As many text tokens as steps: the plan lets every weight work once a step.
    given = tiny.conditions([frames] * crops)
    with FlopCounterMode(display=False) as counter:
        logits, _ = model.teacher_forced(tiny.codes(crops, frames, entries=32), given)
        logits.sum().backward()
    figures = plan(shape, {"text": 16}, frames=frames, batch_size=crops, crops=crops)
    assert figures.flops == pytest.approx(counter.get_total_flops(), rel=0.1)
