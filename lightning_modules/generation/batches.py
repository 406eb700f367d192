"""Which samples are drawn side by side.

A sample is to be the same in any batch, bit for bit. Its own row does not depend on the others, but what it is padded
to does: an attention over more places adds up its sums in another order. So texts are padded to whole blocks, and only
those of as many blocks share a batch; and only samples of which as many frames are given, which are decoded at once.

Shape letters: B items, R branches.
"""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from datamodules.errors import InputError
from lightning_modules.conditioning.conditions import padded
from lightning_modules.generation.guidance import Branches
from lightning_modules.generation.windows import Window
from lightning_modules.lm.model import LanguageModel

_BLOCK = 32  # tokens
_SHARE = 0.8  # of the free memory that is used


def text_kinds(branches: Branches, items: int, lm: LanguageModel) -> list[tuple[int, ...]]:
    """What samples of one batch must have in common in their texts, one an item.

    Where padding is heard, as in a prefix, it is the number of tokens in each branch; else of blocks in the longest.
    """
    if "text" not in branches.conditions.items:
        return [()] * items
    counts = branches.conditions["text"].mask.sum(1).view(len(branches.weights), items).T.tolist()
    if padding_matters(lm):
        return [tuple(count) for count in counts]
    return [(-(-max(1, *count) // _BLOCK),) for count in counts]


def select(branches: Branches, items: Sequence[int], count: int, lm: LanguageModel) -> Branches:
    """The branches of those of ``count`` items, which are of one kind; texts are padded as befits it."""
    places = torch.tensor(items)
    if "text" not in branches.conditions.items:
        rows = torch.cat([places + branch * count for branch in range(len(branches.weights))])
        return Branches(branches.conditions.select(rows), branches.weights)
    chosen = branches.select(places)
    if padding_matters(lm):
        return chosen
    text = chosen.conditions["text"]
    text = padded(text, -(-text.mask.shape[1] // _BLOCK) * _BLOCK)
    return Branches(chosen.conditions.replace("text", text), chosen.weights)


def padding_matters(lm: LanguageModel) -> bool:
    """Whether a sample's codes would depend on how far its text is padded."""
    config = lm.config
    return "text" in config.prefix or ("text" in config.cross and not config.mask_padded_text)


def batches(windows: Sequence[Window | None], kinds: Sequence[tuple[int, ...]], most: int) -> list[list[int]]:
    """Items that have a window, in batches of at most so many, those of one length side by side."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    lengths = {item: window.frames for item, window in enumerate(windows) if window is not None}
    for item, (window, kind) in enumerate(zip(windows, kinds, strict=True)):
        if window is not None:
            groups[window.given, *kind].append(item)
    made = []
    for group in groups.values():
        ordered = sorted(group, key=lambda item: -lengths[item])
        made += [ordered[start : start + most] for start in range(0, len(ordered), most)]
    return made


def most_at_once(lm: LanguageModel, branches: Branches, steps: int, wanted: int) -> int:
    """Items that memory holds the keys and values of; says so where they are fewer than wanted.

    Args:
        lm: the language model.
        branches: what it is conditioned on.
        steps: that a sequence has at most.
        wanted: items.

    Raises:
        InputError: it does not hold those of one.
    """
    free = free_memory(lm.embedding.weight.device)
    if free is None:
        return wanted
    needed = _item_bytes(lm, branches, steps)
    most = int(_SHARE * free / needed)
    if most < 1:
        raise InputError(
            f"a sample needs {_gib(needed)} to be decoded and {_gib(free)} are free; take a shorter window or a "
            "smaller model"
        )
    if most < wanted:
        warnings.warn(
            f"{wanted} samples at once would need {_gib(needed * wanted)} of the {_gib(free)} that are free; they are "
            f"drawn {most} at a time",
            stacklevel=5,
        )
    return min(most, wanted)


def _item_bytes(lm: LanguageModel, branches: Branches, steps: int) -> int:
    """Bytes that decoding one item takes: keys and values, and the activations of given steps at once."""
    config, weight = lm.config, lm.embedding.weight
    places = {name: condition.mask.shape[1] for name, condition in branches.conditions.items.items()}
    size = 4 if weight.device.type == "cpu" else weight.element_size()
    own = steps + sum(places[name] for name in config.prefix)
    remembered = 2 * config.layers * config.dim * (own + sum(places[name] for name in config.cross))
    passing = (8 + 2 * config.ff_ratio) * config.dim * own
    return len(branches.weights) * (remembered + passing) * size


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on a device, None where nothing says how many."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type != "cpu":
        return None
    said = [left for left in (_machine_memory(), _group_memory()) if left is not None]
    return min(said) if said else None


def _machine_memory(file: str = "/proc/meminfo") -> int | None:
    """What Linux says is available."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    said = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(said["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in said else None


def _group_memory(folder: str = "/sys/fs/cgroup") -> int | None:
    """What is left of a container's limit; caches of files make room."""
    try:
        limit, used, stat = (Path(folder, f"memory.{name}").read_text() for name in ("max", "current", "stat"))
    except OSError:
        return None
    if limit.strip() == "max":
        return None
    cached = dict(line.split() for line in stat.splitlines()).get("inactive_file", "0")
    return int(limit) - int(used) + int(cached)


def _gib(count: float) -> str:
    return f"{count / 2**30:.3g} GiB"
