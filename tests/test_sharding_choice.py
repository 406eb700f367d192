"""When a run is sharded, and what cannot be."""

from types import SimpleNamespace

import pytest
import tiny
from lightning.pytorch import LightningModule

from datamodules.errors import InputError
from experiments.compose import language_model_layers, merged, overridden
from experiments.planning.choosing import cluster_of
from experiments.planning.here import Here
from experiments.planning.preflight import Preflight
from experiments.planning.subject import codec_layer_facts, subject
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig
from lightning_modules.sharding import ShardedStrategy

CODEC = codec_layer_facts("encodec_32khz")
H100, H200 = Here(8, "NVIDIA H100 80GB HBM3", 79.6 * 2**30), Here(8, "NVIDIA H200", 140 * 2**30)


@pytest.mark.parametrize(
    ("size", "here", "further", "wanted"),
    [
        ("large", H100, [], "sharded"),  # these four as `mgl plan` has them in docs/training.md
        ("large", H200, [], "gpus"),
        ("small", H100, [], "gpus"),
        ("medium", H100, [], "gpus"),
        ("large", H100, ["--trainer.num_nodes", "12"], "sharded"),
        ("large", H100, ["--trainer.devices", "1"], "gpus"),
        ("large", H100, ["--trainer.devices", "5"], "gpus"),  # which cannot be dealt, as is said elsewhere
        ("large", H100, ["-c", "optim/dadaptation"], "gpus"),
        ("large", Here(8), [], "gpus"),
    ],
)
def test_the_layer_is_the_one_that_the_plan_recommends(size, here, further, wanted):
    recipe = overridden(merged(language_model_layers(size, "delay", "t5", "gpus")), further)
    assert cluster_of(recipe, CODEC, here, 192) == wanted


def test_preflight_counts_the_shards_that_the_strategy_makes():
    def weights(nodes, *further):
        recipe = overridden(merged(language_model_layers("large", "delay", "t5", "sharded")), list(further))
        planned = Preflight(subject(recipe, CODEC), recipe, {}, H100, 8, nodes, 192)
        return planned._sharding, planned._memory(1).weights

    trained = subject(merged(language_model_layers("large", "delay", "t5", "sharded")), CODEC).counts.trained
    assert weights(1) == ("full", 4 * trained // 8)
    assert weights(12) == ("node", 4 * trained // 8)
    assert weights(12, "--trainer.strategy.init_args.across_nodes", "true") == ("full", 4 * trained // 96)


@pytest.mark.parametrize(("across", "mesh"), [(False, (3, 2)), (True, (1, 6))])
def test_processes_of_a_node_share_a_copy_or_all_do(across, mesh, monkeypatch):
    strategy = ShardedStrategy(across_nodes=across)
    strategy.num_nodes, strategy.parallel_devices = 3, ["cpu", "cpu"]
    strategy._lightning_module = training(OptimConfig())
    seen = []
    parent = ShardedStrategy.__mro__[1]
    monkeypatch.setattr(
        parent, "setup_environment", lambda self: seen.append((self._data_parallel_size, self._tensor_parallel_size))
    )
    strategy.setup_environment()
    assert seen == [mesh]


def test_what_cannot_be_sharded_is_refused():
    module = training(OptimConfig(algorithm="dadaptation"))
    module._device_mesh = SimpleNamespace()
    with pytest.raises(InputError, match="D-Adaptation"):
        module.configure_model()
    strategy = ShardedStrategy()
    strategy._lightning_module = LightningModule()
    with pytest.raises(InputError, match="only language models"):
        strategy.setup_environment()


def training(optim):
    lm = LanguageModelConfig(dim=16, layers=1, heads=2, codebooks=2, entries=8)
    return LanguageModelTraining(lm, tiny.TEXT, optim)
