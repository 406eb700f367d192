"""Fine-tuning: whole or with adapters, from a model folder to one, and what it refuses."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from safetensors.torch import load_file

from datamodules.errors import InputError
from datamodules.tokens import TokenDataModule
from experiments import training
from experiments.__main__ import main
from experiments.call import call
from experiments.commands.finetune import finetune
from experiments.planning.here import Here
from experiments.runs import Run, restore
from lightning_modules.callbacks import SaveOnExit, WeightAverage
from lightning_modules.checkpoints import TEXT_ENCODER, load_model, save_model
from lightning_modules.codec.folder import save_codec
from lightning_modules.conditioning.conditioners import Conditioners
from lightning_modules.conditioning.t5 import T5TextEncoder
from lightning_modules.conditioning.text import TextEncoderConfig
from lightning_modules.lm.adapters import LAYERS, AdapterConfig
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.model_folders import file_checksum
from lightning_modules.optim import OptimConfig

pytestmark = pytest.mark.usefixtures("trains_here")

STEPS, RANK, ALPHA = 6, 3, 12.0
LORA = AdapterConfig(RANK, ALPHA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and tokens that its codec wrote."""
    place = tmp_path_factory.mktemp("finetune")
    store = tiny.write_store(place / "tokens", frame_rate=100.0)
    save_codec(place / "codec", codec := tiny.codec(codebooks=2, entries=8))
    index = json.loads((store / "index.json").read_text())
    (store / "index.json").write_text(json.dumps({**index, "codec": codec.checksum}))
    lm, about = tiny.language_model(codebooks=2, entries=8), {"licence": "CC0", "window": 0.2}
    save_model(place / "model", lm, tiny.TEXT, tiny.conditioners(), place / "codec", about)
    return place


class Interruption(Callback):
    def __init__(self, step):
        self.step, self.losses = step, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


def module_of(folder, lora=LORA, **options):
    shape = yaml.safe_load((folder / "model" / "config.yaml").read_text())["lm"]
    shape = LanguageModelConfig(**{**shape, "cross": ("text",), "prefix": ()})
    given = {"lm": shape, "text": tiny.TEXT, "optim": OptimConfig(lr=1e-2, warmup_steps=1)}
    return LanguageModelTraining(**{**given, "start_from": str(folder / "model"), "lora": lora, **options})


def fit(folder, out, module, *, precision="32-true", interrupt=0, checkpoint=None):
    data = TokenDataModule(str(folder / "tokens"), seconds=0.2, batch_size=2, workers=0, valid_items=2)
    average, diary = WeightAverage(0.9, 2), Interruption(interrupt)
    trainer = Trainer(
        accelerator="cpu", devices=1, precision=precision, max_steps=STEPS, max_epochs=-1, val_check_interval=2,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0, default_root_dir=out,
        use_distributed_sampler=False, callbacks=[average, SaveOnExit(str(out / "last.ckpt")), diary],
    )  # fmt: skip
    with pytest.raises(SystemExit) if interrupt else nullcontext():
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=checkpoint is not None)
    return trainer, average, diary.losses


def adapters(module):
    return {name: parameter for name, parameter in module.named_parameters() if "lora_" in name}


def by_hand(module, name, base):
    """A weight plus its adapter's product, in double precision."""
    layer = name.removesuffix(".weight")
    down, up = (module.lm.get_parameter(f"{layer}.lora_{one}.default.weight").detach().double() for one in "AB")
    return base.double() + ALPHA / RANK * up @ down


def test_a_fine_tuning_begins_as_the_model(folder):
    model = load_model(folder / "model")
    codes, given = tiny.codes(3, 20, codebooks=2, entries=8), model.conditions(["a flute", "", "drums"])
    expected, _ = model.lm.logits(codes, given)
    for lora in (None, LORA):
        module = module_of(folder, lora).eval()
        torch.testing.assert_close(module.conditioners(["a flute", "", "drums"])["text"], given["text"])
        logits, _ = module.lm.logits(codes, given)
        assert torch.equal(logits, expected)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_adapters_alone_are_trained_and_merged_on_export(folder, tmp_path, precision):
    module = module_of(folder)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained == set(adapters(module))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained} == set(LAYERS)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    trainer, average, _ = fit(folder, tmp_path, module, precision=precision)
    for name, parameter in module.named_parameters():
        held = precision == "bf16-mixed" and "base_layer" in name
        assert parameter.dtype == (torch.bfloat16 if held else torch.float32), name
        assert torch.equal(parameter, before[name].to(parameter.dtype)) == (name not in trained), name
    assert len(trainer.optimizers[0].state) == len(average._average) == len(trained)
    norms = {parameter for part in module.parts().values() for parameter in part}
    assert norms == set(adapters(module).values())

    now = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    module.export(tmp_path / "out")
    assert all(torch.equal(parameter, now[name]) for name, parameter in module.named_parameters())
    exported, base = (load_file(place / "model.safetensors") for place in (tmp_path / "out", folder / "model"))
    assert exported.keys() == base.keys()
    for name, tensor in base.items():
        if name.split(".")[-2] in LAYERS:
            assert not torch.equal(exported[name], tensor)
            torch.testing.assert_close(exported[name].double(), by_hand(module, name, tensor), atol=1e-6, rtol=1e-6)
        else:
            assert torch.equal(exported[name], tensor), name

    model, codes = load_model(tmp_path / "out"), tiny.codes(2, 20, codebooks=2, entries=8)
    given = model.conditions(["a flute", "drums"])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        adapted, _ = module.eval().lm.logits(codes, given)
    close = 1e-5 if precision == "32-true" else 0.05
    torch.testing.assert_close(model.lm.logits(codes, given)[0], adapted.float(), atol=close, rtol=close)
    assert (adapted.float() - load_model(folder / "model").lm.logits(codes, given)[0]).abs().max() > 4 * close


def test_clips_within_the_run_are_those_of_the_export(folder, tmp_path):
    module = module_of(folder)
    fit(folder, tmp_path, module)
    module.export(tmp_path / "out")
    asked = {"prompts": ["a flute"], "duration": 0.2, "guidance": 1.0, "greedy": True}
    within, after, before = (
        model.generate_codes(**asked)[0]
        for model in (module.music_model("now"), load_model(tmp_path / "out"), load_model(folder / "model"))
    )
    assert torch.equal(within, after)
    assert not torch.equal(within, before)


def test_an_interrupted_run_goes_on_and_its_checkpoint_is_small(folder, tmp_path):
    seed_everything(0, verbose=False)
    straight = module_of(folder)
    _, average, losses = fit(folder, tmp_path, straight)
    seed_everything(0, verbose=False)
    _, _, first = fit(folder, tmp_path, module_of(folder), interrupt=3)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert {name for name in state if "base._extra" not in name} == set(adapters(straight))
    resumed = module_of(folder)  # with other adapters, which the checkpoint's replace
    _, again, rest = fit(folder, tmp_path, resumed, checkpoint=str(tmp_path / "last.ckpt"))
    assert first + rest == losses
    assert len(set(losses)) == STEPS
    for name, parameter in adapters(straight).items():
        assert torch.equal(adapters(resumed)[name], parameter)
    assert all(torch.equal(*pair) for pair in zip(average._average, again._average, strict=True))


def test_adapters_are_not_put_beside_other_weights(folder, tmp_path):
    fit(folder, tmp_path, module_of(folder), interrupt=3)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    save_model(
        tmp_path / "model", tiny.language_model(codebooks=2, entries=8, seed=1), tiny.TEXT, tiny.conditioners(),
        folder / "codec",
    )  # fmt: skip
    other = module_of(tmp_path)
    with pytest.raises(InputError, match="weights have changed since this run began"):
        other.load_state_dict(state)
    with pytest.raises(RuntimeError, match="lora_A"):
        module_of(folder).load_state_dict({name: tensor for name, tensor in state.items() if "lora_A" not in name})


def test_a_whole_model_is_trained_and_the_first_one_stays(folder, tmp_path):
    checksum = file_checksum(folder / "model" / "model.safetensors")
    module = module_of(folder, None)
    fit(folder, tmp_path, module)
    assert file_checksum(folder / "model" / "model.safetensors") == checksum
    module.export(tmp_path / "out")
    exported, base = (load_file(place / "model.safetensors") for place in (tmp_path / "out", folder / "model"))
    assert all(not torch.equal(exported[name], tensor) for name, tensor in base.items())
    encoders = [
        load_file(place / "text_encoder" / "model.safetensors") for place in (tmp_path / "out", folder / "model")
    ]
    assert not torch.equal(encoders[0]["shared.weight"], encoders[1]["shared.weight"])
    about = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert (about["licence"], about["window"]) == ("CC0", 0.2)
    assert about["fine_tuned_from"] == {"model": str(folder / "model"), "checksum": checksum, "lora": None}


def test_a_frozen_text_encoder_of_the_folder_comes_along(folder, tmp_path, monkeypatch):
    """As converted models have one that is on no hub, under no name of its own."""
    monkeypatch.setattr(training, "look", lambda: Here(0))
    encoder, text = tiny.text_encoder(), TextEncoderConfig(TEXT_ENCODER)
    frozen = T5TextEncoder(encoder.model, encoder.tokenizer, trained=False, max_tokens=256)
    lm = tiny.language_model(codebooks=2, entries=8)
    save_model(tmp_path / "model", lm, text, Conditioners(frozen), folder / "codec", whole=True)
    lines = told(compose(tmp_path, data=str(folder / "tokens")))
    parameters = sum(parameter.numel() for parameter in frozen.parameters())
    assert lines["text"] == f"text_encoder, {parameters:,} parameters, frozen: in the model's folder"
    for lora in (None, LORA):
        module = module_of(tmp_path, lora, text=text)
        assert not any("conditioners" in name for name, _ in module.named_parameters())
        module.export(tmp_path / "out")
        assert load_model(tmp_path / "out").conditioners.text.checksum == frozen.checksum


def test_modules_refuse_what_makes_no_sense(folder, tmp_path):
    wrong = LanguageModelConfig(dim=16, layers=2, heads=2, ff_ratio=2, codebooks=2, entries=8)
    with pytest.raises(
        InputError, match=r"another shape than the run's: lm\.dim is 32 there and 16 here; name its own"
    ):
        module_of(folder, lm=wrong)
    with pytest.raises(InputError, match=r"text\.name is 'bytes' there and None here"):
        module_of(folder, text=None)
    save_codec(tmp_path / "other", tiny.codec(codebooks=2, entries=8, dim=4))
    with pytest.raises(InputError, match="trained on the codes of another codec"):
        module_of(folder, codec=str(tmp_path / "other"))
    with pytest.raises(InputError, match="name it as start_from"):
        module_of(folder, start_from="")
    with pytest.raises(InputError, match="D-Adaptation"):
        module_of(folder, optim=OptimConfig(algorithm="dadaptation"))
    for shape in (AdapterConfig(0), AdapterConfig(4, 0.0)):
        with pytest.raises(InputError, match="rank of 1 or more, alpha above 0"):
            module_of(folder, shape)


def composed(capsys, made):
    """The config that ``mgl`` would run with."""
    with pytest.raises(SystemExit):
        main([*made.arguments, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


def compose(folder, *arguments, **options):
    asked = {"model": str(folder / "model"), "data": str(folder / "tokens"), "dry": True, "arguments": arguments}
    return training.compose(training.Request(**{**asked, **options}))


def told(made):
    return {line[:14].strip(): line[14:] for line in made.lines}


def test_a_composition_is_the_models(folder, capsys, monkeypatch):
    monkeypatch.setattr(training, "look", lambda: Here(0))
    made = compose(folder, "--trainer.max_steps=9", lora=4, seed=3)
    config = composed(capsys, made)
    model, saved = config["model"]["init_args"], yaml.safe_load((folder / "model" / "config.yaml").read_text())
    assert {name: model[name] for name in ("lm", "text", "melody")} == {n: saved[n] for n in ("lm", "text", "melody")}
    assert (model["start_from"], model["codec"]) == (str(folder / "model"), str(folder / "model" / "codec"))
    assert (model["lora"], model["optim"]["lr"]) == ({"rank": 4, "alpha": 32.0}, 3e-4)
    assert (config["data"]["init_args"]["seconds"], config["trainer"]["max_steps"]) == (0.2, 9)
    assert config["trainer"]["val_check_interval"] == 200 * 32
    assert made.run == f"runs/finetune-{folder.name}-lora4-s3"
    lines = told(made)
    assert "bytes, " in lines["text"]
    assert "frozen: in the model's folder" in lines["text"]
    assert "32 = 1 device x 1 x 32" in lines["batch"]
    assert "of rank 4; they alone are trained" in lines["adapters"]
    whole = composed(capsys, compose(folder))["model"]["init_args"]
    assert (whole["lora"], whole["optim"]["lr"], whole["optim"]["warmup_steps"]) == (None, 1e-5, 100)


def test_where_not_one_crop_fits_activations_are_recomputed(folder, capsys, monkeypatch):
    for gib, blocks in ((8.0, 0), (0.0006, 2)):
        monkeypatch.setattr(training, "look", lambda gib=gib: Here(1, "A card", gib * 2**30))
        made = compose(folder, lora=16)
        assert composed(capsys, made)["model"]["init_args"]["recompute"] == blocks, told(made)["memory"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model": "nowhere"}, "not a model folder"),
        ({"model": "CODEC"}, "is of kind 'codec', wanted 'language_model'"),
        ({"model": ""}, "MODEL is empty"),
        ({"data": " "}, "DATA is empty; give a token store or a manifest"),
        ({"data": "OTHERS"}, "the tokens come from codec cccccccccccc"),
        ({"lora": "0"}, "rank 0; give 1 or more"),
        ({"lora": "4", "args": "-c optim/dadaptation"}, "D-Adaptation"),
        ({"lora": "4", "cluster": "sharded_cpu"}, "not sharded; take cluster/gpus"),
    ],
)
def test_what_cannot_be_fine_tuned_is_refused(folder, tmp_path, monkeypatch, flags, message):
    monkeypatch.setattr(training, "look", lambda: Here(0))
    others = tiny.write_store(tmp_path / "others", frame_rate=100.0)
    names = {"CODEC": str(folder / "codec"), "OTHERS": str(others)}
    given = {"model": str(folder / "model"), "data": str(folder / "tokens"), "run": str(tmp_path / "run"), **flags}
    with pytest.raises(InputError, match=message):
        call(finetune, "finetune", [f"--{name}={names.get(value, value)}" for name, value in given.items()])
    assert not (tmp_path / "run").exists()


def test_the_command_from_a_model_to_a_model(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "look", lambda: Here(0))
    run = tmp_path / "run"
    args = "--trainer.max_steps 3 --trainer.accumulate_grad_batches 2 --checkpoint.every_n_train_steps 1 "
    args += "--average.every 1 --data.init_args.valid_items 2 --logger csv"
    call(
        finetune, "finetune",
        [f"--model={folder / 'model'}", f"--data={folder / 'tokens'}", "--lora=2", f"--run={run}", f"--args={args}"],
    )  # fmt: skip
    assert "begins with" in capsys.readouterr().out
    exported = load_file(run / "model" / "model.safetensors")
    assert load_model(run / "model").generate(["drums"], duration=0.2)[0].shape == (1, 160)
    # A checkpoint, from the outside: the weights that it has with those of the folder.
    found = Run(run)
    module, callbacks = found.composed()
    step, average = restore(module, callbacks, found.last)
    assert step == 3
    with average.applied(module):
        module.export(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in exported.items())
    assert sum(file.stat().st_size for file in Path(run / "checkpoints").glob("last.ckpt")) < 200_000
