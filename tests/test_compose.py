"""Layered configs: every cell composes, with the parameters it should have; and what a run is told it will need."""

import itertools
import json

import pytest
import tiny
import torch
import yaml

from datamodules.errors import InputError
from datamodules.tokens.store import TokenStore
from experiments import training
from experiments.__main__ import main
from experiments.compose import CONFIGS, language_model_layers, layer_path, layers, resolve_layers
from experiments.planning.here import Here
from lightning_modules.codec.folder import save_codec
from lightning_modules.conditioning.text import TextEncoderConfig
from lightning_modules.lm.model import LanguageModelConfig, parameter_count
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
    assert model["melody"] == {"frames": 235, "stems": "htdemucs", "spread": 0.0}
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
    beside = {"size": {"position_scale"}, "pattern": set()}  # what a layer may have, and no other kind has
    for name in layers():
        kind = name.partition("/")[0]
        if kind in owned:
            found = set(yaml.safe_load(layer_path(name).read_text())["model"]["init_args"]["lm"])
            assert owned[kind] <= found <= owned[kind] | beside[kind]


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


def test_the_papers_layers_are_the_papers_recipe(capsys):
    """MusicGen, section 3.1, and audiocraft's configs: reference of every number of the optimisation."""
    composed = printed(capsys, fit(*language_model_layers("small", "delay", "t5", "gpus"), **STORE))
    model, trainer = composed["model"]["init_args"], composed["trainer"]
    assert OptimConfig(**model["optim"]) == OptimConfig(1e-4, [0.9, 0.95], 0.1, 4000, 0.0, "adamw")
    assert (trainer["max_steps"], trainer["gradient_clip_val"], trainer["gradient_clip_algorithm"]) == (
        1_000_000,
        1.0,
        None,  # by norm
    )
    assert (composed["average"]["decay"], composed["average"]["every"]) == (0.99, 10)
    assert (model["condition_dropout"], composed["data"]["init_args"]["seconds"]) == (0.2, 30.0)
    assert (trainer["precision"], training.GLOBAL_BATCH) == ("bf16-mixed", 192)
    assert trainer["strategy"]["init_args"]["gradient_as_bucket_view"] is True


def test_layers_beside_the_default(capsys):
    layers = language_model_layers("small", "delay", "t5", "gpus")
    composed = printed(capsys, fit(*layers, "optim/dadaptation", "precision/16-mixed", **STORE))
    optim = composed["model"]["init_args"]["optim"]
    assert (optim["algorithm"], optim["lr"], optim["betas"]) == ("dadaptation", 1.0, [0.9, 0.95])
    assert composed["trainer"]["precision"] == "16-mixed"


@pytest.fixture
def store(tmp_path):
    """Tokens, and beside them the codec that wrote them."""
    folder = tiny.write_store(tmp_path / "tokens", frame_rate=100.0)
    save_codec(tmp_path / "codec", made := tiny.codec(codebooks=2, entries=8))
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "codec": made.checksum}))
    return folder


@pytest.fixture
def gpus(monkeypatch):
    """As many GPUs as said."""

    def have(count, name="", gib=None):
        monkeypatch.setattr(training, "look", lambda: Here(count, name, gib and gib * 2**30))

    have(0)
    return have


def compose(store, *arguments, **options):
    codec = str(store.parent / "codec") if store and hasattr(store, "parent") else "codec"
    asked = {"size": "nano", "data": str(store), "codec": codec, "text": "bytes", "seed": 5, "run": "r", "dry": True}
    return training.compose(training.Request(**{**asked, **options, "arguments": arguments}))


def told(made):
    """The lines by their names."""
    return {line[:14].strip(): line[14:] for line in made.lines}


@pytest.mark.parametrize(("count", "batch", "accumulate"), [(0, 1, 192), (1, 6, 32), (4, 6, 8), (32, 6, 1), (64, 3, 1)])
def test_192_crops_are_dealt_out(capsys, store, gpus, count, batch, accumulate):
    gpus(count)
    composed = printed(capsys, compose(store).arguments)
    assert composed["data"]["init_args"]["batch_size"] == batch
    assert composed["trainer"]["accumulate_grad_batches"] == accumulate
    assert batch * max(1, count) * accumulate == 192
    assert composed["trainer"]["val_check_interval"] == 2000 * accumulate


def test_what_fits_is_dealt_out(capsys, store, gpus):
    gpus(8, "NVIDIA H100 80GB HBM3", 79.6)
    large = compose(store, size="small")
    assert printed(capsys, large.arguments)["data"]["init_args"]["batch_size"] == 12
    assert "GPU-hours for 1,000,000 steps" in told(large)["time"]
    gpus(8, "NVIDIA A10G", 22.5)
    small = compose(store, size="small")
    assert printed(capsys, small.arguments)["data"]["init_args"]["batch_size"] == 3
    assert "WARNING" not in told(small)["memory"]
    # 3.3B whole on each such GPU: nothing helps. Sharded, which is what is chosen, recomputing does; and for 300M on a
    # smaller one. What was asked for stays.
    assert "WARNING: too much; no batch fits" in told(compose(store, size="large", cluster="gpus"))["memory"]
    sharded = told(compose(store, size="large"))
    assert "8 x NVIDIA A10G, FSDP2 all" in sharded["devices"]
    assert "WARNING" not in sharded["memory"]
    assert sharded["recompute"] == "2 blocks at a time: not one crop fits otherwise"
    gpus(8, "A card", 10.5)
    tight = compose(store, size="small")
    assert "WARNING" not in told(tight)["memory"]
    assert "time" not in told(tight)
    assert printed(capsys, tight.arguments)["model"]["init_args"]["recompute"] == 2
    asked = compose(store, "--model.init_args.recompute", "0", size="small")
    assert (
        "WARNING: too much; ARGS='--model.init_args.recompute 2 --data.init_args.batch_size 1'" in told(asked)["memory"]
    )
    assert printed(capsys, asked.arguments)["model"]["init_args"]["recompute"] == 0


def test_further_arguments_win_and_are_counted(capsys, store, gpus, tmp_path):
    gpus(4)
    made = compose(store, "--data.init_args.batch_size", "2", "--trainer.max_steps=7")
    composed = printed(capsys, made.arguments)
    assert composed["data"]["init_args"]["batch_size"] == 2
    assert composed["trainer"]["accumulate_grad_batches"] == 24
    assert composed["trainer"]["max_steps"] == 7
    mine = tmp_path / "mine.yaml"
    mine.write_text("trainer: {accumulate_grad_batches: 3}\nmodel: {init_args: {lm: {dim: 64}}}")
    made = compose(store, "-c", str(mine))
    composed = printed(capsys, made.arguments)
    assert composed["trainer"]["accumulate_grad_batches"] == 3
    assert "72 = 4 devices x 6 x 3 micro-batches; the recipe has 192" in told(made)["batch"]
    shape = LanguageModelConfig(**composed["model"]["init_args"]["lm"])
    assert f"{parameter_count(shape, {'text': 128}):,}" in told(made)["model"]


def test_a_composition_fits_its_tokens(capsys, store, gpus):
    made = compose(store, pattern="flatten")
    composed = printed(capsys, made.arguments)
    lm = composed["model"]["init_args"]["lm"]
    assert (lm["codebooks"], lm["entries"], lm["pattern"]) == (2, 8, "flatten")
    assert composed["data"]["init_args"]["store"] == str(store)
    assert [
        composed["seed_everything"],
        composed["model"]["init_args"]["seed"],
        composed["data"]["init_args"]["seed"],
    ] == [5] * 3
    lines = told(made)
    assert "192 = 1 device x 1 x 192" in lines["batch"]
    assert "REHEARSAL" not in lines
    assert "5 are shorter than the 30 s of a window" in lines["data"]
    shape = LanguageModelConfig(**lm)
    assert f"{parameter_count(shape, {'text': composed['model']['init_args']['text']['dim']}):,}" in lines["model"]


def test_a_melody_model_hears_what_its_tokens_heard(capsys, store, gpus):
    made = compose(store, melody=True, run="")
    given = printed(capsys, made.arguments)["model"]["init_args"]
    assert given["lm"]["prefix"] == ["melody", "text"]
    assert given["melody"]["stems"] == TokenStore(store).header.stems == ""
    lines = told(made)
    assert "the full mix" in lines["melody"]
    assert "nano-delay-bytes-melody-s5" in lines["run"]
    shape = LanguageModelConfig(**{**given["lm"], "cross": (), "prefix": ("melody", "text")})
    assert f"{parameter_count(shape, {'text': given['text']['dim'], 'melody': 12}):,}" in lines["model"]


def test_what_cannot_be_composed_is_refused(tmp_path, store, gpus):
    for options in ({"pattern": "zigzag"}, {"text": "bert"}, {"cluster": "moon"}, {"cluster": "gpus"}, {"codec": ""}):
        with pytest.raises(InputError):
            compose(store, **options)
    for nowhere in ("", "  ", tmp_path / "nowhere"):
        with pytest.raises(InputError):
            compose(nowhere)
    with pytest.raises(InputError, match="DRY"):
        compose(tiny.write_manifest(tmp_path / "corpus", [("a", "train", 0.1, "")]))
    with pytest.raises(InputError, match="float16 is for GPUs"):
        compose(store, "-c", "precision/16-mixed")
    save_codec(tmp_path / "other", tiny.codec(codebooks=2, entries=8, dim=4))
    with pytest.raises(InputError, match="the tokens come from codec"):
        compose(store, codec=str(tmp_path / "other"))
    gpus(5)
    with pytest.raises(InputError, match="5 devices; take 4 or 6 devices, or 190 or 195 crops"):
        compose(store)
    gpus(4)
    with pytest.raises(InputError, match="no whole micro-batches of 5; take 4 or 6"):
        compose(store, "--data.init_args.batch_size=5")
    with pytest.raises(InputError, match="asks for 16 GPUs, and this machine has 4"):
        compose(store, "--trainer.devices", "16")
    gpus(4, "Tesla V100-SXM2-16GB", 16)
    with pytest.raises(InputError, match="precision/16-mixed"):
        compose(store)
    assert "16-mixed" in told(compose(store, "-c", "precision/16-mixed"))["devices"]


def test_processes_of_a_launcher_do_not_each_write_tokens(tmp_path, gpus, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("WORLD_SIZE", "8")
    corpus = tiny.write_manifest(tmp_path / "corpus", [("a", "train", 0.1, "")])
    with pytest.raises(InputError, match="8 processes are started; first `make tokens"):
        compose(corpus, dry=False, run=str(tmp_path / "run"))
