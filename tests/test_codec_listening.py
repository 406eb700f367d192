"""What the codec's training logs, read back from TensorBoard's event files and from those beside a CSV."""

import io
import logging
import sys

import numpy as np
import pytest
import soundfile
import tiny
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image

from datamodules.crops import AudioCropDataModule
from datamodules.errors import InputError
from experiments.__main__ import main
from lightning_modules.callbacks import WeightAverage
from lightning_modules.codec.listening import CodecListening, colours, spectrograms
from lightning_modules.codec.training import CodecTraining
from lightning_modules.optim import OptimConfig

pytestmark = pytest.mark.usefixtures("trains_here")

pytest.importorskip("tensorboard")
VALIDATED = [0, 4, 8, 12]  # the first before training


class Witness(Callback):
    """Keeps what validation saw and made of it, by calling the codec itself, past its hooks."""

    def __init__(self):
        self.passes = {}

    @torch.no_grad()
    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        assert not module.training
        output = module.codec.forward(batch.audio)
        self.passes.setdefault(trainer.global_step, []).append((batch.audio, output.reconstruction, output.codes))


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    tracks = [(f"t{index}", "train" if index < 5 else "valid", 4.0, "a wave") for index in range(8)]
    return tiny.write_manifest(tmp_path_factory.mktemp("music"), tracks)


def fit(music, logger, *callbacks, channels=1, steps=12):
    seed_everything(0, verbose=False)
    module = CodecTraining(tiny.codec(channels=channels).config, OptimConfig(lr=3e-3, weight_decay=0.0), free_steps=2)
    data = AudioCropDataModule(
        str(music), 3.0, tiny.RATE, channels=channels, batch_size=3, workers=0, valid_items=6, seed=1
    )
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, val_check_interval=4, logger=logger,
        check_val_every_n_epoch=None, num_sanity_val_steps=-1, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, callbacks=[WeightAverage(0.9, 1), *callbacks],
    )  # fmt: skip
    trainer.fit(module, data)
    return module


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"audio": 0, "images": 0, "histograms": 0}).Reload()


@pytest.fixture(scope="module")
def listened(music, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    witness = Witness()
    fit(music, TensorBoardLogger(folder, name="", version=""), CodecListening(2, 2.5), witness)
    return events(folder), witness.passes


def steps(found):
    return [event.step for event in found]


def sound(event):
    return soundfile.read(io.BytesIO(event.encoded_audio_string), dtype="float32")


def test_reconstructions_are_there_at_every_validation_and_originals_once(listened):
    found, passes = listened
    kinds = ("original", "reconstruction")
    assert sorted(found.Tags()["audio"]) == sorted(f"listen/{index}/{kind}" for index in range(2) for kind in kinds)
    for index in range(2):
        (original,) = found.Audio(f"listen/{index}/original")
        again = found.Audio(f"listen/{index}/reconstruction")
        assert steps(again) == VALIDATED
        wav, rate = sound(original)
        assert rate == tiny.RATE
        assert len(wav) == 2.5 * tiny.RATE
        for event in again:
            audio, made, _ = passes[event.step][0]
            np.testing.assert_allclose(wav, audio[index, 0, : len(wav)], atol=1e-4)
            np.testing.assert_allclose(sound(event)[0], made[index, 0, : len(wav)].clamp(-1, 1), atol=1e-4)


def test_spectrograms_stand_side_by_side(listened):
    found, passes = listened
    for index in range(2):
        pictures = found.Images(f"listen/{index}/spectrogram")
        assert steps(pictures) == VALIDATED
        for event in pictures:
            audio, made, _ = passes[event.step][0]
            shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
            wanted = spectrograms(audio[index, 0, :2000], made[index, 0, :2000], tiny.RATE)
            assert abs(shown.transpose(2, 0, 1).astype(int) - wanted.numpy()).max() <= 1
    assert shown.shape[0] == 240


def test_the_codes_of_the_whole_validation_are_counted(listened):
    found, passes = listened
    assert sorted(found.Tags()["histograms"]) == [f"codes/{k}" for k in range(tiny.CODEBOOKS)]
    for k in range(tiny.CODEBOOKS):
        histograms, uses = found.Histograms(f"codes/{k}"), found.Scalars(f"valid/use_{k}")
        assert steps(histograms) == steps(uses) == VALIDATED
        for histogram, use in zip(histograms, uses, strict=True):
            codes = np.concatenate([codes[:, k].flatten() for _, _, codes in passes[use.step]])
            assert len(passes[use.step]) == 2
            assert len(codes) == 6 * 300
            counts = [np.count_nonzero(codes == entry) for entry in range(tiny.ENTRIES)]
            assert use.value == pytest.approx(np.mean(np.array(counts) > 0))
            assert histogram.histogram_value.num == tiny.ENTRIES
            assert histogram.histogram_value.sum == pytest.approx(sum(np.log10(1 + np.array(counts))))
    assert uses[-1].value > uses[0].value


def test_training_does_not_notice(music, tmp_path):
    with_it = fit(music, TensorBoardLogger(tmp_path, name="", version=""), CodecListening())
    after = torch.random.get_rng_state()
    without = fit(music, TensorBoardLogger(tmp_path / "other", name="", version=""))
    assert torch.equal(torch.random.get_rng_state(), after)
    for (name, ours), theirs in zip(with_it.state_dict().items(), without.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert not with_it.codec._forward_hooks
    assert with_it.codec.training


def test_every_second_validation(music, tmp_path):
    fit(music, TensorBoardLogger(tmp_path, name="", version=""), CodecListening(1, every=2))
    found = events(tmp_path)
    assert steps(found.Audio("listen/0/reconstruction")) == VALIDATED[::2]
    assert steps(found.Scalars("valid/use_0")) == VALIDATED[::2]


def test_stereo_is_mixed_for_the_player(music, tmp_path):
    witness = Witness()
    fit(music, TensorBoardLogger(tmp_path, name="", version=""), CodecListening(1), witness, channels=2, steps=1)
    wav = sound(events(tmp_path).Audio("listen/0/reconstruction")[0])[0]
    np.testing.assert_allclose(wav, witness.passes[0][0][1][0].mean(0).clamp(-1, 1), atol=1e-4)


def test_files_beside_a_csv(music, tmp_path):
    witness = Witness()
    fit(music, CSVLogger(tmp_path, name="", version=""), CodecListening(1), witness, steps=1)
    assert "valid/use_3" in (tmp_path / "metrics.csv").read_text()
    made, rate = soundfile.read(tmp_path / "media" / "listen" / "0" / "reconstruction-0.wav")
    assert rate == tiny.RATE
    np.testing.assert_allclose(made, witness.passes[0][0][1][0, 0].clamp(-1, 1), atol=1e-4)
    assert Image.open(tmp_path / "media" / "listen" / "0" / "spectrogram-0.png").size[1] == 240


def test_no_logger_and_no_examples_are_no_error(music, tmp_path):
    fit(music, False, CodecListening(), steps=1)
    fit(music, TensorBoardLogger(tmp_path / "none", name="", version=""), CodecListening(0), steps=1)
    found = events(tmp_path / "none")
    assert found.Tags()["audio"] == found.Tags()["images"] == []
    assert len(found.Histograms("codes/0")) == 1


def test_a_resumed_run_writes_nothing_twice(music, tmp_path):
    first, second = CodecListening(1), CodecListening(1)
    fit(music, TensorBoardLogger(tmp_path / "one", name="", version=""), first)
    second.load_state_dict(first.state_dict())
    fit(music, TensorBoardLogger(tmp_path / "two", name="", version=""), second)
    found = events(tmp_path / "two")
    assert found.Tags()["audio"] == ["listen/0/reconstruction"]
    assert steps(found.Audio("listen/0/reconstruction")) == VALIDATED[1:]  # not where the run was resumed


@pytest.mark.parametrize("wrong", [{"examples": -1}, {"seconds": 0.0}, {"seconds": float("nan")}, {"every": 0}])
def test_settings_without_sense_are_refused(wrong):
    with pytest.raises(InputError, match="give 0 or more, more than 0, and 1 or more"):
        CodecListening(**wrong)


def test_the_colours_are_matplotlibs():
    matplotlib = pytest.importorskip("matplotlib")
    values = torch.linspace(-0.2, 1.2, 500)
    wanted = matplotlib.colormaps["magma"](values.numpy())[:, :3] * 255
    assert abs(colours(values[None])[:, 0].T.numpy() - wanted).max() < 12
    # Lightness must not fall anywhere (Rec. 709 luma of linear light).
    luminance = torch.tensor([0.2126, 0.7152, 0.0722]) @ (colours(values[None])[:, 0] / 255) ** 2.2
    assert (luminance.diff() > -1e-3).all()


def test_a_tone_is_a_line_at_its_place():
    rate = 16_000
    tone = torch.sin(2 * torch.pi * 2000 * torch.arange(2 * rate) / rate)
    picture = spectrograms(tone, 0 * tone, rate).float().mean(0)
    half = (picture.shape[1] - 4) // 2
    left, right = picture[:, :half], picture[:, half + 4 :]
    assert left.shape == right.shape
    assert right.max() < 2
    edges = 2595 * np.log10(1 + np.array([2000, rate / 2]) / 700)  # mel, HTK's
    row = int(left.mean(1).argmax())
    assert row == pytest.approx(240 * (1 - edges[0] / edges[1]), abs=6)


def test_the_command_line_has_it(music, tmp_path, monkeypatch):
    run = tmp_path / "run"
    flags = {"run": run, "data.manifest": music, "data.batch_size": 2, "data.valid_items": 2, "data.workers": 0}
    flags |= {"data.seconds": 3.0, "data.sample_rate": tiny.RATE, "trainer.max_steps": 2, "trainer.accelerator": "cpu"}
    flags |= {"trainer.val_check_interval": 2, "model.codec.sample_rate": tiny.RATE, "model.codec.filters": 4}
    flags |= {"model.codec.ratios": "[4,2]", "model.codec.dim": 8, "model.codec.entries": 16}
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    main(["fit", "-c", "codec", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))])
    found = events(run)
    assert steps(found.Audio("listen/1/reconstruction")) == [0, 2]
    assert len(found.Images("listen/0/spectrogram")) == len(found.Histograms("codes/3")) == 2
