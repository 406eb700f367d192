"""Training whose weights are sharded over processes (FSDP2): torch's ``fully_shard`` under Lightning's strategy."""

import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from datamodules.errors import InputError
from datamodules.whole_files import partial_path, write_whole

# A sharded checkpoint is a folder: a file of each process, torch's index of them, and this one with all else.
META = "meta.pt"
_AVERAGE = "average"  # among a callback's state, tensors that are sharded as the trained parameters are
_NO_SPACE = 2**20  # bytes
_STEPS = ("training_step", "validation_step")


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2; the module shards itself in ``configure_model``, with ``shard``.

    A checkpoint is a folder with a file of each process, the averaged weights among them, there whole or not at all.
    Any number of processes may go on from it, and from a checkpoint of an unsharded run, which is a file.

    Args:
        across_nodes: whether the processes of all nodes share one copy of weights, gradients, optimiser state and
            average. By default those of a node share one, and gradients are averaged over the nodes' copies.
    """

    def __init__(self, across_nodes: bool = False) -> None:
        super().__init__()
        self.across_nodes = across_nodes

    @property
    def copies(self) -> int:
        """Of the model, each of them sharded over as many processes as there are to one."""
        return 1 if self.across_nodes else self.num_nodes

    def setup_environment(self) -> None:
        """Lays the mesh out: copies of the model, and shards of a copy; Lightning names the two after other uses.

        Raises:
            InputError: the module cannot be sharded.
        """
        if not is_overridden("configure_model", self.lightning_module):
            raise InputError("only language models can be sharded; take cluster/gpus in place of cluster/sharded")
        self._data_parallel_size = self.copies
        self._tensor_parallel_size = self.num_nodes * self.num_processes // self.copies
        super().setup_environment()

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """What all micro-batches but the last of a step are in: their gradients are not averaged over copies.

        They are scattered over the shards of a copy as ever, so that no process holds more than its shard of them.
        """
        model = cast(FSDPModule, self.model)
        model.set_requires_all_reduce(False)
        try:
            yield
        finally:
            model.set_requires_all_reduce(True)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Writes the shards beside their place, and renames the folder when all processes have written theirs.

        Raises:
            InputError: a disk is full; the checkpoint before it stays.
        """
        place = Path(self.broadcast(filepath))
        partial = partial_path(place)
        if self.is_global_zero:
            _remove(partial)
            partial.mkdir(parents=True)
        self.barrier()
        # Of a checkpoint of weights alone there is nothing but these.
        shards = {"state_dict": checkpoint.pop("state_dict")}
        shards |= {f"optimizer_{n}": state for n, state in enumerate(checkpoint.pop("optimizer_states", []))}
        for state in _averages(checkpoint):
            shards[_AVERAGE] = _numbered(state[_AVERAGE])
            state[_AVERAGE] = None
        try:
            save(shards, checkpoint_id=partial)
        except CheckpointException as error:
            # Of a full disk torch tells nothing but that the file is not as long as it should be.
            full = shutil.disk_usage(partial).free < _NO_SPACE
            self.barrier()
            if self.is_global_zero:
                _remove(partial)
            if full:
                raise InputError(f"{place.parent}: no space is left; make room, and go on with `mgl resume`") from error
            raise
        failed: Exception | None = None
        if self.is_global_zero:
            try:
                write_whole(partial / META, lambda file: torch.save(checkpoint, file))
                put(partial, place)
            except (InputError, OSError) as error:
                failed = error
        # The others must not wait for what has failed.
        failed = self.broadcast(failed)
        if failed is not None:
            raise failed

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads weights, optimiser and average in place; returns the rest, the average's shards in it."""
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        assert self.model is not None
        trained = [parameter.detach() for parameter in self.model.parameters() if parameter.requires_grad]
        for state in _averages(checkpoint):
            if state[_AVERAGE] is None:
                read = [torch.zeros_like(parameter) for parameter in trained]
                load({_AVERAGE: _numbered(read)}, checkpoint_id=checkpoint_path)
                state[_AVERAGE] = read
            else:
                state[_AVERAGE] = [_sharded_as(*pair) for pair in zip(trained, state[_AVERAGE], strict=True)]
        return checkpoint


def shard(module: LightningModule, blocks: Iterable[nn.Module], mesh: DeviceMesh, dtype: torch.dtype | None) -> None:
    """Shards a module's parameters in place: those of each block together, and what belongs to none.

    A block's are gathered while it works, forwards and backwards, in ``dtype``, but those of its norms, which autocast
    leaves in float32. So is what belongs to no block (embedding, heads, projections, a text encoder that learns along),
    gathered for the whole step: all is multiplied in what it would be without sharding. Gradients are averaged in
    float32.

    Args:
        module: its steps, not its ``forward``, are what gathers.
        blocks: of it, that work one after the other.
        mesh: of ``ShardedStrategy``.
        dtype: that blocks are multiplied in; None for float32.
    """
    copies, _ = mesh.mesh_dim_names or ()
    # Over one copy there is nothing to average, and a mesh of two sides would go to all trouble for it.
    places = mesh if mesh[copies].size() > 1 else mesh[mesh.mesh_dim_names[1]]  # type: ignore[index]
    policy = MixedPrecisionPolicy(dtype, torch.float32 if dtype else None, cast_forward_inputs=False)
    for block in blocks:
        if dtype is not None:
            fully_shard([norm for norm in block.modules() if isinstance(norm, nn.LayerNorm)], mesh=places)
        fully_shard(block, mesh=places, mp_policy=policy)
    # Between steps all parameters are shards, for the optimiser, the average and checkpoints.
    fully_shard(module, mesh=places, reshard_after_forward=True)
    for name in _STEPS:
        register_fsdp_forward_method(module, name)


def is_sharded(module: nn.Module) -> bool:
    """Whether ``shard`` was here."""
    return isinstance(module, FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process: all of it, unless it is sharded. No copy; no gradient goes through."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of a sharded module without shards, in main memory: in process 0, the others have an empty one.

    All processes have to call it.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(module, options=options)
    return state


def read_sharded(folder: Path, module: nn.Module) -> dict[str, Any]:
    """Loads a sharded checkpoint's weights into an unsharded module, in one process; no strategy is needed.

    Returns:
        All else of the checkpoint but the optimiser's state, the average as whole tensors.
    """
    checkpoint: dict[str, Any] = torch.load(folder / META, "cpu", weights_only=True)
    shards: dict[str, Any] = {"state_dict": module.state_dict()}
    trained = [torch.zeros_like(parameter) for parameter in module.parameters() if parameter.requires_grad]
    states = _averages(checkpoint)
    if states:
        shards[_AVERAGE] = _numbered(trained)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # which is what is meant
        load(shards, checkpoint_id=folder, no_dist=True)
    for state in states:
        state[_AVERAGE] = trained
    return checkpoint


def _averages(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [state for state in checkpoint.get("callbacks", {}).values() if _AVERAGE in state]


def _numbered(tensors: list[Tensor]) -> dict[str, Tensor]:
    return {str(number): tensor for number, tensor in enumerate(tensors)}


def _sharded_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor, which every process has, as shards like the parameter's."""
    assert isinstance(parameter, DTensor)
    return distribute_tensor(
        tensor.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def put(partial: Path, place: Path) -> None:
    """Renames a folder to where another may be, which goes only then."""
    old = place.with_name(place.name + ".old")
    _remove(old)
    if place.exists():
        place.rename(old)
    partial.rename(place)
    _remove(old)


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
