"""Which layer of cluster/ a run takes that names none."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from experiments.planning.gpus import gpu_named
from experiments.planning.here import Here, devices_of
from experiments.planning.links import machines
from experiments.planning.plan import plan
from experiments.planning.subject import CodecFacts, subject

_UTILISATION = 0.4
_NETWORK = 400.0  # Gbit/s a GPU


def cluster_of(recipe: Mapping[str, Any], codec: CodecFacts, here: Here, crops: int) -> str:
    """``sharded`` where ``mgl plan`` recommends that for GPUs like this machine's, else ``gpus``.

    Args:
        recipe: with the layer ``cluster/gpus``.
        codec: whose codes are trained on.
        here: this machine's GPUs; of which it is not known what they are, ``gpus`` has to do.
        crops: of an optimiser step.
    """
    kind = gpu_named(here.name)
    devices, nodes = devices_of(recipe["trainer"], here), recipe["trainer"].get("num_nodes", 1)
    if kind is None or devices * nodes == 1 or crops % (devices * nodes):
        return "gpus"
    kind = replace(kind, memory=here.memory or kind.memory)
    where = machines(kind, devices * nodes, devices, _NETWORK)
    best = plan(subject(recipe, codec), where, crops=crops, utilisation=_UTILISATION).best
    return "gpus" if best is None or best.sharding == "ddp" else "sharded"
