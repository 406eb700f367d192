"""The crops of a step dealt anew, where a run goes on with another number of devices."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from datamodules.errors import InputError
from experiments.compose import overridden
from experiments.environment import FILE
from experiments.planning.dealing import Deal, deal, deals
from experiments.planning.here import Here, devices_of, require_launcher
from lightning_modules.sharding import META

_DEALT = "lightning_modules.lm.training.LanguageModelTraining"  # others do not gather gradients over micro-batches
_BATCH, _ACCUMULATE = "data.init_args.batch_size", "trainer.accumulate_grad_batches"
_SAY = f"say what it is to be: --args '--{_BATCH} N --{_ACCUMULATE} M'"


def redealt(
    config: Mapping[str, Any], checkpoint: Path, further: list[str], here: Here
) -> tuple[dict[str, Any], str | None]:
    """Settings with which a step has as many crops as before, on the devices that there are now.

    The batch of a device becomes no larger than it was: that has fitted.

    Args:
        config: that the run was started with last.
        checkpoint: from which it goes on, in its folder.
        further: arguments of ``mgl fit``: a batch or an accumulation that is given there stays.
        here: this machine.

    Returns:
        What changes, by the names of ``mgl fit``, and a line about the batch; None where there is nothing to tell.

    Raises:
        InputError: the crops cannot be dealt to these devices, or it is not known how many there are to be.
    """
    recipe = overridden(dict(config), further)
    if recipe["model"]["class_path"] != _DEALT:
        return {}, None
    trainer = dict(recipe["trainer"])
    if trainer.get("accelerator", "auto") in ("auto", "cuda"):
        trainer["accelerator"] = "gpu" if here.count else "cpu"
    nodes, devices = trainer.get("num_nodes", 1), devices_of(trainer, here)
    require_launcher(devices, nodes)
    now, given = Deal(devices * nodes, *_batch_and_accumulate(recipe)), _given(further)
    dealt = Deal(_devices_before(checkpoint.parent.parent), *_batch_and_accumulate(config))
    seen = _crops_so_far(checkpoint)
    if not {_BATCH, _ACCUMULATE} & given.keys() and now.devices == dealt.devices:
        return {}, None if seen == now.crops else f"{now} micro-batches; steps so far had {seen:g} crops on average"
    if _ACCUMULATE not in given:
        if seen != dealt.crops:
            raise InputError(f"{checkpoint}: steps had {seen:g} crops on average, and the config says {dealt}; {_SAY}")
        batch = now.batch if _BATCH in given else None
        now = _largest(now.devices, dealt) if batch is None else deal(dealt.crops, now.devices, batch)
    changed = {_BATCH: now.batch, _ACCUMULATE: now.accumulate}
    every = trainer.get("val_check_interval")
    if isinstance(every, int) and "trainer.val_check_interval" not in given:
        # Lightning counts micro-batches.
        changed["trainer.val_check_interval"] = max(1, every * now.accumulate // dealt.accumulate)
    return changed, f"{now} micro-batches, before {dealt}"


def _largest(devices: int, dealt: Deal) -> Deal:
    """The way with as many crops at once as there were, or the next fewer."""
    return next(one for one in deals(dealt.crops, devices) if one.batch <= dealt.batch)


def _batch_and_accumulate(recipe: Mapping[str, Any]) -> tuple[int, int]:
    return recipe["data"]["init_args"]["batch_size"], recipe["trainer"].get("accumulate_grad_batches", 1)


def _given(further: list[str]) -> dict[str, Any]:
    """The settings among arguments, by their dotted names."""
    found: dict[str, Any] = {}
    rest: list[tuple[str, Any]] = [("", overridden({}, further))]
    for name, value in rest:
        if isinstance(value, dict):
            rest += [(f"{name}.{key}".lstrip("."), below) for key, below in value.items()]
        else:
            found[name] = value
    return found


def _devices_before(run: Path) -> int:
    """Of the run's last start."""
    try:
        count: int = json.loads((run / FILE).read_text(encoding="utf-8"))["starts"][-1]["devices"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{run / FILE}: does not say on how many devices the run was started last") from error
    return count


def _crops_so_far(checkpoint: Path) -> float:
    """Of a step, on average."""
    file = checkpoint / META if checkpoint.is_dir() else checkpoint
    saved = torch.load(file, "cpu", mmap=checkpoint.is_file(), weights_only=True)
    consumed: int = saved["TokenDataModule"]["consumed"]
    return consumed / saved["global_step"]
