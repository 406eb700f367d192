"""Steps that are left out, runs that are asked to stop, processes that hang, memory that does not suffice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch import Callback, Trainer, seed_everything

from datamodules.errors import InputError
from datamodules.tokens import TokenDataModule
from experiments.__main__ import main
from experiments.callbacks.guards import QUEUE_AGAIN, Guards
from experiments.callbacks.watch import Watch
from experiments.out_of_memory import is_out_of_memory, what_to_change
from lightning_modules.callbacks import SaveOnExit, WeightAverage
from lightning_modules.codec.folder import save_codec
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig

pytestmark = pytest.mark.usefixtures("trains_here")

STEPS = 6


class Spoiler(Callback):
    """Makes numbers that are not finite: in the loss, or in the gradient, of the given micro-batches."""

    def __init__(self, loss=(), gradient=()):
        self.loss, self.gradient = loss, gradient
        self.seen, self.weights = [], {}

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen.append(batch.numbers.tolist())
        if batch_idx in self.loss:
            # A sample whose codes make the logits infinite, say.
            module.lm.heads.register_forward_hook(lambda layer, given, out: out * torch.nan, always_call=False)

    def on_after_backward(self, trainer, module):
        module.lm.heads._forward_hooks.clear()
        if len(self.seen) - 1 in self.gradient:
            module.lm.heads.weight.grad[0, 0] = torch.inf

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.weights[batch_idx] = module.lm.heads.weight.detach().clone()


class Kill(Callback):
    """Sends a signal in the middle of a step."""

    def __init__(self, number, step, times=1):
        self.number, self.step, self.times = number, step, times

    def on_before_backward(self, trainer, module, loss):
        if trainer.global_step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
            self.times = 0


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    made = tiny.write_store(folder / "tokens")
    save_codec(folder / "codec", codec := tiny.codec(codebooks=2, entries=8))
    index = json.loads((made / "index.json").read_text())
    (made / "index.json").write_text(json.dumps({**index, "codec": codec.checksum}))
    return made


def fit(store, folder, *callbacks, raises=None, checkpoint=None, clip=1.0, algorithm="adamw"):
    seed_everything(0, verbose=False)
    lm = LanguageModelConfig(dim=16, layers=1, heads=2, codebooks=2, entries=8, ff_ratio=2)
    optim = OptimConfig(lr=1.0 if algorithm == "dadaptation" else 1e-2, warmup_steps=2, algorithm=algorithm)
    module = LanguageModelTraining(lm, tiny.TEXT, optim, codec=str(store.parent / "codec"))
    data = TokenDataModule(str(store), seconds=2.0, batch_size=2, workers=0, valid_items=4)
    saving = [WeightAverage(0.9, 2), SaveOnExit(str(folder / "last.ckpt"))]
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=STEPS, max_epochs=-1, accumulate_grad_batches=2, logger=False,
        limit_val_batches=0, check_val_every_n_epoch=None, num_sanity_val_steps=0, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=clip, use_distributed_sampler=False,
        default_root_dir=folder, callbacks=[*callbacks[:-1], *saving, *callbacks[-1:]],
    )  # fmt: skip
    with pytest.raises(raises) if raises else nullcontext() as found:
        trainer.fit(module, data, ckpt_path=checkpoint)
    return module, trainer, found


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_guards_change_nothing(store, tmp_path):
    assert same(fit(store, tmp_path, Spoiler())[0], fit(store, tmp_path, Spoiler(), Guards())[0])


@pytest.mark.parametrize("algorithm", ["adamw", "dadaptation"])
@pytest.mark.parametrize("spoilt", [{"loss": (5,)}, {"gradient": (5,)}])
def test_a_step_that_is_not_finite_is_left_out(store, tmp_path, capsys, spoilt, algorithm):
    if algorithm == "dadaptation":
        pytest.importorskip("dadaptation")
    seen = Spoiler(**spoilt)
    module, trainer, _ = fit(store, tmp_path, seen, Guards(), algorithm=algorithm)
    # Micro-batches 4 and 5 make the third step, which changes nothing, and the run goes on with the next samples.
    assert torch.equal(seen.weights[5], seen.weights[3])
    assert not torch.equal(seen.weights[7], seen.weights[5])
    assert all(weight.isfinite().all() for weight in module.state_dict().values())
    assert trainer.global_step == STEPS
    assert seen.seen == [[2 * n, 2 * n + 1] for n in range(2 * STEPS)]
    said = capsys.readouterr().err
    what = "loss" if "loss" in spoilt else "gradient"
    assert f"step 3: the {what} is not finite; the step is left out (1 in a row, 10 end the run)" in said
    numbers = [10, 11] if what == "loss" else [8, 9, 10, 11]
    assert [int(word) for word in said.split("Samples: ")[1].replace("(", " ").split() if word.isdigit()] == numbers


def test_a_left_out_step_is_one_that_the_optimiser_never_made(store, tmp_path):
    """Its moments, its weight decay and its count of steps are as if it had not been."""
    _, trainer, _ = fit(store, tmp_path, Spoiler(loss=(2, 5)), Guards())
    states = trainer.optimizers[0].state.values()
    assert {int(state["step"]) for state in states} == {STEPS - 2}


def test_many_in_a_row_end_the_run(store, tmp_path, capsys):
    spoilt = Spoiler(loss=range(2, 12))
    guards = Guards(patience=3)
    _, trainer, found = fit(store, tmp_path, spoilt, guards, raises=InputError)
    assert trainer.global_step == 4
    assert "3 steps in a row" in str(found.value)
    assert "there is no checkpoint yet" in str(found.value)
    (tmp_path / "last.ckpt").touch()
    _, _, found = fit(store, tmp_path, Spoiler(loss=range(2, 12)), Guards(patience=3), raises=InputError)
    assert f"last good checkpoint is {tmp_path}/last.ckpt" in str(found.value)
    with pytest.raises(InputError, match="patience is 0"):
        Guards(0)


@pytest.mark.parametrize(("scale", "loss", "left_out"), [(1024.0, False, 0), (0.5, False, 1), (1024.0, True, 1)])
def test_a_scaler_deals_with_its_own_overflows(scale, loss, left_out):
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, torch.inf])
    optimizer, guards = torch.optim.SGD([weight]), Guards()
    trainer = SimpleNamespace(
        precision_plugin=SimpleNamespace(scaler=SimpleNamespace(get_scale=lambda: scale)),
        global_step=0, is_global_zero=True,
    )  # fmt: skip
    guards.on_before_backward(trainer, None, torch.tensor(torch.nan if loss else 1.0))
    guards.on_before_optimizer_step(trainer, None, optimizer)
    guards.on_train_batch_end(trainer, None, None, None, 0)
    assert guards.left_out == left_out
    assert (weight.grad is None) == bool(left_out)


# ---- several processes ----------------------------------------------------------------------------------------------
def _process(rank, folder):
    torch.set_num_threads(1)
    meet, patience = f"file://{folder}/meet", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=patience)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer, guards = torch.optim.SGD([weight]), Guards()
    trainer = SimpleNamespace(precision_plugin=None, global_step=0, is_global_zero=rank == 0, default_root_dir=folder)
    found = []
    for step in range(3):
        batch = SimpleNamespace(numbers=torch.tensor([2 * step + rank]), tracks=[f"track-{rank}"])
        guards.on_train_batch_start(trainer, None, batch, step)
        # In the second step one process alone has a bad loss, in the third one alone hears a signal.
        guards.on_before_backward(trainer, None, torch.tensor(torch.inf if (step, rank) == (1, 1) else 1.0))
        weight.grad = torch.ones(2)
        if (step, rank) == (2, 1):
            guards.signals.asked = 3
        guards.on_before_optimizer_step(trainer, None, optimizer)
        found.append(weight.grad is None)
        try:
            guards.on_train_batch_end(trainer, None, None, batch, step)
        except SystemExit as stop:
            found.append(stop.code)
            guards.on_exception(trainer, None, stop)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_processes_leave_out_and_stop_together(tmp_path, capfd):
    mp.spawn(_process, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == [False, True, False, 0]
    assert "step 1: the loss is not finite" in (said := capfd.readouterr().err)
    assert "Samples: 3 (track-1)" in said
    assert said.count("not finite") == 1
    assert (tmp_path / QUEUE_AGAIN).exists()


def _hanging(rank, folder, hangs):
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    watch, trainer = Watch(minutes=0.02), SimpleNamespace(global_step=0)
    watch.on_train_start(trainer, None)
    for step in range(3):
        watch.on_train_batch_start(trainer, None, None, step)
        if (step, rank) == (2, 1) and hangs:
            time.sleep(60)
        watch.on_before_backward(trainer, None, None)
        dist.all_reduce(torch.ones(1))
        watch.on_train_batch_end(trainer, None, None, None, step)
    watch.on_train_end(trainer, None)
    assert threading.active_count() == 1  # nobody is at the store when the interpreter goes
    dist.destroy_process_group()  # else a thread of it may still hold the last tensor when the interpreter goes


@pytest.mark.parametrize("hangs", [True, False])
def test_a_process_that_hangs_is_named(tmp_path, capfd, hangs):
    with pytest.raises(mp.ProcessExitedException, match="exit code 1") if hangs else nullcontext():
        mp.spawn(_hanging, (str(tmp_path), hangs), nprocs=2)
    said = capfd.readouterr().err
    assert ("process 1 on " in said) == hangs
    if hangs:
        assert "hangs in forward of micro-batch 2: it is behind the others, which wait for it" in said


# ---- signals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143), (signal.SIGUSR1, 0)], ids=lambda one: str(one)
)
def test_a_signal_ends_the_run_after_its_step(store, tmp_path, number, code):
    whole = fit(store, tmp_path, Spoiler(), Guards())[0]
    _, trainer, found = fit(store, tmp_path, Kill(number, 3), Guards(), raises=SystemExit)
    assert found.value.code == code
    assert trainer.global_step == 4
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4
    assert (tmp_path / QUEUE_AGAIN).exists() == (number == signal.SIGUSR1)
    assert same(fit(store, tmp_path, Spoiler(), Guards(), checkpoint=tmp_path / "last.ckpt")[0], whole)
    assert not (tmp_path / QUEUE_AGAIN).exists()


def test_ctrl_c_twice_saves_nothing(store, tmp_path):
    _, trainer, found = fit(store, tmp_path, Kill(signal.SIGINT, 3, times=2), Guards(), raises=SystemExit)
    assert (found.value.code, trainer.global_step) == (130, 3)
    assert not (tmp_path / "last.ckpt").exists()


def test_loaders_are_deaf_to_signals_for_the_training(tmp_path):
    """Started as ``shield_workers`` has them started, in a process of its own, whose server is not up yet."""
    script = tmp_path / "deaf.py"
    script.write_text(
        "import multiprocessing, os, signal, time\nfrom types import SimpleNamespace\n"
        "from experiments.callbacks.signals import shield_workers\n"
        "if __name__ == '__main__':\n"
        "    shield_workers(SimpleNamespace(workers=1))\n"
        "    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "    one = multiprocessing.get_context('forkserver').Process(target=time.sleep, args=(3,))\n"
        "    one.start()\n    time.sleep(1)\n"
        "    os.kill(one.pid, signal.SIGINT); os.kill(one.pid, signal.SIGUSR1)\n"
        "    one.join()\n    print('code', one.exitcode)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "code 0", done.stderr


# ---- memory ---------------------------------------------------------------------------------------------------------
CONFIG = {
    "model": {"init_args": {"recompute": 0}},
    "data": {"init_args": {"batch_size": 6}},
    "trainer": {"strategy": "ddp"},
}


def test_what_to_change_where_memory_is_short(monkeypatch, capsys, tmp_path):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has ...")
    line = what_to_change(error, CONFIG)
    assert "another 2.50 GiB" in line
    for way in ("--data.init_args.batch_size 3, now 6", "--model.init_args.recompute 2", "-c cluster/sharded"):
        assert way in line
    least = {
        "model": {"init_args": {"recompute": 2}},
        "data": {"init_args": {"batch_size": 1}},
        "trainer": {"strategy": {"class_path": "lightning_modules.sharding.ShardedStrategy"}},
    }
    assert "a smaller model" in what_to_change(error, least)
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_run_that_is_out_of_memory_ends_with_one_line(monkeypatch, capsys, store, tmp_path):
    def full(self, batch, index):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LanguageModelTraining, "training_step", full)
    with pytest.raises(SystemExit) as end:
        main([
            "fit", "-c", "lm", "-c", "size/nano", "-c", "conditioning/bytes", "-c", "cluster/cpu", "--run", "run",
            "--data.init_args.store", str(store), "--data.init_args.seconds", "2", "--data.init_args.batch_size", "4",
            "--model.init_args.codec", str(store.parent / "codec"), "--model.init_args.lm.codebooks", "2",
            "--model.init_args.lm.entries", "8", "--trainer.num_sanity_val_steps", "0",
            "--model.init_args.lm.dim", "16",
        ])  # fmt: skip
    assert end.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("mgl fit: out of memory: another 20.00 MiB are wanted")
    assert "batch_size 2, now 4" in said
