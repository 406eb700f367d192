"""The devices of this machine, and whether a run may have those that it asks for; no GPU is touched."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from experiments.console import pick_device
from experiments.planning.gpus import gpu_named

# The oldest driver of each major version of CUDA: NVIDIA's "CUDA Compatibility", minor version compatibility.
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
_DRIVER_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Here:
    """The GPUs that this process sees.

    Attributes:
        count: how many.
        name: as the driver has it; empty where it does not tell.
        memory: bytes of one; None where that is not told.
    """

    count: int
    name: str = ""
    memory: float | None = None


def look() -> Here:
    """At this machine.

    Raises:
        InputError: it has GPUs, whose driver is too old for the torch that is installed.
    """
    import torch

    if pick_device("auto") != "cuda":
        require_driver(torch.version.cuda, _DRIVER_FILE)
        return Here(0)
    command = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
        name, _, mebibytes = said.splitlines()[0].rpartition(",")
        return Here(torch.cuda.device_count(), name.strip(), float(mebibytes) * 2**20)
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return Here(torch.cuda.device_count())


def require_driver(cuda: str | None, file: Path) -> None:
    """Asked where torch finds no GPU: whether that is because of the driver.

    Args:
        cuda: version that torch was built for; None of a build without.
        file: where the kernel tells the version of the driver.

    Raises:
        InputError: there is a driver, too old for that version.
    """
    if cuda is None or not file.is_file():
        return
    found = re.search(r"(?:Kernel Module|Module)\s+(?:for \S+\s+)?(\d+)\.", file.read_text())
    major = int(cuda.split(".")[0])
    oldest = _OLDEST_DRIVER.get(major)
    if found and oldest and int(found[1]) < oldest:
        raise InputError(
            f"the NVIDIA driver {found[1]} is too old for this torch, built for CUDA {cuda}: that needs {oldest} or "
            "newer; update the driver, or install a torch built for an older CUDA"
        )


def devices_of(trainer: Mapping[str, Any], here: Here) -> int:
    """How many devices of this machine a trainer's settings mean.

    Raises:
        InputError: more than there are, or a GPU where there is none.
    """
    asked = trainer.get("devices", "auto")
    if trainer.get("accelerator") != "gpu":
        return asked if isinstance(asked, int) and asked > 0 else 1
    if not here.count:
        raise InputError("a GPU is asked for, and this machine has none that is usable; use CLUSTER=cpu")
    if asked in ("auto", -1, "-1"):
        return here.count
    count = len(asked) if isinstance(asked, list) else len(asked.split(",")) if "," in str(asked) else int(asked)
    if not 0 < count <= here.count:
        raise InputError(f"trainer.devices asks for {asked} GPUs, and this machine has {here.count}; give fewer")
    return count


def require_strategy(trainer: Mapping[str, Any]) -> None:
    """Whether accelerator and strategy are ones that a run can have; a strategy's class is looked up by its config.

    Raises:
        InputError: there is no such one, or it does not clip by norm as the recipe has it (Lightning's first FSDP).
    """
    from lightning.pytorch.strategies import StrategyRegistry

    accelerator, strategy = trainer.get("accelerator", "auto"), trainer.get("strategy", "auto")
    if accelerator not in ("auto", "cpu", "gpu"):
        raise InputError(f"there is no accelerator {accelerator!r}; choose cpu or gpu")
    if not isinstance(strategy, str) or strategy == "auto" or "." in strategy:
        return
    if strategy.startswith("fsdp"):
        raise InputError(f"strategy {strategy}: does not clip gradients by norm; shard with CLUSTER=sharded")
    if strategy not in StrategyRegistry.available_strategies():
        raise InputError(f"there is no strategy {strategy!r}; choose auto or ddp, or shard with CLUSTER=sharded")


def require_launcher(devices: int, nodes: int, environment: Mapping[str, str] = os.environ) -> None:
    """Whether SLURM or torchrun start as many processes as there are devices.

    Raises:
        InputError: they start more or fewer.
    """
    srun = "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    if srun:
        tasks = environment.get("SLURM_NTASKS_PER_NODE", environment["SLURM_NTASKS"])
        _same("SLURM", "tasks a node", tasks, devices, f"--ntasks-per-node={devices}")
        _same("SLURM", "nodes", environment.get("SLURM_NNODES", "1"), nodes, f"--nodes={nodes}, or trainer.num_nodes")
    elif "LOCAL_WORLD_SIZE" in environment:
        local = environment["LOCAL_WORLD_SIZE"]
        _same("torchrun", "processes a node", local, devices, f"--nproc-per-node={devices}")
        world = int(environment.get("WORLD_SIZE", local)) // int(local)
        _same("torchrun", "nodes", str(world), nodes, f"--nnodes={nodes}, or trainer.num_nodes")


def require_precision(trainer: Mapping[str, Any], here: Here) -> None:
    """Whether the devices multiply numbers of the run's precision.

    Raises:
        InputError: they do not; Lightning takes another one on a CPU, and is slow where a GPU has to emulate. It
            cannot scale the gradients of sharded weights either, as float16 needs.
    """
    precision, gpu = trainer.get("precision"), gpu_named(here.name)
    if precision == "16-mixed" and "ShardedStrategy" in str(trainer.get("strategy")):
        raise InputError(
            "precision 16-mixed: scaling float16's gradients does not work on sharded weights; bf16-mixed does"
        )
    if trainer.get("accelerator") != "gpu":
        if precision == "16-mixed":
            raise InputError("precision 16-mixed: float16 is for GPUs alone; a CPU trains in 32-true or bf16-mixed")
    elif precision == "bf16-mixed" and gpu is not None and not gpu.bfloat16:
        raise InputError(f"a {here.name} does not multiply bfloat16; add ARGS='-c precision/16-mixed'")


def processes(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes a launcher has started, this one among them."""
    interactive = environment.get("SLURM_JOB_NAME") in ("bash", "interactive")
    tasks = "1" if interactive else environment.get("SLURM_NTASKS", "1")
    return int(environment.get("WORLD_SIZE", tasks))


def _same(who: str, what: str, started: str, wanted: int, remedy: str) -> None:
    if int(started) != wanted:
        raise InputError(f"{who} starts {started} {what}, where the run has {wanted}; give {remedy}")
