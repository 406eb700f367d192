"""Two processes, data parallel or sharded, train what one does; sharded checkpoints are whole ones in parts."""

import logging
import signal

import pytest
import sharded_runs
import tiny
import torch
import torch.distributed as dist
from sharded_runs import CLIP, GLOBAL_BATCH, SHAPE, STEPS, STOP, TEXT, fit, in_two_processes, losses, numbers
from test_resume import codec_of
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from datamodules.errors import InputError
from experiments.runs import restore
from lightning_modules.callbacks import WeightAverage
from lightning_modules.checkpoints import load_model
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig
from lightning_modules.sharding import META, ShardedStrategy, put


@pytest.fixture(autouse=True, scope="module")
def tidy():
    """Lightning leaves SIGINT ignored after an interruption, and a seed in the environment."""
    patch, handler = pytest.MonkeyPatch(), signal.getsignal(signal.SIGINT)
    patch.setenv("PL_GLOBAL_SEED", "0")
    patch.setenv("GLOO_SOCKET_IFNAME", "lo")
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with torch.random.fork_rng():
        yield
    logger.setLevel(level)
    patch.undo()
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharding")


@pytest.fixture(scope="module")
def data(folder):
    """Token store, and the codec's folder."""
    store = tiny.write_store(folder / "tokens", entries=SHAPE.entries)
    return str(store), codec_of(store, SHAPE.entries)


@pytest.fixture(scope="module")
def one(folder, data):
    """The training in one process."""
    fit(*data, f"{folder}/one-first", stop_at=STOP)
    return fit(*data, f"{folder}/one")


@pytest.fixture(scope="module")
def two(folder, data, one):
    """What two processes train, by name, a list of both."""
    return of_both(folder, sharded_runs.plain_runs, *data, str(folder), f"{folder}/one-first/last.ckpt")


@pytest.fixture(scope="module")
def switched(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("switched")
    return of_both(folder, sharded_runs.switched_runs, *data, str(folder))


def of_both(folder, work, *arguments):
    parts = in_two_processes(folder, work, *arguments)
    return {name: [part[name] for part in parts] for name in parts[0]}


def assert_close(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    assert ours
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def assert_goes_on_as(found, wanted, tolerance=1e-5):
    """The steps that were trained are those of the other training, and the end is the same."""
    for step, values in losses(found).items():
        assert values == pytest.approx(losses(wanted)[step], abs=tolerance), step
        assert numbers(found)[step] == numbers(wanted)[step]
    assert max(losses(found)) == STEPS
    assert found[0]["ce"] == pytest.approx(wanted[0]["ce"], abs=tolerance)
    for part in ("weights", "average"):
        assert_close(found[0][part], wanted[0][part], atol=tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("name", ["ddp", "sharded", "copies"])
def test_two_processes_train_what_one_does(one, two, name):
    assert numbers([one]) == {n: list(range(GLOBAL_BATCH * (n - 1), GLOBAL_BATCH * n)) for n in range(1, STEPS + 1)}
    assert list(two[name][0]["steps"]) == list(range(1, STEPS + 1))
    assert_goes_on_as(two[name], [one])
    assert min(one["norms"]) > CLIP  # every step is clipped
    for rank in two[name]:
        assert rank["norms"] == pytest.approx(one["norms"], rel=1e-5)


@pytest.mark.parametrize("name", ["ddp", "copies"])
def test_gradients_are_averaged_once_a_step(data, two, name):
    module = LanguageModelTraining(SHAPE, TEXT, OptimConfig(), codec=data[1])
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    for rank in two[name]:
        assert rank["reduced"] == [0, trained] * STEPS  # of two micro-batches a step, in the last


def test_a_sharded_run_resumes_bit_for_bit(two):
    assert list(two["first"][0]["steps"]) == list(range(1, STOP + 1))
    assert list(two["rest"][0]["steps"]) == list(range(STOP + 1, STEPS + 1))
    for part in ("first", "rest"):
        for ours, whole in zip(two[part], two["sharded"], strict=True):
            for step, micro in ours["steps"].items():
                assert micro == whole["steps"][step]
    assert_goes_on_as(two["rest"], two["sharded"], tolerance=0)


def test_two_processes_go_on_from_the_file_of_one(one, two):
    assert list(two["from-file"][0]["steps"]) == list(range(STOP + 1, STEPS + 1))
    assert_goes_on_as(two["from-file"], [one])


def test_one_process_goes_on_from_the_shards_of_two(folder, data, two):
    try:
        found = fit(*data, f"{folder}/alone", ShardedStrategy(), checkpoint=f"{folder}/first/last.ckpt")
    finally:
        dist.destroy_process_group()
    assert list(found["steps"]) == list(range(STOP + 1, STEPS + 1))
    assert_goes_on_as([found], two["sharded"])


def test_a_sharded_checkpoint_is_the_unsharded_one(folder, data, one, two):
    checkpoint = folder / "sharded" / "end.ckpt"
    module = LanguageModelTraining(SHAPE, TEXT, OptimConfig(), codec=data[1])
    step, average = restore(module, [WeightAverage(0.9, 2)], checkpoint)
    assert (step, average.updates) == (STEPS, STEPS // 2)
    assert_close(module.state_dict(), two["sharded"][0]["weights"], atol=0, rtol=0)
    with average.applied(module):
        assert_close(module.state_dict(), two["sharded"][0]["average"], atol=0, rtol=0)
    # And, but for the order of sums, what one process has in a file.
    whole = torch.load(folder / "one" / "end.ckpt", weights_only=True)
    assert_close(module.state_dict(), whole["state_dict"], atol=1e-5, rtol=1e-4)
    ours = torch.load(checkpoint / META, weights_only=True)
    assert ours.keys() == whole.keys() - {"state_dict", "optimizer_states"}
    # Moments of the optimiser.
    shards: dict = {}
    reader, planner = FileSystemReader(checkpoint), _EmptyStateDictLoadPlanner()
    _load_state_dict(shards, storage_reader=reader, planner=planner, no_dist=True)
    states, names = whole["optimizer_states"][0]["state"], [n for n, p in module.named_parameters() if p.requires_grad]
    for number, name in enumerate(names):
        for key in ("exp_avg", "exp_avg_sq", "step"):
            torch.testing.assert_close(
                shards["optimizer_0"]["state"][name][key], states[number][key], atol=1e-5, rtol=1e-4
            )


def test_an_unsharded_run_does_not_go_on_from_shards(folder, data, two):
    with pytest.raises(InputError, match="cluster/sharded"):
        fit(*data, f"{folder}/alone", checkpoint=f"{folder}/first/last.ckpt")


def test_a_model_folder_of_shards(folder, data, two, tmp_path):
    """``mgl export``, and what a run ends with: the other processes have nothing to write."""
    assert two["sharded"][1]["weights"] == {}
    module = LanguageModelTraining(SHAPE, TEXT, OptimConfig(), codec=data[1])
    _, average = restore(module, [WeightAverage(0.9, 2)], folder / "sharded" / "end.ckpt")
    with average.applied(module):
        module.export(tmp_path / "model")
    made, wanted = load_model(tmp_path / "model").lm.state_dict(), two["sharded"][0]["average"]
    for name, tensor in made.items():
        assert torch.equal(tensor, wanted[f"lm.{name}"]), name
    (clip,) = load_model(tmp_path / "model").generate(["a"], duration=0.1)
    assert torch.isfinite(clip).all()


def test_a_sharded_checkpoint_that_is_not_finished_takes_no_place(folder, two):
    for name in ("first", "rest", "sharded"):
        assert not [path.name for path in (folder / name).iterdir() if not path.name.endswith(".ckpt")]
    old, new = folder / "put" / "last.ckpt", folder / "put" / "last.ckpt.partial"
    for place in (old, new):
        place.mkdir(parents=True)
        (place / META).write_text(place.name)
    put(new, old)
    assert [path.name for path in old.parent.iterdir()] == ["last.ckpt"]
    assert (old / META).read_text() == "last.ckpt.partial"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
@pytest.mark.parametrize("switch", ["recompute-1", "recompute-2", "compiled"])
def test_switches_change_no_loss(one, switched, strategy, switch):
    found = switched[f"{strategy}-{switch}"]
    assert list(losses(found)) == [1, 2]
    for step, values in losses(found).items():
        assert values == pytest.approx(losses([one])[step], abs=1e-5)


@pytest.mark.slow
def test_sharding_multiplies_in_the_same_precision(one, switched):
    ddp, sharded = switched["ddp-bf16"], switched["sharded-bf16"]
    for step, values in losses(sharded).items():
        assert values == pytest.approx(losses(ddp)[step], abs=2e-5)
    assert losses(ddp)[1] != pytest.approx(losses([one])[1], abs=5e-5)  # which is another than float32
