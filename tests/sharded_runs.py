"""Short trainings in two processes, or in this one: what ``test_sharding`` compares."""

import logging
import os
import signal
import warnings
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from datamodules.tokens import TokenDataModule
from experiments.callbacks.scalars import gradient_norm
from lightning_modules.callbacks import SaveOnExit, WeightAverage
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig
from lightning_modules.sharding import ShardedStrategy
from lightning_modules.whole_checkpoints import WholeCheckpoints

STEPS, STOP, GLOBAL_BATCH, ACCUMULATE = 4, 3, 8, 2
# Odd widths, so that shards are of uneven sizes; gradients are clipped at a norm that they do not keep to.
SHAPE = LanguageModelConfig(dim=20, layers=2, heads=2, codebooks=2, entries=7, ff_ratio=3)
TEXT = replace(tiny.TEXT, ngrams=30)
CLIP = 0.3
_FEW = 8  # losses and counts are fewer, gradients more
REDUCED = []  # sizes of the gradients that were averaged over all processes, in their order


class CountedDDP(DDPStrategy):
    """Writes down what is averaged."""

    def configure_ddp(self):
        super().configure_ddp()
        self.model.register_comm_hook(REDUCED, _average)


def _average(reduced, bucket):
    reduced.append(bucket.buffer().numel())
    return allreduce_hook(None, bucket)


STRATEGIES = {"ddp": CountedDDP, "sharded": ShardedStrategy}


class OfTwoNodes(ShardedStrategy):
    """Has a copy of the model in each of two processes."""

    copies = 2


class Diary(Callback):
    """Which samples each step saw, and their loss; breaks off after a step, or ends with it, if asked to."""

    def __init__(self, stop_at, end_at):
        self.stop_at, self.end_at = stop_at, end_at
        self.steps, self.pending, self.norms = {}, [], []
        self.reduced = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.reduced.append(sum(REDUCED))
        REDUCED.clear()
        self.pending.append((batch.numbers.tolist(), outputs["loss"].item() * trainer.accumulate_grad_batches))
        if len(self.pending) == trainer.accumulate_grad_batches:
            self.steps[trainer.global_step], self.pending = self.pending, []
            if trainer.global_step == self.stop_at:
                raise KeyboardInterrupt
            trainer.should_stop = trainer.global_step == self.end_at

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.norms.append(float(gradient_norm(list(module.parameters()))))


def fit(store, codec, folder, strategy="auto", *, processes=1, stop_at=None, end_at=None, checkpoint=None,
        precision="32-true", **options):  # fmt: skip
    """Trains; what was written down, validation, and the end's weights and average without shards."""
    seed_everything(0, verbose=False)
    module = LanguageModelTraining(SHAPE, TEXT, OptimConfig(lr=1e-2, warmup_steps=2), codec=codec, **options)
    batch = GLOBAL_BATCH // ACCUMULATE // processes
    data = TokenDataModule(store, seconds=2.0, batch_size=batch, workers=0, valid_items=4)
    average, diary = WeightAverage(0.9, 2), Diary(stop_at, end_at)
    trainer = Trainer(
        accelerator="cpu", devices=processes, strategy=strategy,
        precision=precision, max_steps=STEPS, max_epochs=-1, accumulate_grad_batches=ACCUMULATE,
        val_check_interval=2 * ACCUMULATE, check_val_every_n_epoch=None, num_sanity_val_steps=-1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=CLIP,
        use_distributed_sampler=False, default_root_dir=folder, plugins=[WholeCheckpoints()],
        callbacks=[average, SaveOnExit(f"{folder}/last.ckpt"), diary],
    )  # fmt: skip
    with pytest.raises(SystemExit) if stop_at else nullcontext():
        trainer.fit(module, data, ckpt_path=checkpoint)
    if not stop_at:
        trainer.save_checkpoint(f"{folder}/end.ckpt", False)
    found = {
        "steps": diary.steps,
        "norms": diary.norms,
        "reduced": diary.reduced,
        "ce": float(trainer.callback_metrics["valid/ce"]),
    }
    for name, context in (("weights", nullcontext()), ("average", average.applied(module))):
        with context:
            whole = module.whole()
            found[name] = {key: value.clone() for key, value in whole.state_dict().items()} if whole else {}
    return found


def numbers(found):
    """Which samples each step saw, in all processes."""
    steps = found[0]["steps"]
    return {step: sorted(n for one in found for numbers, _ in one["steps"][step] for n in numbers) for step in steps}


def losses(found):
    """Of every micro-batch, over all processes: each has its share of the mean."""
    steps = found[0]["steps"]
    return {
        step: [sum(one["steps"][step][micro][1] for one in found) / len(found) for micro in range(ACCUMULATE)]
        for step in steps
    }


def in_two_processes(folder, work, *arguments):
    """Calls ``work(*arguments)`` in two processes that know each other; it returns what both did, run by run."""
    mp.spawn(_process, (str(folder), work, arguments), nprocs=2)
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _process(rank, folder, work, arguments):
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    # Lightning takes the group that is there, and its place in it from what torchrun would have set.
    names = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in names.items()}, TORCHELASTIC_RUN_ID="here")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="1", GLOO_SOCKET_IFNAME="lo")
    patience = timedelta(seconds=300)  # one may compile while the other waits
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=patience)
    torch.save(work(*arguments), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _counted(tensor, *arguments, all_reduce=dist.all_reduce, **options):
    if tensor.numel() > _FEW:
        REDUCED.append(tensor.numel())
    return all_reduce(tensor, *arguments, **options)


def plain_runs(store, codec, folder, unsharded):
    """By their names."""
    handler = signal.getsignal(signal.SIGINT)
    go = partial(fit, store, codec, processes=2)
    found = {name: go(f"{folder}/{name}", strategy()) for name, strategy in STRATEGIES.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", _counted)
        found["copies"] = go(f"{folder}/copies", OfTwoNodes())
    found["first"] = go(f"{folder}/first", ShardedStrategy(), stop_at=STOP)
    signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
    found["rest"] = go(f"{folder}/rest", ShardedStrategy(), checkpoint=f"{folder}/first/last.ckpt")
    found["from-file"] = go(f"{folder}/from-file", ShardedStrategy(), checkpoint=unsharded)
    return found


def switched_runs(store, codec, folder):
    """Two steps with each switch, which must make no difference, or only that of the precision."""
    go = partial(fit, store, codec, processes=2, end_at=2)
    found = {}
    for name, strategy in STRATEGIES.items():
        found[f"{name}-bf16"] = go(f"{folder}/{name}-bf16", strategy(), precision="bf16-mixed")
        for blocks in (1, 2):
            found[f"{name}-recompute-{blocks}"] = go(f"{folder}/{name}-{blocks}", strategy(), recompute=blocks)
        found[f"{name}-compiled"] = go(f"{folder}/{name}-compiled", strategy(), compiled=True, recompute=2)
    return found
