"""Matrix products for the few rows of a decoding step.

On a CPU such a product does little but read its weights, and PyTorch's own reads them at a half to a third of the speed
of memory. Here weights are laid out once, in the blocks that oneDNN reads in order, or as int8.

A row's result depends on that row alone, bit for bit: not on how many rows there are, nor on its place among them.
``F.linear`` does not keep that promise in float32, and torch's dynamic int8, which scales all rows by their largest
value, does not in any type. It is what makes a sample the same in every batch.

Shape letters: N rows, I inputs, O outputs.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.errors import InputError

# Rows. One goes by another kernel than more do; with four the weights are read half as fast again as with two.
_LEAST = 4
_FEW, _MANY = 8, 64  # within one kernel's reach anywhere, and more than most batches have
Product = Callable[[Tensor], Tensor]  # [N, I] -> [N, O]


def product(linear: nn.Linear, *, int8: bool = False, alone: bool = False) -> Product:
    """The product with a layer's weights [O, I], without autograd; the layer has no bias.

    Weights in float32 and bfloat16 are packed on a CPU that oneDNN has instructions for; those on a GPU, and of other
    types, are multiplied as they are. The result has the type of the weights.

    Args:
        linear: the layer; its weights are copied where they are packed.
        int8: weights as int8 with a scale for each output, inputs as int8 with one for each row, on a CPU.
        alone: the layer lets go of weights that were packed, and multiplies no more by itself.
    """
    weight = linear.weight.detach()
    if not int8 and not (weight.device.type == "cpu" and _packs(weight.dtype)):
        return lambda x: F.linear(x, weight)
    packed: Product = _Int8(weight) if int8 else _Packed(weight)
    if alone:
        linear.weight.data = weight.new_empty(0)
    return packed


def require_int8(device: torch.device) -> None:
    """Refuses int8 where there is none.

    Raises:
        InputError: the device is no CPU, or this build of torch has no int8 products for it.
    """
    if device.type != "cpu":
        raise InputError(f"int8 is for CPUs, and this model is on {device.type}; use bfloat16 there")
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        raise InputError("torch has no int8 products for this processor; use float32 or bfloat16")


def _packs(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Packed:
    """A product by oneDNN with weights in its blocks.

    No number of rows is given when packing: for few rows of float32 oneDNN would choose a layout that another kernel
    reads, faster for these and slower for more, and not to the same last bit.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.few = not _rows_are_alike(*weight.shape, weight.dtype, torch.get_num_threads())

    def __call__(self, x: Tensor) -> Tensor:
        if self.few and len(x) > _FEW:
            return torch.cat([self(part) for part in x.split(_FEW)])
        if len(x) < _LEAST:
            return _multiply(torch.cat([x] * -(-_LEAST // len(x))), self.weight)[: len(x)]
        return _multiply(x, self.weight)


def _multiply(x: Tensor, weight: Tensor) -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, None, "none", [], "")
    return made


@cache
def _rows_are_alike(outputs: int, inputs: int, dtype: torch.dtype, threads: int) -> bool:
    """Whether many rows at once get the bits that few of them get: some small layers have another kernel from 16 on."""
    drawing = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, inputs, generator=drawing).to(dtype) for n in (_MANY, outputs))
    weight = torch.ops.mkldnn._reorder_linear_weight(weight)
    places = [*range(_LEAST), *range(_FEW, _FEW + _LEAST)]
    least = torch.cat([_multiply(x[at : at + _LEAST], weight) for at in (0, _FEW)])
    return all(torch.equal(_multiply(x[:rows], weight)[places], least) for rows in (2 * _FEW, _MANY))


class _Int8:
    """A product in int8: a scale for each output and each row, sums in int32."""

    def __init__(self, weight: Tensor) -> None:
        self.dtype = weight.dtype
        # Where pairs of products are added up in 16 bits, inputs of more than 7 bits would overflow them.
        self.levels = 127 if torch.cpu._is_vnni_supported() else 63
        scales = weight.float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        quantised = torch.quantize_per_channel(weight.float(), scales, zeros, 0, torch.qint8)
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"
        try:
            self.weight = torch.ops.quantized.linear_prepack(quantised, None)
        finally:
            torch.backends.quantized.engine = engine
        self.multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default

    def __call__(self, x: Tensor) -> Tensor:
        x = x.float()
        scale = x.abs().amax(1, keepdim=True).clamp_(min=1e-12)
        # All rows are brought to the same scale, so that the one that the product takes is right for each.
        made = self.multiply(x / scale, 1 / self.levels, self.levels + 1, self.weight)
        return made.mul_(scale).to(self.dtype)
