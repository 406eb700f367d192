"""Loggers as layers, and the record of what a run was started with."""

import csv
import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from datamodules.errors import InputError
from experiments import loggers
from experiments.callbacks.record import EnvironmentRecord
from experiments.environment import append_environment
from experiments.loggers import run_logger
from lightning_modules.media_log import log_audio, log_picture, media_folder

WAV = torch.linspace(-0.9, 0.9, 800)[None]
PICTURE = torch.arange(3 * 8 * 5).view(3, 8, 5).to(torch.uint8)


def test_a_csv_goes_on_where_it_stopped(tmp_path):
    for step, values in ((9, {"a": 1.0}), (19, {"a": 2.0, "b": 3.0}), (29, {"c": torch.tensor(4.0)})):
        logger = run_logger(tmp_path, "csv")  # anew each time, as after a resume
        logger.log_metrics(values, step)
        logger.save()
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = [{name: float(value) for name, value in row.items() if value} for row in rows]
    assert found == [{"a": 1, "step": 9}, {"a": 2, "b": 3, "step": 19}, {"c": 4, "step": 29}]


def test_every_logger_keeps_to_the_runs_folder(tmp_path):
    pytest.importorskip("tensorboard")
    for kind, made in (("tensorboard", TensorBoardLogger), ("csv", CSVLogger)):
        logger = run_logger(tmp_path / "r", kind)
        assert isinstance(logger, made)
        assert Path(logger.log_dir) == tmp_path / "r"


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"--logger {kind}: the package is not installed; .*install") as refused:
        run_logger(tmp_path, kind)
    assert "\n" not in str(refused.value)
    run_logger(tmp_path, "csv")


def test_wandb_is_one_run_after_a_requeue(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    ids = set()
    for _ in range(2):
        logger = run_logger(tmp_path / "small-s0", "wandb")
        given = logger._wandb_init
        assert (given["name"], given["project"], given["resume"]) == ("small-s0", "musicgen-lightning", "allow")
        assert Path(logger.save_dir) == tmp_path / "small-s0"
        ids.add(given["id"])
    assert len(ids) == 1
    assert run_logger(tmp_path / "other", "wandb")._wandb_init["id"] not in ids


def test_sound_and_pictures_in_wandb(tmp_path):
    wandb = pytest.importorskip("wandb")
    logged = []
    made = WandbLogger(experiment=SimpleNamespace(log=logged.append), save_dir=tmp_path)
    log_audio([made], "samples/x/generated", torch.cat([WAV, -WAV]), 400, 7)
    log_picture([made], "samples/x/spectrogram", PICTURE, 7)
    assert [entry["trainer/global_step"] for entry in logged] == [7, 7]
    (audio,), (picture,) = logged[0]["samples/x/generated"], logged[1]["samples/x/spectrogram"]
    assert isinstance(audio, wandb.Audio)
    heard, rate = soundfile.read(audio._path)
    assert rate == 400
    np.testing.assert_allclose(heard.T, torch.cat([WAV, -WAV]), atol=1e-3)
    np.testing.assert_array_equal(np.asarray(picture.image), PICTURE.movedim(0, 2))


def test_sound_and_pictures_beside_a_csv(tmp_path):
    made = run_logger(tmp_path, "csv")
    loud = torch.cat([3 * WAV, torch.full((1, 800), float("nan"))])
    log_audio([made], "samples/x/generated", loud, 400, 7)
    log_picture([made], "samples/x/spectrogram", PICTURE, 7)
    assert media_folder([made]) == tmp_path / "media"
    heard, rate = soundfile.read(tmp_path / "media" / "samples" / "x" / "generated-7.wav")
    assert rate == 400
    np.testing.assert_allclose(heard[:, 0], (3 * WAV[0]).clamp(-1, 1), atol=1e-4)
    assert not heard[:, 1].any()
    found = np.asarray(Image.open(tmp_path / "media" / "samples" / "x" / "spectrogram-7.png"))
    np.testing.assert_array_equal(found, PICTURE.movedim(0, 2))


def test_where_there_is_nothing_to_show(tmp_path):
    log_audio([], "x", WAV, 400, 1)
    log_picture([], "x", PICTURE, 1)
    assert media_folder([]) is None
    assert not list(tmp_path.iterdir())


def test_starts_are_added_up(tmp_path):
    append_environment(tmp_path / "run", step=0)
    first = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"][0]
    trainer = SimpleNamespace(is_global_zero=True, default_root_dir=tmp_path / "run", global_step=12, world_size=3)
    EnvironmentRecord().on_train_start(trainer, SimpleNamespace(device=torch.device("cpu")))
    trainer.is_global_zero = False
    EnvironmentRecord().on_train_start(trainer, SimpleNamespace(device=torch.device("cpu")))
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 12]
    assert starts[0] == first
    assert (starts[1]["devices"], starts[1]["device"]) == (3, "cpu")
    assert first["packages"]["torch"] == version("torch")
    assert first["python"].count(".") == 2
    assert len(first["gpus"]) == torch.cuda.device_count()
    assert (first["driver"] is None) == (not torch.cuda.is_available())


def test_the_revision_is_the_checkouts(tmp_path):
    root = Path(loggers.__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("no checkout")
    append_environment(tmp_path)
    git = json.loads((tmp_path / "environment.json").read_text())["starts"][0]["git"]
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    assert git["revision"] == subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_record_of_something_else_is_refused(tmp_path):
    (tmp_path / "environment.json").write_text("[]")
    with pytest.raises(InputError, match="move it away"):
        append_environment(tmp_path)
    assert (tmp_path / "environment.json").read_text() == "[]"
