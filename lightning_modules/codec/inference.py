"""Encoder and decoder for inference: weight norm folded, chunk by chunk in bounded memory, exact at the borders.

What a convolution hears is a few frames, and an LSTM that runs forward in time hands its state on: so a track is passed
in chunks with a little of what lies on both sides, and comes out as if it had been passed at once, but for the rounding
of sums that are added up in another order.

Shape letters: B items, C channels, N samples, H width at the bottleneck, T frames.
"""

import copy
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_modules.codec.recurrence import Recurrence, State
from lightning_modules.codec.seanet import PaddedConv1d, ResidualLSTM, ResidualUnit, TrimmedConvTranspose1d
from lightning_modules.codec.tiled import TiledStack

_CHUNK, _LEAST = 1000, 250  # frames of a chunk, of all items together and of each at least: 20 s and 5 s at 50 Hz

Stack = Callable[[Tensor], Tensor]


class Half:
    """An encoder or a decoder: a stack of layers, an LSTM over frames, another stack.

    Args:
        layers: its modules, as ``seanet`` builds them.
        hop: samples a frame.
        encodes: whether it is the encoder, which takes samples and gives frames.
        compiled: whether torch.compile makes the kernels; for a GPU, and worth its minute for hours of audio.
    """

    def __init__(self, layers: nn.Sequential, hop: int, encodes: bool, compiled: bool = False) -> None:
        given = next(layers.parameters())
        self.dtype = _computed_in(given)
        if self.dtype != given.dtype:
            layers = copy.deepcopy(layers).to(self.dtype)
        first, self.recurrence, last = _parts(layers, encodes)
        self.taken, self.given = (hop, 1) if encodes else (1, hop)  # samples or latents a frame, in and out
        self.reach_first, self.reach_last = _reach(first, self.taken), _reach(last, 1)
        self.first, self.last = (_stack(part, given.device, compiled) for part in (first, last))
        assert sum(self.reach_last) < _LEAST, "a chunk is longer than what its last layers hear"

    def __call__(self, x: Tensor) -> Tensor:
        """[B, C, N] of samples or latents -> [B, C', N'] of latents or samples, in the type that it computes in."""
        x = x.to(self.dtype)
        frames = -(-x.shape[-1] // self.taken)
        chunk = max(_LEAST, _CHUNK // len(x))
        whole: Tensor | None = None
        state: State = None
        held = x.new_empty(0)  # frames at the bottleneck from ``begun`` on, which the last stack still has to hear
        begun = done = 0
        for start in range(0, frames, chunk):
            stop = min(start + chunk, frames)
            fresh = self._bottleneck(x, start, stop, frames)
            if self.recurrence is not None:
                fresh, state = self.recurrence(fresh, state)
            held = torch.cat([held, fresh], -1) if held.numel() else fresh
            ready = stop if stop == frames else stop - self.reach_last[1]
            y = self.last(held)[..., (done - begun) * self.given : (ready - begun) * self.given]
            whole = y.new_empty(*y.shape[:2], frames * self.given) if whole is None else whole
            whole[..., done * self.given : ready * self.given] = y
            begun, done = max(begun, ready - self.reach_last[0]), ready
            held = held[..., begun - stop :] if begun < stop else held[..., :0]
        assert whole is not None, "there is at least a frame"
        return whole

    def _bottleneck(self, x: Tensor, start: int, stop: int, frames: int) -> Tensor:
        """The first stack's output [B, H, T] for some frames, heard with what they reach to on both sides."""
        first, last = max(0, start - self.reach_first[0]), min(frames, stop + self.reach_first[1])
        y = self.first(x[..., first * self.taken : last * self.taken])
        return y[..., start - first : stop - first]


def _computed_in(weight: Tensor) -> torch.dtype:
    """The type to compute in: on a CPU without instructions for bfloat16 float32 is many times faster, and no worse."""
    if weight.device.type != "cpu" or weight.dtype not in (torch.bfloat16, torch.float16):
        return weight.dtype
    fast = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype if fast else torch.float32


def _parts(layers: nn.Sequential, encodes: bool) -> tuple[list[nn.Module], Recurrence | None, list[nn.Module]]:
    """What lies before the LSTM, the LSTM, and what lies behind; without one, where it would be."""
    every = list(layers)
    for place, layer in enumerate(every):
        if isinstance(layer, ResidualLSTM):
            return every[:place], Recurrence(layer), every[place + 1 :]
    place = len(every) - 2 if encodes else 1
    return every[:place], None, every[place:]


def _reach(layers: Sequence[nn.Module], rate: int) -> tuple[int, int]:
    """Frames before and after its own that an output of these layers hears; ``rate`` input rows make a frame."""
    left, right, step = Fraction(0), Fraction(0), Fraction(1, rate)
    for layer in layers:
        if isinstance(layer, TrimmedConvTranspose1d):
            left, right, step = left + step, right + step, step / layer.conv.stride[0]
            continue
        # A unit's second convolution and its shortcut hear one step.
        conv = layer.block[1] if isinstance(layer, ResidualUnit) else layer
        if isinstance(conv, PaddedConv1d):
            before, after = conv.reach
            left, right, step = left + before * step, right + after * step, step * conv.conv.stride[0]
    return ceil(left), ceil(right)


def _stack(layers: list[nn.Module], device: torch.device, compiled: bool) -> Stack:
    if device.type == "cpu":
        return TiledStack(layers)
    stack = copy.deepcopy(nn.Sequential(*layers)).requires_grad_(False).eval()
    for module in stack.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    return torch.compile(stack, dynamic=True) if compiled else stack
