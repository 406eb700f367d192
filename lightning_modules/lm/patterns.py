"""Codebook interleaving patterns (MusicGen, section 2.2).

A pattern says in which step of the sequence each code (frame t, codebook k) is predicted. Every code has exactly one
step, a step holds at most one code of each codebook, and step 0 is empty; so a pattern *is* an integer map ``steps[k,
t]``, and building and reverting a sequence are a scatter and a gather.

Shape letters: B items, K codebooks, T frames, S steps (step 0 included), V whatever follows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.errors import InputError


@dataclass(frozen=True)
class Pattern:
    """A pattern over K codebooks.

    Attributes:
        name: what ``build_pattern`` calls it.
        codebooks: K.
        special: token that fills the places without a code; the embedding's extra row.
        per_frame: steps by which a frame's codes move on.
        offsets: K step offsets within that movement.
        coarse_first: all of codebook 0 first, then the others in parallel: offsets of 0 and T, whatever T is.
    """

    name: str
    codebooks: int
    special: int
    per_frame: int = 1
    offsets: tuple[int, ...] = ()
    coarse_first: bool = False

    def steps(self, frames: int, device: torch.device | str | None = None) -> Tensor:
        """The step of every code, [K, T] int64, counted from 1."""
        time = 1 + self.per_frame * torch.arange(frames, device=device)
        # Not a tensor of offsets: copying that to a GPU would wait for all work queued there, once a training step.
        return torch.stack([time + offset for offset in self._offsets(frames)])

    def _offsets(self, frames: int) -> tuple[int, ...]:
        return (0, *[frames] * (self.codebooks - 1)) if self.coarse_first else self.offsets

    def length(self, frames: int) -> int:
        """Steps of the whole sequence, the empty step 0 included: S of ``build``."""
        if frames == 0:
            return 1
        return 2 + (frames - 1) * self.per_frame + max(self._offsets(frames))

    def trimmed_length(self, frames: int) -> int:
        """Steps of the sequence used in training: without the last ones, which a delay leaves ever emptier.

        As long as the steps in which the first and the last codebook both still have a code to give: 1 + T x per_frame.
        """
        if self.coarse_first:
            return self.length(frames)
        return min(self.length(frames), 1 + frames * self.per_frame)

    def frames(self, length: int) -> int:
        """Frames of an untrimmed sequence of ``length`` steps: the inverse of ``length``."""
        if self.coarse_first:
            frames = (length - 1) // min(2, self.codebooks)
        else:
            frames = (length - 2 - max(self.offsets)) // self.per_frame + 1
        if frames < 1 or self.length(frames) != length:
            raise ValueError(f"no number of frames has {length} steps in pattern {self.name!r}")
        return frames

    def build(self, codes: Tensor, *, trim: bool = False) -> Tensor:
        """Codes [B, K, T] -> sequence [B, K, S], the special token where a step has no code of a codebook."""
        batch, codebooks, frames = codes.shape
        if codebooks != self.codebooks:
            raise ValueError(f"pattern {self.name!r} is over {self.codebooks} codebooks, the codes have {codebooks}")
        sequence = codes.new_full((batch, codebooks, self.length(frames)), self.special)
        steps = self.steps(frames, codes.device).expand(batch, -1, -1)
        sequence.scatter_(2, steps, codes)
        return sequence[..., : self.trimmed_length(frames)] if trim else sequence

    def revert(self, values: Tensor, frames: int | None = None, *, first_step: int = 0) -> tuple[Tensor, Tensor]:
        """Puts what stands at each code's step back at (k, t).

        Args:
            values: [B, K, S] codes or [B, K, S, V], for instance logits; S may be cut short on the right.
            frames: T; by default what an untrimmed sequence of this length has.
            first_step: the step of the first column. Logits begin with step 1: the model predicts a step from those
                before.

        Returns:
            values [B, K, T] or [B, K, T, V], and a mask [B, K, T] that is false where the sequence was cut before that
            code's step; values are zero there.
        """
        if frames is None:
            frames = self.frames(values.shape[2] + first_step)
        index = self.steps(frames, values.device) - first_step
        present = index < values.shape[2]
        index = index.clamp(max=values.shape[2] - 1)
        books = torch.arange(self.codebooks, device=values.device)[:, None]
        gathered = values[:, books, index]
        mask = present.expand(len(values), -1, -1)
        absent = ~(mask[..., None] if gathered.dim() == 4 else mask)
        return gathered.masked_fill_(absent, 0), mask  # in place: logits are large


_OFFSETS: dict[str, tuple[Callable[[int], int], Callable[[int], int]]] = {
    # name: (steps a frame of K codebooks, offset of codebook k)
    "parallel": (lambda K: 1, lambda k: 0),
    "delay": (lambda K: 1, lambda k: k),
    "partial_delay": (lambda K: 1, lambda k: min(k, 1)),
    "flatten": (lambda K: K, lambda k: k),
    "partial_flatten": (lambda K: min(2, K), lambda k: min(k, 1)),
    # left and right codebooks alternate: L1 R1 L2 R2 ...
    "stereo_delay": (lambda K: 1, lambda k: k),
    "stereo_partial_delay": (lambda K: 1, lambda k: k // 2),
}
PATTERNS = (*_OFFSETS, "coarse_first")


def build_pattern(name: str, codebooks: int, special: int = 2048) -> Pattern:
    """The pattern called ``name`` over ``codebooks`` codebooks.

    Args:
        name: "parallel", "delay", "partial_delay", "flatten", "partial_flatten", "coarse_first", "stereo_delay",
            "stereo_partial_delay" (these are ``PATTERNS``), or "delay:" and K delays of your own: "delay:0,3,3,3".
        codebooks: K.
        special: token that marks an empty place; the number of entries of a codebook.

    Raises:
        InputError: no such pattern, a stereo pattern over an odd number of codebooks, or delays that are not K whole
            numbers of which the smallest is 0.
    """
    if codebooks < 1:
        raise InputError(f"a pattern needs at least one codebook, got {codebooks}")
    if name == "coarse_first":
        return Pattern(name, codebooks, special, coarse_first=True)
    if name.startswith("delay:"):
        return Pattern(name, codebooks, special, offsets=_delays(name, codebooks))
    if name not in _OFFSETS:
        raise InputError(
            f"there is no pattern {name!r}; choose one of {', '.join(PATTERNS)}, or give delays of your own as in "
            "delay:0,3,3,3"
        )
    if name.startswith("stereo") and codebooks % 2:
        raise InputError(f"pattern {name!r} interleaves left and right; {codebooks} codebooks cannot be halved")
    per_frame, offset = _OFFSETS[name]
    return Pattern(name, codebooks, special, per_frame(codebooks), tuple(offset(k) for k in range(codebooks)))


def _delays(name: str, codebooks: int) -> tuple[int, ...]:
    """The delays in ``name``: in any order, as the codebooks of two channels may follow each other."""
    try:
        delays = tuple(int(delay) for delay in name.removeprefix("delay:").split(","))
    except ValueError:
        delays = ()
    if len(delays) != codebooks or min(delays) != 0:
        example = ",".join(["0", *["3"] * (codebooks - 1)])
        raise InputError(
            f"pattern {name!r}: there must be {codebooks} whole numbers, one a codebook, and the smallest must be 0, "
            f"as in delay:{example}"
        )
    return delays
