"""Samples while training: what they are, what is logged of them, and that the training does not notice."""

import io
import json
import logging
import os
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import tiny
import torch
from evaluation_clips import random_judge, sine, write_clips
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import FSDPStrategy
from PIL import Image

from datamodules.errors import InputError
from datamodules.tokens import TokenDataModule
from evaluation.runner import evaluate
from experiments.__main__ import main
from experiments.callbacks.samples import Samples
from experiments.jobs import Options, generate_clips
from experiments.loggers import run_logger
from experiments.pictures import chromagrams
from experiments.prompts import read_prompts
from lightning_modules.callbacks import WeightAverage
from lightning_modules.checkpoints import load_model
from lightning_modules.codec.folder import save_codec
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig

pytest.importorskip("tensorboard")
pytest.importorskip("librosa")
STEPS, EVERY, SECONDS = 6, 2, 0.3


@pytest.fixture(autouse=True)
def tidy(trains_here, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """Tokens and the codec that wrote them, recordings with captions, and a judge."""
    folder = tmp_path_factory.mktemp("things")
    save_codec(folder / "codec", codec := tiny.codec(codebooks=2, entries=8))
    store = tiny.write_store(folder / "tokens")
    index = json.loads((store / "index.json").read_text())
    (store / "index.json").write_text(json.dumps({**index, "codec": codec.checksum}))
    write_clips(folder / "references", {f"p{k}": sine(60 + 3 * k, seconds=0.5) for k in range(4)})
    random_judge(folder / "judge")
    return folder


def samples(things, **options):
    defaults = {"every": EVERY, "duration": SECONDS, "seed": 7, "judge": str(things / "judge"), "shown": 2}
    return Samples(str(things / "references"), **{**defaults, **options})


class Diary(Callback):
    def __init__(self):
        self.steps, self.modes = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.steps.append((trainer.global_step, outputs["loss"].item(), torch.random.get_rng_state().sum().item()))
        self.modes.append([part.training for part in module.modules()])


def fit(things, run, *callbacks, logger=False, steps=STEPS, accumulate=2):
    seed_everything(0, verbose=False)
    lm = LanguageModelConfig(dim=16, layers=1, heads=2, codebooks=2, entries=8, ff_ratio=2)
    module = LanguageModelTraining(lm, tiny.TEXT, OptimConfig(lr=1e-2, warmup_steps=2), codec=str(things / "codec"))
    module.lm.transformer.norm.eval()  # a part in another mode than the rest stays in it
    data = TokenDataModule(str(things / "tokens"), seconds=2.0, batch_size=2, workers=0, valid_items=4)
    average, diary = WeightAverage(0.9, 1), Diary()
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, accumulate_grad_batches=accumulate,
        val_check_interval=4 * accumulate, check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=logger,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, default_root_dir=run, callbacks=[average, *callbacks, diary],
    )  # fmt: skip
    trainer.fit(module, data)
    return module, average, diary


@pytest.fixture(scope="module")
def sampled(things, tmp_path_factory):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    run = tmp_path_factory.mktemp("run")
    return run, *fit(things, run, samples(things), logger=run_logger(run, "tensorboard"))


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"audio": 0, "images": 0, "scalars": 0}).Reload()


def test_the_training_does_not_notice(things, sampled, tmp_path):
    _, module, average, diary = sampled
    plain, its_average, its_diary = fit(things, tmp_path)
    assert diary.steps == its_diary.steps  # losses and the state of the random numbers, to the last bit
    assert diary.modes == its_diary.modes
    assert not diary.modes[-1][list(module.modules()).index(module.lm.transformer.norm)]
    for ours, theirs in zip(module.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(average._average, its_average._average, strict=True):
        assert torch.equal(ours, theirs)


def test_clips_are_those_of_the_averaged_model(things, sampled, tmp_path):
    run, module, average, _ = sampled
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["step-2", "step-4", "step-6"]
    with average.applied(module):
        module.export(tmp_path / "model")
    (tmp_path / "clips").mkdir()
    prompts = read_prompts(things / "references" / "manifest.jsonl", SECONDS, 7)
    generate_clips(load_model(tmp_path / "model"), prompts, tmp_path / "clips", Options(), "m")
    wavs = sorted(path.name for path in (tmp_path / "clips").glob("*.wav"))
    assert wavs == ["p0.wav", "p1.wav", "p2.wav", "p3.wav"]
    for name in wavs:
        assert (run / "samples" / "step-6" / name).read_bytes() == (tmp_path / "clips" / name).read_bytes()
    # They are not those of the weights in training, nor of another step.
    assert (run / "samples" / "step-4" / "p0.wav").read_bytes() != (tmp_path / "clips" / "p0.wav").read_bytes()


def test_scores_are_those_of_an_evaluation(things, sampled, tmp_path):
    run = sampled[0]
    found = events(run)
    for step in (2, 4, 6):
        folder = run / "samples" / f"step-{step}"
        again = evaluate(folder, things / "references", str(things / "judge"), tmp_path / "results.json", 7)
        written = json.loads((folder / "results.json").read_text())
        assert written["metrics"] == json.loads((tmp_path / "results.json").read_text())["metrics"]
        for name in ("fad", "kld", "clap", "chroma"):
            (logged,) = [event.value for event in found.Scalars(f"score/{name}") if event.step == step]
            assert logged == pytest.approx(again["metrics"][name]["value"], rel=1e-5)


def test_sound_and_pictures(things, sampled):
    run = sampled[0]
    found = events(run)
    heard = {f"samples/p{k}/{kind}" for k in range(2) for kind in ("generated", "reference")}
    assert set(found.Tags()["audio"]) == heard
    for k in range(2):
        (reference,) = found.Audio(f"samples/p{k}/reference")
        assert reference.step == 2
        made = found.Audio(f"samples/p{k}/generated")
        assert [event.step for event in made] == [2, 4, 6]
        wav, rate = soundfile.read(io.BytesIO(made[-1].encoded_audio_string))
        ours, own_rate = soundfile.read(run / "samples" / "step-6" / f"p{k}.wav")
        assert len(wav) / rate == pytest.approx(len(ours) / own_rate) == SECONDS
        np.testing.assert_allclose(wav[:: rate // own_rate], ours, atol=0.05)  # resampled for the players
        for kind in ("spectrogram", "chromagram"):
            pictures = found.Images(f"samples/p{k}/{kind}")
            assert [event.step for event in pictures] == [2, 4, 6]
            picture = np.asarray(Image.open(io.BytesIO(pictures[-1].encoded_image_string)))
            assert picture.std() > 10


def test_files_beside_a_csv(things, tmp_path, capsys):
    fit(things, tmp_path, samples(things, shown=1), logger=run_logger(tmp_path, "csv"), steps=4)
    names = ["chromagram-2.png", "chromagram-4.png", "generated-2.wav", "generated-4.wav", "reference-2.wav"]
    names += ["spectrogram-2.png", "spectrogram-4.png"]
    assert sorted(path.name for path in (tmp_path / "media" / "samples" / "p0").iterdir()) == names
    assert len(list((tmp_path / "media" / "samples").iterdir())) == 1
    assert Image.open(tmp_path / "media" / "samples" / "p0" / "chromagram-2.png").size[1] == 192
    rows = (tmp_path / "metrics.csv").read_text()
    assert all(f"score/{name}" in rows for name in ("fad", "kld", "clap", "chroma"))
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("samples")]
    assert len(told) == 2
    assert all(word in told[0] for word in ("step 2: fad ", "kld ", "clap ", "chroma ", str(tmp_path / "media")))


def test_without_a_logger_there_are_the_folders(things, tmp_path):
    fit(things, tmp_path, samples(things, every=4))
    assert (tmp_path / "samples" / "step-4" / "results.json").is_file()
    assert not (tmp_path / "media").exists()


def test_what_fails_in_mid_run_is_told_and_the_training_goes_on(things, tmp_path, monkeypatch):
    def broken(*given, **options):
        raise InputError("none of 4 pairs could be heard")

    monkeypatch.setattr("evaluation.runner.evaluate", broken)
    with pytest.warns(UserWarning, match="samples of step 2: none of 4 pairs.*goes on"):
        _, _, diary = fit(things, tmp_path, samples(things, every=2), steps=3)
    assert diary.steps[-1][0] == 3
    assert not (tmp_path / "samples" / "step-2" / "results.json").exists()
    assert (tmp_path / "samples" / "step-2" / "p0.wav").exists()


def test_no_prompts_no_samples(things, tmp_path):
    fit(things, tmp_path, Samples(every=1), steps=2)
    assert not (tmp_path / "samples").exists()


def test_what_could_never_work_is_refused_before_any_work(things, tmp_path):
    cases = (
        ({"judge": str(tmp_path / "nobody")}, "no judge"),
        ({"protocol": "gut feeling"}, "gut feeling"),
    )
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            fit(things, tmp_path, samples(things, **options))
    with pytest.raises(InputError, match="no such manifest"):
        fit(things, tmp_path, Samples(str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="generates nothing"):
        samples(things).setup(SimpleNamespace(), LightningModule(), "fit")
    for options in ({"every": 0}, {"shown": -1}):
        with pytest.raises(InputError, match="give 1 or more, and 0 or more"):
            Samples("x", **options)


def test_sharded_weights_are_left_to_another_job(things, tmp_path, capsys):
    callback = samples(things)
    trainer = SimpleNamespace(
        global_step=0, strategy=object.__new__(FSDPStrategy), is_global_zero=True, default_root_dir="runs/x"
    )
    callback.on_train_start(trainer, torch.nn.Linear(1, 1))
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "mgl score-run runs/x --watch true" in told
    trainer.global_step = EVERY
    callback.on_train_batch_end(trainer, torch.nn.Linear(1, 1), None, None, 0)
    assert not capsys.readouterr().out


def test_other_processes_do_nothing(things):
    callback = samples(things)
    trainer = SimpleNamespace(global_step=EVERY, is_global_zero=False)
    callback.on_train_batch_end(trainer, None, None, None, 0)


def test_a_chromagram_shows_the_notes():
    rate = 32_000
    picture = chromagrams(sine(69, 1.0, rate=rate)[0], sine(60, 1.0, rate=rate)[0]).float().mean(0)
    left, right = picture[:, :32], picture[:, 36:]
    assert picture.shape == (192, 68)
    for half, pitch in ((left, 9), (right, 0)):  # A, then C
        rows = half.view(12, 16, -1).mean((1, 2)).flip(0)
        assert int(rows.argmax()) == pitch


# ---- from the outside -----------------------------------------------------------------------------------------------
def end(*arguments):
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as error:
        return error.code or 0
    return 0


TINY = {"dim": 16, "layers": 1, "heads": 2, "codebooks": 2, "entries": 8}


def fit_arguments(things, *more):
    shape = [word for name, value in TINY.items() for word in (f"--model.init_args.lm.{name}", value)]
    return [
        "fit", "-c", "lm", "-c", "pattern/delay", "-c", "conditioning/bytes", "-c", "cluster/cpu", *shape, "--run", "r",
        "--model.init_args.text.dim", 16, "--model.init_args.codec", things / "codec", "--trainer.max_steps", 5,
        "--trainer.val_check_interval", 5, "--trainer.num_sanity_val_steps", 0, "--data.init_args.store",
        things / "tokens", "--data.init_args.seconds", 2.0, "--data.init_args.valid_items", 2, "--average.every", 1,
        "--checkpoint.every_n_train_steps", 2, "--samples.judge", things / "judge", "--samples.duration", SECONDS,
        "--samples.shown", 1, *more,
    ]  # fmt: skip


def test_the_same_from_checkpoints(things, tmp_path, capsys):
    inside = ["-c", "logger/csv", "--samples.prompts", things / "references", "--samples.every", 4]
    assert end(*fit_arguments(things, *inside)) == 0
    made = tmp_path / "r" / "samples"
    assert [path.name for path in made.iterdir()] == ["step-4"]
    # The length that it was trained on goes with the model, at the end and out of a checkpoint.
    assert load_model(tmp_path / "r" / "model").window == 2.0
    assert end("export", "--run", "r", "--out", tmp_path / "early") == 0
    assert load_model(tmp_path / "early").window == 2.0
    within = {path.name: path.read_bytes() for path in (made / "step-4").glob("*.wav")}
    scores = json.loads((made / "step-4" / "results.json").read_text())["metrics"]
    (made / "step-4" / "results.json").unlink()
    for wav in (made / "step-4").glob("*.wav"):
        wav.unlink()
    capsys.readouterr()
    # Checkpoints of steps 4 and 5 are left, and the model, which is of step 5 too.
    assert end("score-run", "r", "--device", "cpu") == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("samples")]
    assert [line.split(":")[0].split()[-1] for line in told] == ["4", "5"]
    assert {path.name: path.read_bytes() for path in (made / "step-4").glob("*.wav")} == within
    assert json.loads((made / "step-4" / "results.json").read_text())["metrics"] == scores
    assert len((made / "metrics.csv").read_text().splitlines()) == 3
    assert sorted(path.name for path in (made / "media" / "samples" / "p0").glob("generated*")) == [
        "generated-4.wav", "generated-5.wav",
    ]  # fmt: skip
    assert end("score-run", "r", "--device", "cpu") == 0
    assert "nothing new" in capsys.readouterr().out
    # A run that has ended is not watched for ever, and what it has no checkpoint of is scored from its model.
    for path in (tmp_path / "r" / "checkpoints").iterdir():
        path.unlink()
    (made / "step-5" / "results.json").unlink()
    assert end("score-run", "r", "--watch", "true", "--device", "cpu") == 0
    assert (made / "step-5" / "results.json").is_file()
    # Nor one that has died.
    (tmp_path / "r" / "model" / "training.json").unlink()
    for path in (tmp_path / "r").rglob("*"):
        os.utime(path, (0, 0) if made not in path.parents else None)
    capsys.readouterr()
    assert end("score-run", "r", "--watch", "true", "--device", "cpu") == 2
    assert "has the run died?" in capsys.readouterr().err


def test_a_run_without_prompts_is_given_some(things, tmp_path, capsys):
    assert end(*fit_arguments(things, "--logger", "csv", "--trainer.max_steps", 2)) == 0
    assert end("score-run", "r", "--device", "cpu") == 2
    assert "no prompts" in capsys.readouterr().err
    assert end("score-run", "r", "--prompts", things / "references", "--device", "cpu") == 0
    assert (tmp_path / "r" / "samples" / "step-2" / "results.json").is_file()
    assert end("score-run", "nowhere") == 2
    assert capsys.readouterr().err.strip().endswith("is no run (config.yaml is missing)")
