"""The card of an exported model: every number is the run's or the results', and nobody's words are written over."""

import csv
import json
import logging
import re
import shutil
from dataclasses import replace

import pytest
import tiny
import torch
import yaml
from evaluation_clips import random_judge, sine, write_clips
from lightning.pytorch import LightningModule
from PIL import Image

from datamodules.errors import InputError
from evaluation.runner import evaluate
from experiments.__main__ import run as command
from experiments.cards import picture
from experiments.cards.recorded import read_recorded
from experiments.cards.scalars import read_scalars
from experiments.cards.subject import read_subject
from experiments.cards.writing import require_unedited, write_card
from experiments.jobs import Options, generate_clips
from experiments.loggers import run_logger
from experiments.prompts import read_prompts
from experiments.runs import Run
from lightning_modules.checkpoints import load_model
from lightning_modules.codec.folder import save_codec
from lightning_modules.model_folders import file_checksum

STEPS, PARTS, BATCH, SECONDS, CODEBOOKS, FRAME_RATE = 6, 2, 3, 2.0, 2, 10
pytestmark = pytest.mark.usefixtures("trains_here")
SHAPE = {"dim": 16, "layers": 1, "heads": 2, "codebooks": CODEBOOKS, "entries": 8, "position_scale": 0.5}


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """Tokens, their codec, recordings with captions, a judge, and a run of six steps, validated at every second."""
    place = tmp_path_factory.mktemp("card")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    save_codec(place / "codec", codec := tiny.codec(codebooks=CODEBOOKS, entries=8, sample_rate=80))
    store = tiny.write_store(place / "tokens")
    index = json.loads((store / "index.json").read_text())
    (store / "index.json").write_text(json.dumps({**index, "codec": codec.checksum}))
    write_clips(place / "references", {f"p{k}": sine(60 + 3 * k, seconds=2.0) for k in range(4)})
    random_judge(place / "judge")
    shape = [word for name, value in SHAPE.items() for word in (f"--model.init_args.lm.{name}", value)]
    words = [
        "-c", "lm", "-c", "pattern/delay", "-c", "conditioning/bytes", "-c", "cluster/cpu", "-c", "logger/csv", *shape,
        "--run", place / "run", "--model.init_args.text.dim", 16, "--model.init_args.text.ngrams", 40,
        "--model.init_args.codec", place / "codec",
        "--model.init_args.optim.lr", 0.01, "--model.init_args.optim.warmup_steps", 2, "--trainer.max_steps", STEPS,
        "--trainer.val_check_interval", 2 * PARTS, "--trainer.accumulate_grad_batches", PARTS, "--average.every", 1,
        "--average.decay", 0.5, "--data.init_args.store", store, "--data.init_args.seconds", SECONDS,
        "--data.init_args.batch_size", BATCH, "--data.init_args.valid_items", 4, "--data.init_args.workers", 0,
        "--checkpoint.every_n_train_steps", 2,
    ]  # fmt: skip
    before = torch.random.get_rng_state()
    command("fit", [str(word) for word in words])
    torch.random.set_rng_state(before)
    return place


def export(run, out, *more):
    command("export", ["--run", str(run), "--out", str(out), *(str(word) for word in more)])
    return out / "README.md"


@pytest.fixture(scope="module")
def card(things):
    return export(things / "run", things / "mine")


@pytest.fixture(scope="module")
def results(things, card):
    """Of clips that the exported model made."""
    prompts = read_prompts(things / "references" / "manifest.jsonl", 2.0, 0)
    folder = str(card.parent)
    (things / "clips").mkdir()
    generate_clips(load_model(folder), prompts, things / "clips", Options(), folder)
    evaluate(things / "clips", things / "references", str(things / "judge"), things / "results.json")
    return things / "results.json"


def rows(path, section=""):
    """{first cell: other cells} of the tables of a section."""
    text = path.read_text(encoding="utf-8")
    part = text.split(f"\n## {section}\n")[1].split("\n## ")[0] if section else text
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in re.findall(r"^\|.*\|$", part, re.M)]
    return {first: rest for first, *rest in cells if set(first) - set("- ")}


def whole(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_sizes_and_training_are_those_of_the_run(things, card):
    model, found = load_model(card.parent), rows(card)
    assert found["language model"][-1] == f"{model.parameters:,}"
    assert "positions times 0.5; texts by cross-attention" in found["language model"][0]
    assert "bytes, groups of them by 40 hashes" in found["text encoder"][0]
    assert found["text encoder"][-1] == f"{sum(one.numel() for one in model.conditioners.parameters()):,}"
    assert found["codec"][-1] == f"{sum(one.numel() for one in model.codec.parameters()):,}"
    windows = STEPS * PARTS * BATCH
    tokens = windows * round(SECONDS * FRAME_RATE) * CODEBOOKS
    trained = rows(card, "Training")
    assert trained["optimiser steps"] == [f"{STEPS} of {STEPS}"]
    assert trained["training samples"][0].startswith(f"{windows} windows of 2 s")
    assert trained["training samples"][0].endswith(f"; {tokens:,} tokens, {CODEBOOKS} a frame")
    assert trained["batch"] == [f"{PARTS * BATCH} windows: 1 device x {PARTS} micro-batches x {BATCH}"]
    # Five tracks of the store are to train on.
    hours = (40 + 13 + 25 + 31 + 8) / FRAME_RATE / 3600
    assert trained["data"] == [f"`tokens`, 5 tracks to train on, {hours:.3g} h, counted at export"]
    assert trained["learning rate"] == ["0.01 after 2 steps of warm-up, then a cosine to 0 at step 6"]
    start = json.loads((things / "run" / "environment.json").read_text())["starts"][0]
    assert start["python"] in trained["software"][0]
    assert torch.__version__.split("+")[0] in trained["software"][0]
    if start["git"]:
        assert trained["code"][0].startswith(f"git {start['git']['revision'][:12]}")
    assert not any("not recorded" in cell for cells in trained.values() for cell in cells)
    # Folders of this machine are nobody else's business.
    assert str(things) not in card.read_text(encoding="utf-8")


def test_validation_is_that_of_the_log_by_codebook(things, card):
    with (things / "run" / "metrics.csv").open(newline="") as file:
        last = [row for row in csv.DictReader(file) if row["valid/ce"]][-1]
    found = rows(card, "Validation")
    for k in range(CODEBOOKS):
        ce, perplexity = (float(last[f"valid/{name}_{k}"]) for name in ("ce", "perplexity"))
        assert found[f"codebook {k + 1}"] == [str(STEPS), f"{ce:.3f}", f"{perplexity:,.1f}"]
    assert found["mean"][:2] == [str(STEPS), f"{float(last['valid/ce']):.3f}"]
    assert "![Validation over optimiser steps](training_curve.png)" in card.read_text()
    with Image.open(card.parent / "training_curve.png") as image:
        assert image.size[0] > 500
        assert len(image.getcolors(2**16)) > 10
    assert (card.parent / "training_curve.png").stat().st_size < 100_000


def test_the_head_is_for_the_hub_and_the_example_runs(card, monkeypatch):
    text = card.read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    assert text.startswith("---\n")
    assert (head["library_name"], head["license"]) == ("musicgen-lightning", "other")
    assert "datasets" not in head
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(card.parent.parent)
    names = {}
    exec(code.replace("10.0", "1.0"), names)
    assert names["clip"].shape == (1, 80)


def test_what_is_not_recorded_says_so(things, tmp_path, card, monkeypatch):
    bare = shutil.copytree(things / "run", tmp_path / "run")
    for name in ("environment.json", "metrics.csv"):
        (bare / name).unlink()
    config = (bare / "config.yaml").read_text()
    (bare / "config.yaml").write_text(config.replace("seed_everything: 0", "seed_everything: null"))
    monkeypatch.setattr(picture, "find_spec", lambda name: None)  # as without matplotlib
    found = export(bare, tmp_path / "out")
    missing = {what for what, cells in rows(found, "Training").items() if cells == ["not recorded"]}
    assert missing == {"batch", "devices", "seed", "code", "software"}
    # The mean stands in the record of the run's end too.
    assert rows(found, "Validation")["mean"] == rows(card, "Validation")["mean"]
    assert "codebook 1" not in found.read_text()
    assert "png" not in found.read_text()
    assert not (tmp_path / "out" / "training_curve.png").exists()
    assert rows(found, "Evaluation") == {}
    assert "Not recorded" in found.read_text().split("## Evaluation")[1]


def test_results_of_this_model_stand_with_interval_protocol_and_judge(things, results, tmp_path):
    path = export(things / "run", tmp_path / "mine", "--results", results)
    told, found = json.loads(results.read_text()), rows(path, "Evaluation")
    (head,) = (line for line in path.read_text(encoding="utf-8").splitlines() if "FAD \N{DOWNWARDS ARROW}" in line)
    columns = [cell.split()[0] for cell in head.strip("|").split("|")[1:]]
    for name, key in (("FAD", "fad"), ("KL", "kld"), ("CLAP", "clap"), ("Chroma", "chroma")):
        score = told["metrics"][key]
        cell = found["**this model**"][columns.index(name)]
        bounds = "" if score["low"] is None else f" ({score['low']:.3f} to {score['high']:.3f})"
        assert cell == f"{score['value']:.3f}{bounds}".replace("-", "\N{MINUS SIGN}")
    assert {"References", "References, shuffled", "White noise"} <= set(found)
    text = path.read_text(encoding="utf-8")
    assert f"Protocol default, judge embedded {told['protocol']['judges']['fad']['checksum'][:12]}" in text
    assert f"{told['system']['speed']['audio_seconds_per_second']:.3g} s of music a second" in text
    # Two of them have a table each.
    again = export(things / "run", tmp_path / "mine", *["--results", results] * 2)
    assert again.read_text().count("**this model**") == 2


@pytest.mark.parametrize("checksum", ["f" * 64, None])
def test_results_of_another_model_are_refused_and_nothing_is_written(things, results, tmp_path, checksum):
    told = json.loads(results.read_text())
    told["system"]["checksum"] = checksum
    (tmp_path / "other.json").write_text(json.dumps(told))
    out = export(things / "run", tmp_path / "out").parent
    before = whole(out)
    whose = "of the model ffffffffffff, and" if checksum else "do not say which model made them"
    with pytest.raises(InputError, match=whose):
        export(things / "run", out, "--half", "true", "--results", tmp_path / "other.json")
    assert whole(out) == before


def test_an_edited_card_is_not_written_over(things, tmp_path):
    path = export(things / "run", tmp_path / "out")
    before = whole(path.parent)
    export(things / "run", path.parent)  # nobody has edited it
    assert whole(path.parent) == before
    for edited in (
        before[path.relative_to(path.parent)].replace(b"license: other", b"license: mit"),
        before[path.relative_to(path.parent)] + b"\nMore.\n",
        b"# Mine\n",
        b"\xff",
        b"",
    ):
        path.write_bytes(edited)
        with pytest.raises(InputError, match=r"README\.md: has been edited.*move it"):
            export(things / "run", path.parent, "--half", "true")
        assert whole(path.parent) == {**before, path.relative_to(path.parent): edited}
    path.unlink()
    require_unedited(path.parent)


def test_measurements_of_other_weights_go_and_those_of_the_same_stay(things, tmp_path):
    out = export(things / "run", tmp_path / "out").parent
    (out / "held_out.json").write_text("{}")
    (out / "notes.txt").write_text("mine")
    weights = file_checksum(out / "model.safetensors")
    export(things / "run", out)
    assert (out / "held_out.json").is_file()
    export(things / "run", out, "--half", "true")
    assert file_checksum(out / "model.safetensors") != weights
    assert not (out / "held_out.json").exists()
    assert (out / "notes.txt").read_text() == "mine"


def test_origin_licence_and_every_start_are_named(things, card, tmp_path):
    run = Run(things / "run")
    module, _ = run.composed()
    subject, recorded = read_subject(card.parent, module), read_recorded(run, run.last)
    origin = {"model": "/home/me/base", "checksum": "b" * 64, "lora": {"rank": 16, "alpha": 32.0}}
    first = recorded.starts[0]
    later = {**first, "device": "cuda:0", "devices": 8, "gpus": ["NVIDIA H100"] * 8}
    later |= {"git": {"revision": "a" * 40, "changed": True}}
    about = {**subject.about, "license": "cc-by-4.0", "fine_tuned_from": origin}
    recorded = replace(recorded, starts=[first, later, later])
    path, _ = write_card(tmp_path, "mine", replace(subject, about=about), recorded)
    found = rows(path, "Training")
    assert yaml.safe_load(path.read_text().split("---\n")[1])["license"] == "cc-by-4.0"
    assert found["begun with"] == [f"`base`, weights `{'b' * 12}`, with adapters of rank 16 (LoRA), merged"]
    assert found["devices"][0].endswith("; then 8 x NVIDIA H100")
    assert found["code"][0].endswith(f"git {'a' * 12}, with changes")
    assert found["batch"] == [f"{8 * PARTS * BATCH} windows: 8 devices x {PARTS} micro-batches x {BATCH}"]
    # Of what is neither a language model nor a codec there is no card.
    assert read_subject(card.parent, LightningModule()) is None


def test_both_logs_tell_the_same(tmp_path):
    pytest.importorskip("tensorboard")
    values = {1: 3.0, 3: 2.5, 5: 2.25}  # exact in float32
    for kind in ("csv", "tensorboard"):
        logger = run_logger(tmp_path / kind, kind)
        for step, value in values.items():
            logger.log_metrics({"valid/ce_0": value, "train/ce": 9.0}, step)
        logger.log_metrics({"valid/ce_0": 2.0}, 5)  # made again after an interruption
        logger.finalize("success")
        assert read_scalars(tmp_path / kind, "valid/") == {"valid/ce_0": {2: 3.0, 4: 2.5, 6: 2.0}}
    assert read_scalars(tmp_path, "valid/") == {}


def test_nothing_after_the_checkpoint_and_sharded_ones_too(things, tmp_path):
    run = shutil.copytree(things / "run", tmp_path / "run")
    state = torch.load(run / "checkpoints" / "last.ckpt", "cpu", weights_only=True)
    state["global_step"] = 4
    (tmp_path / "sharded.ckpt").mkdir()
    torch.save({name: state[name] for name in state if name != "state_dict"}, tmp_path / "sharded.ckpt" / "meta.pt")
    found = read_recorded(Run(run), tmp_path / "sharded.ckpt")
    assert (found.step, found.samples) == (4, STEPS * PARTS * BATCH)
    assert [step for step, _, _ in found.curve] == [0, 2, 4]
    assert sorted(found.valid["valid/ce_1"]) == [2, 4]
