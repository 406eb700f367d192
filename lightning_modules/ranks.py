"""What the processes of a distributed run tell each other; with one process every function returns what it was given.

Only ``torch.distributed`` is asked: nothing here knows who started the processes.

Shape letters: W processes, M vectors of this process, D width.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """W: 1 unless ``torch.distributed`` is initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def counts(count: int, device: torch.device) -> Tensor:
    """[W] int64: every process's ``count``."""
    if world_size() == 1:
        return torch.full((1,), count, device=device)
    everyone = torch.zeros(world_size(), dtype=torch.int64, device=device)
    everyone[dist.get_rank()] = count
    return add_up(everyone)


def place(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where this process's vectors begin among all of them, in the order of ranks, and how many there are: scalars.

    They stay on the device: the host need not wait for them.
    """
    everyone = counts(count, device)
    before = dist.get_rank() if world_size() > 1 else 0
    return everyone[:before].sum(), everyone.sum()


def gather(vectors: Tensor) -> Tensor:
    """[M, D] of every process, M differing from one to another -> [sum of M, D] in the order of ranks, on each."""
    if world_size() == 1:
        return vectors
    lengths = counts(len(vectors), vectors.device).tolist()
    # Every process has to send as much as every other.
    padded = vectors.new_zeros(max(lengths), vectors.shape[1])
    padded[: len(vectors)] = vectors
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def add_up(tensor: Tensor) -> Tensor:
    """The sum over processes, in place: the same bits on each."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def from_first(tensor: Tensor) -> Tensor:
    """The first process's values, in place."""
    if world_size() > 1:
        dist.broadcast(tensor, 0)
    return tensor
