"""An interrupted and resumed training is the training that was never interrupted, bit for bit."""

import json
import multiprocessing
import os
import socket
from contextlib import nullcontext

import pytest
import tiny
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from datamodules.errors import InputError
from datamodules.tokens import TokenDataModule
from lightning_modules.callbacks import SaveOnExit, WeightAverage
from lightning_modules.codec.folder import save_codec
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig

STEPS = 6


class Diary(Callback):
    """Writes down what every optimiser step was made of, and can break off in the middle of one."""

    def __init__(self, interrupt_at=None):
        self.interrupt_at = interrupt_at
        self.steps, self.pending = {}, []
        self.validation = {}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.pending.append((batch.numbers.tolist(), outputs["loss"].item()))
        if len(self.pending) == trainer.accumulate_grad_batches:
            self.steps[trainer.global_step], self.pending = self.pending, []
        if (trainer.global_step, len(self.pending)) == self.interrupt_at:
            raise KeyboardInterrupt

    def on_validation_end(self, trainer, module):
        self.validation[trainer.global_step] = trainer.callback_metrics["valid/ce"].item()

    def numbers(self):
        """Which samples each step saw."""
        return {step: sorted(n for numbers, _ in micro for n in numbers) for step, micro in self.steps.items()}


def codec_of(store, entries=8):
    """The folder of the codec that wrote the store, made when first asked for."""
    folder = store.parent / f"{store.name}-codec"
    if not folder.exists():
        save_codec(folder, made := tiny.codec(codebooks=2, entries=entries))
        index = json.loads((store / "index.json").read_text())
        (store / "index.json").write_text(json.dumps({**index, "codec": made.checksum}))
    return str(folder)


def fit(
    store, folder, *, interrupt_at=None, checkpoint=None, batch=2, accumulate=4, workers=0, seed=0, devices=1
):  # fmt: skip
    before = torch.random.get_rng_state()
    seed_everything(seed, verbose=False)
    lm = LanguageModelConfig(dim=16, layers=1, heads=2, codebooks=2, entries=8, ff_ratio=2)
    optim = OptimConfig(lr=1e-2, warmup_steps=2)
    module = LanguageModelTraining(lm, tiny.TEXT, optim, codec=codec_of(store), seed=seed)
    data = TokenDataModule(str(store), seconds=2.0, batch_size=batch, workers=workers, seed=seed, valid_items=4)
    average, diary = WeightAverage(0.9, 2), Diary(interrupt_at)
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto",
        max_steps=STEPS, max_epochs=-1, accumulate_grad_batches=accumulate,
        val_check_interval=2 * accumulate, check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
        use_distributed_sampler=False, default_root_dir=folder,
        callbacks=[average, SaveOnExit(str(folder / "last.ckpt")), diary],
    )  # fmt: skip
    with pytest.raises(SystemExit) if interrupt_at else nullcontext():
        trainer.fit(module, data, ckpt_path=checkpoint)
    torch.random.set_rng_state(before)
    return diary, module, average


@pytest.fixture(autouse=True)
def preloaded(trains_here):
    """Loader processes are forked from a server that has imported everything once."""
    multiprocessing.set_forkserver_preload(["datamodules.tokens"])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    store = tiny.write_store(folder / "tokens")
    return store, *fit(store, folder)


def assert_same_end(one, other):
    for (name, ours), theirs in zip(one[1].state_dict().items(), other[1].state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    for ours, theirs in zip(one[2]._average, other[2]._average, strict=True):
        assert torch.equal(ours, theirs)
    assert one[2].updates == other[2].updates


def test_an_uninterrupted_run_sees_every_sample_once(straight):
    _, diary, _, average = straight
    assert diary.numbers() == {step: list(range(8 * step - 8, 8 * step)) for step in range(1, STEPS + 1)}
    assert average.updates == STEPS // 2
    assert list(diary.validation) == [2, 4, 6]
    losses = [loss for micro in diary.steps.values() for _, loss in micro]
    assert len(set(losses)) > STEPS  # it does learn


# Broken off after a whole step, in the middle of one, and one micro-batch before its end.
@pytest.mark.parametrize(("interrupt_at", "workers"), [((3, 2), 0), ((4, 0), 0), ((1, 3), 0), ((2, 1), 2)])
def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, straight, interrupt_at, workers):
    store, *whole = straight
    first, _, _ = fit(store, tmp_path, interrupt_at=interrupt_at)
    assert list(first.steps) == list(range(1, interrupt_at[0] + 1))
    rest = fit(store, tmp_path, checkpoint=tmp_path / "last.ckpt", workers=workers)
    assert {**first.steps, **rest[0].steps} == whole[0].steps
    assert list(rest[0].steps) == list(range(interrupt_at[0] + 1, STEPS + 1))
    # A validation that was due at the very moment of the interruption is left out.
    due = {step: value for step, value in whole[0].validation.items() if (step, 0) != interrupt_at}
    assert {**first.validation, **rest[0].validation} == due
    assert_same_end(rest, whole)


def test_a_run_can_be_interrupted_twice(tmp_path, straight):
    store, *whole = straight
    fit(store, tmp_path, interrupt_at=(2, 1))
    checkpoint = tmp_path / "last.ckpt"
    seen, _, _ = fit(store, tmp_path, interrupt_at=(4, 3), checkpoint=checkpoint)
    assert list(seen.steps) == [3, 4]
    rest = fit(store, tmp_path, checkpoint=checkpoint)
    assert {**seen.steps, **rest[0].steps} == {s: m for s, m in whole[0].steps.items() if s > 2}
    assert_same_end(rest, whole)


def test_a_run_resumes_with_another_batch_size(tmp_path, straight):
    store, *whole = straight
    fit(store, tmp_path, interrupt_at=(3, 1))  # 3 x 4 micro-batches are no multiple of 8
    for batch, accumulate in ((4, 2), (1, 8)):
        rest, module, _ = fit(store, tmp_path, checkpoint=tmp_path / "last.ckpt", batch=batch, accumulate=accumulate)
        assert rest.numbers() == {step: n for step, n in whole[0].numbers().items() if step > 3}
        assert list(rest.validation) == [4, 6]
        # The mean over micro-batches of another size weighs padded windows a little differently, hence not bit for bit.
        assert torch.isfinite(module.lm.heads.weight).all()


def _rank(rank, store, folder, options):
    """One of two processes, as torchrun starts them."""
    torch.set_num_threads(1)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in ranks.items()})
    os.environ.update({"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": options.pop("port")})
    diary, _, _ = fit(store, folder, devices=2, **options)
    torch.save((diary.numbers(), diary.validation), folder / f"{rank}.pt")


def two_processes(store, folder, **options):
    """Samples of each step of both, and their validations."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        options["port"] = str(free.getsockname()[1])
    torch.multiprocessing.spawn(_rank, (store, folder, options), nprocs=2)
    (one, validation), (two, _) = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    return {step: sorted(one[step] + two[step]) for step in one}, validation


def test_a_run_resumes_with_another_number_of_processes(tmp_path, straight):
    store, *whole = straight
    expected = whole[0].numbers()
    seen, _ = two_processes(store, tmp_path, accumulate=2, interrupt_at=(3, 1))
    assert seen == {step: n for step, n in expected.items() if step <= 3}
    rest, _, _ = fit(store, tmp_path, checkpoint=tmp_path / "last.ckpt")
    assert rest.numbers() == {step: n for step, n in expected.items() if step > 3}
    # And back again: one process, then two. Dropouts go by samples' numbers, so that both end alike; not bit for bit,
    # for other samples share a micro-batch, in which padded windows weigh a little more or less.
    fit(store, tmp_path, interrupt_at=(2, 3))
    seen, validation = two_processes(store, tmp_path, accumulate=2, checkpoint=tmp_path / "last.ckpt")
    assert seen == {step: n for step, n in expected.items() if step > 2}
    for found in (rest.validation, validation):
        assert found[STEPS] == pytest.approx(whole[0].validation[STEPS], rel=0.01)


def test_one_seed_one_run(tmp_path, straight):
    store, *whole = straight
    again = fit(store, tmp_path)
    assert again[0].steps == whole[0].steps
    assert_same_end(again, whole)
    other = fit(store, tmp_path, seed=1)
    assert other[0].steps != whole[0].steps


def test_interruption_before_the_first_step_leaves_nothing(tmp_path, straight, capsys):
    fit(straight[0], tmp_path, interrupt_at=(0, 2))
    assert not (tmp_path / "last.ckpt").exists()
    assert "nothing to save" in capsys.readouterr().out


def test_tokens_of_another_codec_are_refused(tmp_path, straight):
    store = TokenDataModule(str(straight[0]), seconds=2.0)
    lm = LanguageModelConfig(dim=16, layers=1, heads=2, codebooks=2, entries=8)
    save_codec(tmp_path / "codec", tiny.codec(codebooks=2, entries=8, filters=8))
    cases = (
        (lm, str(tmp_path / "codec"), "come from codec"),
        (lm, str(tmp_path / "nowhere"), "not a model folder"),
        (lm, "", "carries its codec"),
        (LanguageModelConfig(dim=16, layers=1, heads=2, codebooks=4, entries=8), "codec", "2 codebooks of 8"),
    )
    for shape, codec, message in cases:
        module = LanguageModelTraining(shape, tiny.TEXT, OptimConfig(), codec=codec)
        trainer = Trainer(accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False)
        with pytest.raises(InputError, match=message):
            trainer.fit(module, store)
