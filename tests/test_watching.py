"""What one sees of a training: speed by a clock of our own, gradient norms against a loop, the bar and the lines."""

import io
import re
from datetime import timedelta
from types import SimpleNamespace

import pytest
import rich
import tiny
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch import Callback, Trainer
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from datamodules.batches import TokenBatch
from datamodules.tokens import TokenDataModule
from experiments.callbacks import speed as speed_module
from experiments.callbacks.progress import LineProgress, TrainingBar, said
from experiments.callbacks.scalars import OptimiserScalars, gradient_norm
from experiments.callbacks.speed import Speed
from experiments.flops import training_flops
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig, learning_rate_factor

SHAPE = LanguageModelConfig(dim=16, layers=6, heads=2, codebooks=2, entries=8, ff_ratio=2)
OPTIM = OptimConfig(lr=1e-2, warmup_steps=2)


def training(shape=SHAPE):
    torch.manual_seed(0)
    return LanguageModelTraining(shape, tiny.TEXT, OPTIM)


def fit(store, *callbacks, steps=6, accumulate=2, **options):
    module = training()
    module.setup = lambda stage: None  # the store's codec is not asked for
    data = TokenDataModule(str(store), seconds=2.0, batch_size=2, workers=0, valid_items=4)
    defaults = {"logger": False, "enable_progress_bar": False, "gradient_clip_val": 0.01, "log_every_n_steps": 2}
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, accumulate_grad_batches=accumulate,
        val_check_interval=2 * accumulate, check_val_every_n_epoch=None, num_sanity_val_steps=0,
        enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False,
        callbacks=list(callbacks), **{**defaults, **options},
    )  # fmt: skip
    trainer.fit(module, data)
    return module, trainer


class Logged(Callback):
    """What was logged at each step, and the gradients it was logged of, by a loop."""

    def __init__(self):
        self.steps, self.norms = {}, {}

    def on_before_optimizer_step(self, trainer, module, optimizer):
        squares = {name: float(p.grad.double().square().sum()) for name, p in module.named_parameters()}
        self.norms[trainer.global_step + 1] = {name: square**0.5 for name, square in squares.items()}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.steps[trainer.global_step] = {name: float(x) for name, x in trainer.callback_metrics.items()}


def test_every_trained_parameter_is_of_one_part():
    for shape in (SHAPE, LanguageModelConfig(dim=16, layers=1, heads=2, codebooks=2, entries=8)):
        module = training(shape)
        parts = module.parts()
        assert sorted(id(p) for some in parts.values() for p in some) == sorted(id(p) for p in module.parameters())
        blocks = [name for name in parts if name.startswith("blocks")]
        assert blocks == (["blocks_0-1", "blocks_2-3", "blocks_4-5"] if shape is SHAPE else ["blocks_0"])
        assert {"text_encoder", "projection_text", "embedding", "heads"} == set(parts) - set(blocks)


def test_gradient_norms_are_those_of_a_loop_before_clipping(token_store):
    logged = Logged()
    fit(token_store, OptimiserScalars(), logged)
    prefixes = {
        "text_encoder": "trained_conditioners.", "projection_text": "lm.projections.text", "embedding": "lm.embedding",
        "heads": ("lm.heads", "lm.transformer.norm."), "all": "",
        "blocks_2-3": ("lm.transformer.blocks.2.", "lm.transformer.blocks.3."),
    }  # fmt: skip
    for step in (2, 4, 6):
        for part, prefix in prefixes.items():
            slow = sum(x**2 for name, x in logged.norms[step].items() if name.startswith(prefix)) ** 0.5
            assert slow > 0
            assert logged.steps[step][f"grad/{part}"] == pytest.approx(slow, rel=1e-5), part
        # The rate that this very step was taken with.
        assert logged.steps[step]["optim/lr"] == pytest.approx(OPTIM.lr * learning_rate_factor(step - 1, OPTIM, 6))
        assert "optim/loss_scale" not in logged.steps[step]
    # Every second step alone; in between stands what was logged last.
    assert logged.steps[3]["grad/all"] == logged.steps[2]["grad/all"] != logged.steps[4]["grad/all"]
    assert "grad/all" not in logged.steps[1]


def test_the_loss_scale_and_what_d_adaptation_found():
    found = {}
    module = training()
    module.log_dict = lambda values, **given: found.update(values)
    scaler = SimpleNamespace(get_scale=lambda: 4096.0)
    trainer = SimpleNamespace(global_step=9, log_every_n_steps=10, precision_plugin=SimpleNamespace(scaler=scaler))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    OptimiserScalars().on_before_optimizer_step(trainer, module, optimizer)
    assert (found["optim/loss_scale"], found["optim/lr"]) == (4096.0, 0.5)
    assert float(found["grad/all"]) == 0  # there are no gradients yet
    optimizer.param_groups[0]["d"] = 0.01
    OptimiserScalars().on_before_optimizer_step(trainer, module, optimizer)
    assert found["optim/lr"] == pytest.approx(0.005)
    trainer.global_step = 10
    found.clear()
    OptimiserScalars().on_before_optimizer_step(trainer, module, optimizer)
    assert not found


def test_a_norm_of_no_gradients_is_zero():
    assert float(gradient_norm([torch.nn.Parameter(torch.ones(3))])) == 0


def _sharded_norm(rank, folder):
    meet, patience = f"file://{folder}/meet", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=patience)
    mesh = init_device_mesh("cpu", (2,))
    gradients = torch.arange(15.0).view(5, 3), torch.ones(2)
    parameters = [torch.nn.Parameter(distribute_tensor(torch.zeros_like(one), mesh, [Shard(0)])) for one in gradients]
    for parameter, one in zip(parameters, gradients, strict=True):
        parameter.grad = distribute_tensor(one, mesh, [Shard(0)])
    torch.save(gradient_norm(parameters), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_the_norm_of_sharded_gradients_is_that_of_the_whole(tmp_path):
    mp.spawn(_sharded_norm, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        norm = torch.load(tmp_path / f"{rank}.pt")
        assert type(norm) is torch.Tensor
        assert float(norm) == pytest.approx((sum(k**2 for k in range(15)) + 2) ** 0.5)


# ---- speed ----------------------------------------------------------------------------------------------------------
class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


def batch(crops=3, frames=5):
    return TokenBatch(
        torch.zeros(crops, 2, frames, dtype=torch.int64), torch.full((crops,), frames), [], None, [], None
    )


def drive(monkeypatch, speed, batches, accumulate=2, world=1, validate_after=()):
    """Micro-batches of these seconds each, on a clock of our own; what was logged, by optimiser step."""
    clock, logged, module = Clock(), {}, training()
    monkeypatch.setattr(speed_module, "time", clock)
    module.condition_places = {"text": 7}
    state = SimpleNamespace(
        global_step=0, world_size=world, accumulate_grad_batches=accumulate, log_every_n_steps=1, is_global_zero=True
    )
    module.log_dict = lambda values, **given: logged.update({state.global_step: values})
    peak = speed.peak
    speed.on_train_start(state, module)
    speed.peak = peak
    for index, seconds in enumerate(batches):
        clock.now += seconds
        state.global_step = (index + 1) // accumulate
        speed.on_train_batch_end(state, module, None, batch(), index)
        if index in validate_after:
            speed.on_validation_start(state, module)
            clock.now += 1000
            speed.on_validation_end(state, module)
            with speed.paused():
                clock.now += 1000
    return logged, state


def test_speed_by_a_clock(monkeypatch):
    logged, _ = drive(monkeypatch, Speed(), [3.0, 1.0, 0.5, 0.5], validate_after=(1,))
    assert list(logged) == [1, 2]
    assert logged[1]["speed/seconds_per_step"] == pytest.approx(4.0)
    assert logged[2]["speed/seconds_per_step"] == pytest.approx(2.5)
    # 3 crops x 2 codebooks x 5 frames a micro-batch
    assert logged[2]["speed/tokens_per_second"] == pytest.approx(4 * 30 / 5.0)
    assert "speed/mfu" not in logged[2]


def test_the_use_of_the_peak_of_all_devices(monkeypatch):
    speed = Speed()
    speed.peak = 1e6
    logged, _ = drive(monkeypatch, speed, [2.0, 2.0], world=4)
    flops = training_flops(SHAPE, {"text": 16}, {"text": 7}, crops=3, frames=5).total
    assert logged[1]["speed/mfu"] == pytest.approx(2 * flops / 4.0 / 1e6)
    assert logged[1]["speed/tokens_per_second"] == pytest.approx(4 * 2 * 30 / 4.0)


def test_the_first_micro_batches_are_forgotten(monkeypatch):
    logged, _ = drive(monkeypatch, Speed(), [50.0] * 2 + [1.0] * 100)
    assert logged[1]["speed/seconds_per_step"] == pytest.approx(100)
    assert logged[51]["speed/seconds_per_step"] == pytest.approx(2)


def test_what_mfu_means_is_said(monkeypatch, capsys):
    module = training()
    monkeypatch.setattr(type(module), "device", torch.device("cuda", 0))
    state = SimpleNamespace(is_global_zero=True)
    for name, peak, words in (
        ("NVIDIA H100 80GB HBM3", 989.4e12, ("6 FLOPs", "989.4 TFLOP/s", "dense bfloat16")),
        ("NVIDIA Unheard Of", None, ("none", "NVIDIA Unheard Of")),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        speed = Speed()
        speed.on_train_start(state, module)
        assert speed.peak == peak
        told = capsys.readouterr().out
        assert told.count("\n") == 1
        assert all(word in told for word in words)


# ---- words ----------------------------------------------------------------------------------------------------------
def test_headings(monkeypatch):
    speed = Speed()
    speed.peak = 1e6
    _, state = drive(monkeypatch, speed, [2.0, 2.0])
    books = {f"train/ce_{k}": torch.tensor(6.0 + k / 10) for k in (10, 2, 0)}
    state.callback_metrics, state.callbacks, state.max_steps = {"train/ce": torch.tensor(1.0), **books}, [speed], 901
    mfu = 200 * training_flops(SHAPE, {"text": 16}, {"text": 7}, crops=3, frames=5).total / 4e6
    assert said(state) == {
        "ce": "6.00 6.20 7.00",
        "tokens/s": "15",
        "MFU": f"{mfu:.1f} %",
        "a step": "4 s",
        "left": "60 min",
    }
    state.callback_metrics, state.callbacks = {}, []
    assert said(state) == {}


def test_lines_of_a_log(token_store, capsys):
    fit(token_store, Speed(), LineProgress(seconds=0.0), accumulate=3, steps=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    for number, line in enumerate(lines, 1):
        place = f"step {number // 3} of 2, micro-batch {(number - 1) % 3 + 1} of 3: loss "
        assert line.startswith(place)
        assert re.fullmatch(
            r"\d\.\d{4}, ce \d\.\d\d \d\.\d\d, tokens/s [\d,]+, a step \S+ s, left .*", line[len(place) :]
        )
    fit(token_store, Speed(), LineProgress(), steps=2)
    assert len(capsys.readouterr().out.splitlines()) == 1  # the first, then one every 15 s


def test_the_bar(token_store, monkeypatch):
    monkeypatch.setattr("experiments.callbacks.progress._PAUSE", 0.0)
    bar, shown = TrainingBar(), io.StringIO()
    bar._console_kwargs = {"file": shown, "force_terminal": True, "width": 160, "color_system": None}
    try:
        fit(token_store, Speed(), bar, enable_progress_bar=True)
    finally:
        rich.reconfigure()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue()).replace("\u00a0", " ")
    last = [line for line in re.split(r"[\r\n]+", text) if "Training" in line][-1]
    assert re.search(r"6/6 0:00:\d\d ce: \d\.\d\d \d\.\d\d tokens/s: [\d,]+ a step: \S+ s left: 0 s", last), last
    assert "MFU" not in text  # a CPU has no peak here
