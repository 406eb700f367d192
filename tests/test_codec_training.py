"""Losses and distances of the codec, and its training: that it lowers them, resumes exactly, and stops by name."""

import csv
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import tiny
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from datamodules.crops import AudioCropDataModule
from datamodules.errors import InputError
from lightning_modules.callbacks import SaveOnExit, WeightAverage
from lightning_modules.codec.discriminators import DiscriminatorConfig, Discriminators, discriminator_loss
from lightning_modules.codec.folder import save_codec
from lightning_modules.codec.losses import MultiScaleMelDistance, MultiScaleMelLoss, si_sdr
from lightning_modules.codec.measures import CodebookCounts
from lightning_modules.codec.training import CodecTraining
from lightning_modules.optim import OptimConfig

pytestmark = pytest.mark.usefixtures("trains_here")


def noisy(level, seed=0):
    generator = torch.Generator().manual_seed(seed)
    wave = torch.sin(torch.arange(4000) / 20) * 0.5
    return (wave + level * torch.randn(3, 1, 4000, generator=generator)), wave.expand(3, 1, -1)


def test_si_sdr_equals_torchmetrics():
    output, target = noisy(0.3)
    wanted = scale_invariant_signal_distortion_ratio(output + 0.2, target, zero_mean=True)[:, 0]
    torch.testing.assert_close(si_sdr(output + 0.2, target), wanted, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(si_sdr(3 * output, target), si_sdr(output, target), atol=1e-3, rtol=1e-4)
    assert torch.isfinite(si_sdr(torch.zeros(1, 1, 100), torch.zeros(1, 1, 100))).all()


@pytest.mark.parametrize("kind", [MultiScaleMelLoss, MultiScaleMelDistance])
def test_mel_distance_is_a_distance(kind):
    distance = kind(32_000)
    near, clean = noisy(0.01)
    far, _ = noisy(0.3)
    assert (distance(clean, clean) == 0).all()
    torch.testing.assert_close(distance(near, clean), distance(clean, near))
    assert (distance(near, clean) > 0).all()
    assert (distance(far, clean) > distance(near, clean)).all()
    assert torch.isfinite(distance(torch.zeros_like(clean), clean)).all()


def test_mel_distance_is_in_decades():
    # Every magnitude ten times larger is one decade, wherever both are above the floor.
    wav = torch.randn(2, 1, 8000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(MultiScaleMelDistance(32_000)(10 * wav, wav), torch.ones(2), atol=1e-3, rtol=0)


def test_no_mel_filter_is_empty():
    for mel in MultiScaleMelDistance(32_000).mels:
        assert (mel.mel_scale.fb.sum(0) > 0).all()


def perplexity(codes, entries=16):
    counts = CodebookCounts(1, entries)
    counts.add(codes[None, None])
    return counts.use()[0].perplexity


def test_perplexity_of_codes():
    assert perplexity(torch.arange(16).repeat(3)) == pytest.approx(16)
    assert perplexity(torch.zeros(9, dtype=torch.int64)) == pytest.approx(1)
    assert perplexity(torch.tensor([0, 0, 0, 1])) == pytest.approx(0.75**-0.75 * 0.25**-0.25)


def test_perplexity_is_of_all_that_was_validated_not_of_a_batch(monkeypatch):
    """A batch has fewer codes than a codebook has entries: the mean over batches would be far too small."""
    module = CodecTraining(tiny.codec().config, OptimConfig(), ADVERSARIES)
    module.codec.load_state_dict(tiny.codec().state_dict())
    logged = {}
    monkeypatch.setattr(module, "log", lambda name, value, **options: logged.update({name: float(value)}))
    module.eval()
    module.on_validation_epoch_start()
    codes = []
    for seed in range(3):
        wav = torch.randn(2, 1, 2400, generator=torch.Generator().manual_seed(seed)) * 0.3
        batch = SimpleNamespace(audio=wav)
        with torch.no_grad():
            module.validation_step(batch, seed)
            codes.append(module.codec(batch.audio).codes[:, 1].flatten())
    module.on_validation_epoch_end()
    assert logged["valid/perplexity_1"] == pytest.approx(perplexity(torch.cat(codes)), rel=1e-5)
    mean = sum(perplexity(part) for part in codes) / 3
    assert logged["valid/perplexity_1"] != pytest.approx(mean, rel=1e-3)


STEPS = 12
ADVERSARIES = DiscriminatorConfig(windows=(64, 32), filters=2, starts=6)


class Stop(Callback):
    """Breaks off after a step."""

    def __init__(self, at):
        self.at = at

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.at:
            raise KeyboardInterrupt


def fit(music, folder, *, steps=STEPS, stop_at=None, checkpoint=None, discriminators=ADVERSARIES, spoil=None, **given):
    """Trains the tiny codec on sine waves; Lightning's trainer, datamodule and checkpoints."""
    before, handler = torch.random.get_rng_state(), signal.getsignal(signal.SIGINT)
    seed_everything(0, verbose=False)
    optim = OptimConfig(lr=3e-3, weight_decay=0.0, warmup_steps=1)
    module = CodecTraining(tiny.codec().config, optim, discriminators, free_steps=2, **given)
    if spoil is not None:
        spoil(module)
    data = AudioCropDataModule(str(music), 3.0, tiny.RATE, batch_size=2, workers=0, valid_items=4)
    average = WeightAverage(0.9, 1)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, val_check_interval=5, logger=CSVLogger(folder),
        check_val_every_n_epoch=None, num_sanity_val_steps=0, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, log_every_n_steps=1,
        callbacks=[average, SaveOnExit(str(folder / "last.ckpt")), *([Stop(stop_at)] if stop_at else [])],
    )  # fmt: skip
    try:
        with pytest.raises(SystemExit) if stop_at else nullcontext():
            trainer.fit(module, data, ckpt_path=checkpoint)
    finally:
        torch.random.set_rng_state(before)
        signal.signal(signal.SIGINT, handler)
    return module, average, trainer


def curve(folder, name):
    """A logged value by step."""
    (file,) = folder.rglob("metrics.csv")
    rows = csv.DictReader(file.open())
    return {int(row["step"]): float(row[name]) for row in rows if row.get(name)}


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    tracks = [(f"t{index}", "train" if index < 5 else "valid", 4.0, "a wave") for index in range(7)]
    return tiny.write_manifest(tmp_path_factory.mktemp("music"), tracks)


def test_training_lowers_the_distance(tmp_path, music):
    module, average, trainer = fit(music, tmp_path, steps=60, discriminators=None)
    assert trainer.global_step == average.updates == 60
    assert module.codec.quantizer.initialised
    losses = curve(tmp_path, "train/mel")
    assert sum(list(losses.values())[-5:]) < 0.8 * sum(list(losses.values())[:5])
    distances = list(curve(tmp_path, "valid/mel_distance").values())
    assert distances[-1] < 0.95 * distances[0]


def test_discriminators_begin_when_they_are_told_to(tmp_path, music):
    module, _, trainer = fit(music, tmp_path)
    assert trainer.global_step == STEPS  # the discriminators' steps are not counted
    assert list(curve(tmp_path, "train/l1")) == list(range(STEPS))
    assert list(curve(tmp_path, "train/adversarial")) == list(range(6, STEPS))
    critic = curve(tmp_path, "train/discriminator")
    assert all(critic[step] == 0 for step in range(6))
    assert all(critic[step] > 0 for step in range(6, STEPS))
    fresh = Discriminators(ADVERSARIES)
    with torch.random.fork_rng():
        seed_everything(0, verbose=False)
    assert any(
        not torch.equal(a, b) for a, b in zip(module.discriminators.parameters(), fresh.parameters(), strict=True)
    )
    assert all(torch.isfinite(p).all() for p in module.parameters())
    rates = {optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers}
    assert len(rates) == 1  # both schedules went on
    assert rates.pop() < 3e-3


def test_nobody_learns_from_the_others_loss(music, tmp_path):
    """The step's gradients are those of separate backward passes."""
    module, _, _ = fit(music, tmp_path, steps=8)
    module.log = module.log_dict = lambda *args, **kwargs: None
    caught = {}
    module._step = lambda total: (module.zero_grad(), total.backward(), caught.update(done=True))
    batch = next(iter(module.trainer.datamodule.train_dataloader()))
    module.codec.eval()  # codebooks stay
    module.training_step(batch, 0)
    assert caught["done"]
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    reconstruction = module.codec(batch.audio).reconstruction.detach()
    discriminator_loss(module.discriminators(batch.audio), module.discriminators(reconstruction)).backward()
    for name, parameter in module.named_parameters():
        if name.startswith("discriminators"):
            torch.testing.assert_close(found[name], parameter.grad, msg=name)
        elif name.startswith("codec"):
            assert found[name].abs().sum() > 0 or "bias" in name, name
            assert parameter.grad is None


@pytest.mark.parametrize("stop_at", [1, 4, 8])  # gathering latents, before the discriminators begin, after
def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, music, stop_at):
    whole, average, _ = fit(music, tmp_path / "whole")
    fit(music, tmp_path / "parts", stop_at=stop_at)
    again, other, trainer = fit(music, tmp_path / "rest", checkpoint=tmp_path / "parts" / "last.ckpt")
    assert trainer.global_step == STEPS
    for (name, ours), theirs in zip(again.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    for ours, theirs in zip(other._average, average._average, strict=True):
        assert torch.equal(ours, theirs)


def test_a_loss_that_is_not_finite_stops_the_run_by_name(tmp_path, music):
    def spoil(module):
        inner = module.codec.decoder.forward
        module.codec.decoder.forward = lambda x: inner(x) * (float("nan") if module.global_step == 3 else 1.0)

    with pytest.raises(InputError, match=r"step 3: the loss l1 is not finite, on t\d, t\d") as stopped:
        fit(music, tmp_path, spoil=spoil)
    assert "checkpoint stays" in str(stopped.value)


def test_training_goes_on_from_a_codec(tmp_path, music):
    given = tiny.codec()
    save_codec(tmp_path / "given", given)
    module = CodecTraining(given.config, OptimConfig(), start_from=str(tmp_path / "given"))
    for (name, ours), theirs in zip(module.codec.state_dict().items(), given.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    with pytest.raises(InputError, match="another shape"):
        CodecTraining(tiny.codec(dim=6).config, OptimConfig(), start_from=str(tmp_path / "given"))


def test_a_decoder_trained_alone_leaves_every_code_as_it_was(tmp_path, music):
    given = tiny.codec()
    save_codec(tmp_path / "given", given)
    module, _, _ = fit(music, tmp_path, start_from=str(tmp_path / "given"), decoder_only=True)
    before, after = given.state_dict(), module.codec.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}
    audio = torch.randn(1, 1, 8000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(given.encode(audio), module.codec.eval().encode(audio))
    with pytest.raises(InputError, match="start_from"):
        CodecTraining(given.config, OptimConfig(), decoder_only=True)


def test_settings_that_cannot_work_are_refused(tmp_path, music):
    with pytest.raises(InputError, match="longest window"):
        fit(music, tmp_path, discriminators=DiscriminatorConfig(windows=(4096,)))
