"""What devices say to each other in an optimiser step, and how long the wires take for it at their full speed."""

from dataclasses import dataclass

from datamodules.errors import InputError
from experiments.planning.gpus import Gpu
from experiments.planning.memory import Sharding
from experiments.planning.subject import Subject

_FLOAT, _HALF = 4, 2


@dataclass(frozen=True)
class Machines:
    """GPUs in nodes.

    Attributes:
        gpu: their kind.
        count: of GPUs.
        per_node: of GPUs in a node.
        network: bytes/s each way between nodes, a GPU.
    """

    gpu: Gpu
    count: int
    per_node: int
    network: float

    @property
    def nodes(self) -> int:
        """How many."""
        return self.count // self.per_node


def machines(gpu: Gpu, count: int, per_node: int, network: float) -> Machines:
    """Checked; ``per_node`` 0 is eight to a node, or all where they are fewer; ``network`` is in Gbit/s a GPU.

    Raises:
        InputError: there are none, nodes are not full, or the network has no speed.
    """
    if count < 1 or per_node < 0:
        raise InputError(f"{count} GPUs, {per_node} a node: give 1 or more")
    per_node = per_node or min(count, 8)
    if count % per_node:
        fewer = count - count % per_node
        wanted = f"{fewer} or {fewer + per_node}" if fewer else f"{per_node}"
        raise InputError(
            f"{count} GPUs do not fill nodes of {per_node}; take {wanted}, or say how many a node has: --gpus_per_node"
        )
    if network <= 0:
        raise InputError(f"network is {network:g} Gbit/s; give what a GPU has between nodes, 400 say")
    return Machines(gpu, count, per_node, network * 1e9 / 8)


@dataclass(frozen=True)
class Traffic:
    """What one device sends in an optimiser step.

    Attributes:
        reduced: bytes of gradients, all-reduced or reduce-scattered.
        gathered: bytes of weights, all-gathered for forward and backward.
        seconds: for both, at the full speed of the wires.
        last: of these, seconds for what travels in the last micro-batch alone.
    """

    reduced: float
    gathered: float
    seconds: float
    last: float


def traffic(subject: Subject, where: Machines, sharding: Sharding, accumulate: int) -> Traffic:
    """Of an optimiser step of ``accumulate`` micro-batches.

    Data parallel, gradients are all-reduced in float32 once a step, in rings: a device sends them twice, less what is
    its own, and a node's share of that goes over all its network cards together. Sharded, weights are gathered for
    forward and again for backward, the blocks' in 16 bits, and gradients scattered in float32, in every micro-batch;
    across nodes the shards of gradients are all-reduced besides, once a step, where only nodes are sharded.
    """
    trained = subject.counts.trained
    node_wires = where.network * where.per_node
    if sharding == "ddp":
        sent = 2 * _FLOAT * trained * _others(where.count)
        between = sent / node_wires if where.nodes > 1 else 0.0
        within = sent / where.gpu.link if where.per_node > 1 else 0.0
        return Traffic(sent, 0.0, max(within, between), max(within, between))
    among = where.per_node if sharding == "node" else where.count
    blocks = subject.lm.layers * subject.counts.block
    gathered = accumulate * 2 * (_HALF * blocks + _FLOAT * (trained - blocks)) * _others(among)
    scattered = accumulate * _FLOAT * trained * _others(among)
    seconds = (gathered + scattered) / where.gpu.link if where.per_node > 1 else 0.0
    if sharding == "full" and where.nodes > 1:
        seconds = max(seconds, (gathered + scattered) / node_wires)
    across = 0.0
    if sharding == "node" and where.nodes > 1:
        across = 2 * _FLOAT * trained / where.per_node * _others(where.nodes)
    last = across / where.network
    return Traffic(scattered + across, gathered, seconds + last, last)


def _others(count: int) -> float:
    """The share of everything that is the others'."""
    return (count - 1) / count
