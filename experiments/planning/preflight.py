"""A run on this machine's devices: how its crops are dealt, and what it will cost, in a few lines."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from experiments.compose import overridden
from experiments.console import in_words
from experiments.planning.dealing import Deal, deal, deals
from experiments.planning.gpus import gpu_named
from experiments.planning.here import Here
from experiments.planning.links import machines
from experiments.planning.memory import FREE, Memory, Sharding, memory
from experiments.planning.plan import NAMES, layout
from experiments.planning.subject import Subject

_GIB = 2**30
_UTILISATION = 0.4
_VALIDATE_EVERY = 2000  # optimiser steps
RECOMPUTE = 2  # blocks between kept activations: near the least memory at the paper's depths
_SETTING = "model.init_args.recompute"
_NETWORK = 400.0  # Gbit/s a GPU


@dataclass(frozen=True)
class Preflight:
    """What a composed recipe means here.

    Attributes:
        subject: what is trained.
        recipe: the layers with all that was said after them.
        asked: what was said after them alone: batch and accumulation are taken from there.
        here: this machine's GPUs.
        devices: of them, that are used in each node.
        nodes: how many.
        crops: of an optimiser step.
        recomputed: whether the recipe has activations computed again because not one crop fits otherwise.
    """

    subject: Subject
    recipe: Mapping[str, Any]
    asked: Mapping[str, Any]
    here: Here
    devices: int
    nodes: int
    crops: int
    recomputed: bool = False

    def fitted(self) -> "Preflight":
        """The same, with activations computed again where not one crop fits a device otherwise, as far as is known.

        What was asked for stays.
        """
        if not self._tight or "recompute" in self.asked.get("model", {}).get("init_args", {}):
            return self
        return replace(self, recipe=overridden(dict(self.recipe), [f"--{_SETTING}={RECOMPUTE}"]), recomputed=True)

    @cached_property
    def deal(self) -> Deal:
        """The batch that was asked for, or the most that fit; where memory is not known, at most the layers'.

        Raises:
            InputError: the crops cannot be dealt evenly.
        """
        count = self.devices * self.nodes
        batch = self.asked.get("data", {}).get("init_args", {}).get("batch_size")
        accumulate = self.asked.get("trainer", {}).get("accumulate_grad_batches")
        usual: int = self.recipe["data"]["init_args"]["batch_size"]
        if accumulate is not None:
            return Deal(count, usual, accumulate)
        if batch is not None:
            return deal(self.crops, count, batch)
        possible = deals(self.crops, count)
        if self._on_gpus and self.here.memory is not None:
            room = (1 - FREE) * self.here.memory
            return next((one for one in possible if self._memory(one.batch).total <= room), possible[-1])
        return next(one for one in possible if one.batch <= usual or one.batch == 1)

    def values(self) -> dict[str, Any]:
        """What it decides of the run's settings."""
        return {
            **({_SETTING: RECOMPUTE} if self.recomputed else {}),
            "data.init_args.batch_size": self.deal.batch,
            "trainer.accumulate_grad_batches": self.deal.accumulate,
            # Lightning counts micro-batches here, layers optimiser steps.
            "trainer.val_check_interval": self._layers_interval * self.deal.accumulate,
        }

    def lines(self) -> dict[str, str]:
        """By their names."""
        subject, trainer = self.subject, self.recipe["trainer"]
        where = f"{self.devices} x {(self.here.name or 'GPU') if self._on_gpus else 'CPU'}"
        nodes = f" on {self.nodes} nodes" if self.nodes > 1 else ""
        how = f", {NAMES[self._sharding]}" if self.devices * self.nodes > 1 else ""
        other = "" if self.deal.crops == self.crops else f"; the recipe has {self.crops}"
        codes = self.deal.crops * subject.frames * subject.lm.codebooks
        return {
            "model": f"{subject.counts.lm:,} parameters with the projections of its conditions",
            **self._adapters_line(),
            "devices": f"{where}{nodes}{how}, {trainer.get('precision')}",
            "batch": f"{self.deal} micro-batches{other}: {codes:,} codes, "
            f"{subject.flops(self.deal.crops).total / 1e12:,.3g} TFLOP a step",
            "memory": self._memory_line(),
            **({"recompute": f"{RECOMPUTE} blocks at a time: not one crop fits otherwise"} if self.recomputed else {}),
            **self._time_line(),
        }

    def _adapters_line(self) -> dict[str, str]:
        """Nothing where the whole model is trained."""
        rank = self.subject.lora
        trained = f"{self.subject.counts.trained:,} parameters of rank {rank}; they alone are trained"
        return {"adapters": trained} if rank else {}

    @property
    def _tight(self) -> bool:
        """Whether not one crop fits a device's memory, as far as that is known, unless activations are recomputed."""
        room = (1 - FREE) * self.here.memory if self._on_gpus and self.here.memory is not None else None
        return room is not None and not self._recompute and self._memory(1).total > room

    @property
    def _layers_interval(self) -> int:
        steps: int = self.recipe["trainer"].get("val_check_interval", _VALIDATE_EVERY)
        return steps

    @property
    def _on_gpus(self) -> bool:
        return bool(self.recipe["trainer"].get("accelerator") == "gpu")

    @property
    def _sharding(self) -> Sharding:
        """As the trainer's strategy means it."""
        strategy = self.recipe["trainer"].get("strategy", "auto")
        name = strategy.get("class_path", "") if isinstance(strategy, dict) else str(strategy)
        if not name.endswith("ShardedStrategy"):
            return "ddp"
        across = self.nodes == 1 or strategy.get("init_args", {}).get("across_nodes", False)
        return "full" if across else "node"

    @property
    def _recompute(self) -> int:
        blocks: int = self.recipe["model"]["init_args"].get("recompute", 0)
        return blocks

    def _memory(self, batch: int, recompute: int | None = None) -> Memory:
        shards = {"ddp": 1, "node": self.devices, "full": self.devices * self.nodes}[self._sharding]
        blocks = self._recompute if recompute is None else recompute
        return memory(self.subject, batch, shards=shards, sharding=self._sharding, recompute=blocks)

    def _memory_line(self) -> str:
        held = self._memory(self.deal.batch)
        state = held.weights + held.gradients + held.optimiser + held.average
        line = (
            f"{held.total / _GIB:.1f} GiB a device: {state / _GIB:.1f} of weights, gradients, optimiser and average, "
            f"{(held.activations + held.loss) / _GIB:.1f} of activations (estimate)"
        )
        if not self._on_gpus or self.here.memory is None:
            return line
        room = (1 - FREE) * self.here.memory
        line += f", of {self.here.memory / _GIB:.1f}"
        if held.total <= room:
            return line
        less = self._memory(1, RECOMPUTE)
        remedy = "no batch fits: take larger GPUs, or more of them sharded (`mgl plan` counts both)"
        if less.total <= room:
            remedy = f"ARGS='--{_SETTING} {RECOMPUTE} --data.init_args.batch_size 1' takes {less.total / _GIB:.1f}"
        return f"{line}; WARNING: too much; {remedy}"

    def _time_line(self) -> dict[str, str]:
        """Nothing where there is no GPU whose speed is known."""
        kind = gpu_named(self.here.name)
        if not self._on_gpus or kind is None:
            return {}
        kind = replace(kind, memory=self.here.memory or kind.memory)
        where = machines(kind, self.devices * self.nodes, self.devices, _NETWORK)
        one = layout(self.subject, where, self.deal, self._sharding, self._recompute, _UTILISATION)
        seconds = one.seconds * self.subject.max_steps
        return {
            "time": f"{one.seconds:.3g} s a step at {_UTILISATION:.0%} of the peak, "
            f"{(one.traffic.reduced + one.traffic.gathered) / 1e9:.3g} GB sent a device; {in_words(seconds)} and "
            f"{seconds * where.count / 3600:,.0f} GPU-hours for {self.subject.max_steps:,} steps (estimate)"
        }
