"""The ways in which a run could be laid out over its devices, what each costs, and which of them is best."""

from collections.abc import Iterator
from dataclasses import dataclass

from datamodules.errors import InputError
from experiments.planning.dealing import Deal, deal, deals
from experiments.planning.links import Machines, Traffic, traffic
from experiments.planning.memory import FREE, Memory, Sharding, memory
from experiments.planning.subject import Counts, Subject

# What blocks computed twice add: 2 operations a weight to 6, to 4 where it is frozen.
_RECOMPUTED, _FROZEN_RECOMPUTED = 4 / 3, 3 / 2
# Sharded in the node and replicated across, and sharded over all.
NAMES: dict[Sharding, str] = {
    "ddp": "DDP",
    "node": "FSDP2 node",
    "full": "FSDP2 all",
}


@dataclass(frozen=True)
class Layout:
    """One way.

    Attributes:
        sharding: of weights, gradients, optimiser state and average.
        recompute: blocks between kept activations; 0 keeps all.
        deal: of the crops.
        memory: of a device.
        fits: whether that leaves a tenth of the device free.
        traffic: of a device.
        compute: seconds of arithmetic a step, at the utilisation that the plan assumes.
        seconds: a step, with the traffic that does not hide behind arithmetic.
    """

    sharding: Sharding
    recompute: int
    deal: Deal
    memory: Memory
    fits: bool
    traffic: Traffic
    compute: float
    seconds: float

    @property
    def name(self) -> str:
        """In words."""
        return NAMES[self.sharding] + (f" (recompute {self.recompute})" if self.recompute else "")


@dataclass(frozen=True)
class Plan:
    """A run's figures.

    Attributes:
        subject: what is trained.
        machines: on what.
        utilisation: share of the peak that is assumed.
        crops: of an optimiser step.
        counts: parameters.
        flops: of an optimiser step, on all devices.
        layouts: that were looked at.
        best: the one to take; None where none fits.
        why: that one.
    """

    subject: Subject
    machines: Machines
    utilisation: float
    crops: int
    counts: Counts
    flops: float
    layouts: list[Layout]
    best: Layout | None
    why: str

    @property
    def codes(self) -> int:
        """Predicted in an optimiser step."""
        return self.crops * self.subject.frames * self.subject.lm.codebooks

    @property
    def gpu_hours(self) -> float | None:
        """To the end of the run; None where nothing fits."""
        return self.days * 24 * self.machines.count if self.days is not None else None

    @property
    def days(self) -> float | None:
        """To the end of the run; None where nothing fits."""
        return self.best.seconds * self.subject.max_steps / 86400 if self.best else None


def plan(
    subject: Subject,
    where: Machines,
    *,
    crops: int,
    utilisation: float,
    batch: int | None = None,
    recompute: int = 2,
) -> Plan:
    """Looks at every sharding, with all activations kept and with those of every ``recompute`` blocks.

    Args:
        subject: what is trained.
        where: on what.
        crops: of an optimiser step.
        utilisation: share of the peak FLOP/s that the arithmetic is assumed to reach (MFU).
        batch: crops at once on a device; None is, for each layout, the most that fit.
        recompute: blocks between kept activations, where not all are kept.

    Raises:
        InputError: the crops cannot be dealt evenly, the utilisation is no share, or ``recompute`` no number of blocks.
    """
    if not 0 < utilisation <= 1:
        raise InputError(f"utilisation is {utilisation:g}; give a share of the peak: 0.4, say")
    if not 0 < recompute <= subject.lm.layers:
        raise InputError(f"recompute is {recompute}; give a number of blocks, 1 to {subject.lm.layers}")
    possible = deals(crops, where.count) if batch is None else [deal(crops, where.count, batch)]
    layouts = []
    for sharding in _shardings(subject, where):
        for blocks in (0, recompute):
            made = [layout(subject, where, one, sharding, blocks, utilisation) for one in possible]
            layouts.append(next((one for one in made if one.fits), made[-1]))
    best, why = _choose(layouts, where)
    flops = subject.flops(crops).total
    return Plan(subject, where, utilisation, crops, subject.counts, flops, layouts, best, why)


def layout(
    subject: Subject, where: Machines, dealt: Deal, sharding: Sharding, recompute: int, utilisation: float
) -> Layout:
    """What one way costs."""
    shards = {"ddp": 1, "node": where.per_node, "full": where.count}[sharding]
    held = memory(subject, dealt.batch, shards=shards, sharding=sharding, recompute=recompute)
    said = traffic(subject, where, sharding, dealt.accumulate)
    again = _FROZEN_RECOMPUTED if subject.lora else _RECOMPUTED
    work = subject.flops(dealt.crops).total * (again if recompute else 1.0)
    compute = work / (where.count * where.gpu.peak * utilisation)
    # What is reduced once a step is hidden by the way back of the last micro-batch; all else travels all the time.
    late = max(0.0, said.last - compute * 2 / 3 / dealt.accumulate) + max(0.0, said.seconds - said.last - compute)
    return Layout(
        sharding=sharding,
        recompute=recompute,
        deal=dealt,
        memory=held,
        fits=held.total <= (1 - FREE) * where.gpu.memory,
        traffic=said,
        compute=compute,
        seconds=compute + late,
    )


def _shardings(subject: Subject, where: Machines) -> Iterator[Sharding]:
    yield "ddp"
    if subject.algorithm == "dadaptation" or subject.lora:  # which need all parameters on every device
        return
    if where.nodes > 1 and where.per_node > 1:
        yield "node"
    if where.count > 1:
        yield "full"


def _choose(layouts: list[Layout], where: Machines) -> tuple[Layout | None, str]:
    """The fastest that fits; of those within a hundredth of it the first, which is the simplest."""
    fitting = [one for one in layouts if one.fits]
    if not fitting:
        least = min(layouts, key=lambda one: one.memory.total)
        return None, (
            f"none fits: {least.name} with {least.deal.batch} crop{'s' * (least.deal.batch > 1)} at once takes the "
            f"least, {least.memory.total / 2**30:.1f} GiB, and {(1 - FREE) * where.gpu.memory / 2**30:.1f} GiB of a "
            "device can be planned with; take more or larger GPUs"
        )
    fastest = min(one.seconds for one in fitting)
    best = next(one for one in fitting if one.seconds <= 1.01 * fastest)
    room = f"{(1 - FREE) * where.gpu.memory / 2**30:.1f} GiB"
    ahead = [one for one in layouts[: layouts.index(best)] if not one.fits]
    slower = [one for one in fitting if one.recompute == best.recompute and one.seconds > 1.01 * fastest]
    reasons = [f"{one.name} does not fit ({one.memory.total / 2**30:.1f} of {room})" for one in ahead]
    reasons += [f"{one.name} takes {one.seconds:.3g} s a step, not {best.seconds:.3g}" for one in slower]
    return best, "; ".join(reasons) or "it fits, and nothing that fits is faster"
