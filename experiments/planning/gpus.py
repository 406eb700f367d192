"""GPUs as their datasheets have them: the one table that plans and MFU are made of."""

import re
from dataclasses import dataclass

from datamodules.errors import InputError


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        key: what ``mgl plan --gpu`` calls it.
        pattern: of the name that its driver gives it, in capitals.
        peak: dense 16-bit products with float32 accumulation, FLOP/s (where a datasheet prints figures "with sparsity",
            half of them).
        memory: bytes; the datasheet's GB taken as 10^9, a little less than there is.
        link: bytes/s each way between the GPUs of a node, half of the sum of both ways that datasheets print: NVLink or
            Infinity Fabric of the boards that have it built in, else PCI Express.
        bfloat16: whether it multiplies bfloat16; else ``peak`` is float16's.
    """

    key: str
    pattern: str
    peak: float
    memory: float
    link: float
    bfloat16: bool = True


def _gpu(key: str, pattern: str, tera: float, gigabytes: float, link: float, *, bfloat16: bool = True) -> Gpu:
    return Gpu(key, pattern, tera * 1e12, gigabytes * 1e9, link * 1e9, bfloat16)


# From the makers' datasheets and architecture white papers; the first pattern found in a name wins.
#    key             pattern               TFLOP/s   GB  GB/s
GPUS = (
    _gpu("b200", "GB200|B200", 2250, 180, 900),
    _gpu("b100", "B100", 1750, 192, 900),
    _gpu("h200-nvl", "H200 NVL", 835.5, 141, 450),
    _gpu("h100-nvl", "H100 NVL", 835.5, 94, 300),
    _gpu("h100-pcie", "H100 PCIE", 756, 80, 64),
    _gpu("gh200", "GH200", 989.4, 96, 450),
    _gpu("h200", "H200", 989.4, 141, 450),
    _gpu("h100", "H100", 989.4, 80, 450),
    _gpu("h800", "H800", 989.4, 80, 200),
    _gpu("h20", "H20", 148, 96, 450),
    _gpu("a100-40", "A100.*40GB", 312, 40, 300),
    _gpu("a100", "A100", 312, 80, 300),
    _gpu("a800", "A800", 312, 80, 200),
    _gpu("a40", "A40", 149.7, 48, 32),
    _gpu("a30", "A30", 165, 24, 32),
    _gpu("a10g", "A10G", 70, 24, 32),
    _gpu("a10", "A10", 125, 24, 32),
    _gpu("l40s", "L40S", 362, 48, 32),
    _gpu("l40", "L40", 181, 48, 32),
    _gpu("l4", "L4", 121, 24, 32),
    _gpu("rtx6000-ada", "RTX 6000 ADA", 364.2, 48, 32),
    _gpu("a6000", "RTX A6000", 154.8, 48, 32),
    _gpu("rtx5090", "RTX 5090", 209.5, 32, 64),
    _gpu("rtx4090", "RTX 4090", 165.2, 24, 32),
    _gpu("rtx3090ti", "RTX 3090 TI", 80, 24, 32),
    _gpu("rtx3090", "RTX 3090", 71, 24, 32),
    _gpu("rtx3070ti", "RTX 3070 TI", 43.5, 8, 32),
    _gpu("rtx3070", "RTX 3070", 40.6, 8, 32),
    _gpu("v100", "V100", 125, 32, 150, bfloat16=False),
    _gpu("t4", "T4", 65, 16, 16, bfloat16=False),
    _gpu("mi300x", "MI300X", 1307.4, 192, 448),
    # One of the card's two halves, each of which is a device of its own.
    _gpu("mi250x", "MI250X", 191.5, 64, 50),
)


def gpu_named(device: str) -> Gpu | None:
    """The kind of a GPU by the name that its driver gives it; None where it is not known, as of a slice of one."""
    name = device.upper()
    if "MIG " in name:
        return None
    return next((gpu for gpu in GPUS if re.search(rf"\b({gpu.pattern})\b", name)), None)


def find_gpu(key: str) -> Gpu:
    """The kind of this key, however it is written: "h100", "RTX 4090".

    Raises:
        InputError: there is none in the table.
    """
    plain = _plain(key)
    found = next((gpu for gpu in GPUS if _plain(gpu.key) == plain), None)
    if found is None:
        raise InputError(f"there is no GPU {key!r} in the table; choose from {', '.join(gpu.key for gpu in GPUS)}")
    return found


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.lower())
