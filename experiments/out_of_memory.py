"""What to change where the memory of a device does not suffice: one line in place of the allocator's."""

import re
from collections.abc import Mapping
from typing import Any

import torch

_CPU = re.compile(r"can't allocate memory|not enough memory|Cannot allocate memory", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is an allocator's, of a GPU or of the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(_CPU.search(str(error)))


def what_to_change(error: BaseException, config: Mapping[str, Any]) -> str:
    """The settings of a run that would take less, those of them that can still be lowered.

    Args:
        error: the allocator's.
        config: of the run.
    """
    model = config.get("model", {}).get("init_args", {})
    batch = config.get("data", {}).get("init_args", {}).get("batch_size", 1)
    strategy = config.get("trainer", {}).get("strategy", "auto")
    name = str(strategy.get("class_path", "")) if isinstance(strategy, Mapping) else str(strategy)
    ways = []
    if batch > 1:
        ways.append(f"fewer items at once (--data.init_args.batch_size {batch // 2}, now {batch})")
    if model.get("recompute") == 0:
        ways.append("activations of every other block alone (--model.init_args.recompute 2)")
    if "recompute" in model and "ShardedStrategy" not in name:
        ways.append("weights and optimiser sharded over more GPUs (-c cluster/sharded)")
    if not ways:
        ways.append("a smaller model, or devices with more memory (`mgl plan` counts both)")
    wanted = re.search(r"[Tt]ried to allocate ([\d.]+ [KMG]iB|\d+ bytes)", str(error))
    which = f"another {wanted[1]} are" if wanted else "more is"
    return f"out of memory: {which} wanted than there is free; take {', or '.join(ways)}; ARGS='...' hands these on"
