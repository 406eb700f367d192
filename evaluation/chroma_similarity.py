"""Chroma similarity: how well generated music follows the melody of its reference.

Shape letters: B clips, T frames, P pitch classes.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from datamodules.errors import InputError

Average = Literal["clip", "frame"]
Silent = Literal["left out", "class 0"]


def chroma_similarity(
    generated_chroma: Tensor,
    reference_chroma: Tensor,
    lengths: Tensor | None = None,
    *,
    silent: Silent = "left out",
) -> tuple[Tensor, Tensor]:
    """Cosine of corresponding frames, averaged over each clip (MusicGen paper, section 3.3).

    On one-hot chroma the cosine of two frames is 1 where they agree and 0 where they do not.

    Args:
        generated_chroma: [B, T, P].
        reference_chroma: [B, T, P].
        lengths: [B], frames that count in each pair; all of T where it is None.
        silent: what becomes of frames that are all zeros (silence, see ``chroma_one_hot``). "left out": one where the
            reference is silent is not compared, and one where only the generated clip is scores 0. "class 0": as
            audiocraft does, silence is C, on both sides, and compared.

    Returns:
        Similarity [B] in 0..1, NaN for a pair without a frame to compare, and the frames compared [B]; float64.

    Raises:
        InputError: shapes that differ, chroma that is not finite, or an unknown rule for silence.
    """
    if silent not in get_args(Silent):
        raise InputError(f"silent {silent!r} is unknown; use {' or '.join(get_args(Silent))}")
    if generated_chroma.dim() != 3 or generated_chroma.shape != reference_chroma.shape:
        raise InputError(
            f"chroma must be two [B, T, P] of one shape, not {list(generated_chroma.shape)} and "
            f"{list(reference_chroma.shape)}; cut both to the shorter one"
        )
    if not (generated_chroma.isfinite().all() and reference_chroma.isfinite().all()):
        raise InputError("chroma is not finite; look for broken clips first")
    generated, reference = generated_chroma.double(), reference_chroma.double()
    if silent == "class 0":
        generated, reference = _silence_as_first(generated), _silence_as_first(reference)
    batch, frames, _ = generated.shape
    if lengths is None:
        lengths = torch.full((batch,), frames, device=generated.device)
    norms = (generated.norm(dim=-1) * reference.norm(dim=-1)).clamp_min(1e-8)
    cosine_BT = (generated * reference).sum(-1) / norms
    inside_BT = torch.arange(frames, device=generated.device) < lengths.to(generated.device)[:, None]
    compared_BT = inside_BT & (reference.abs().amax(-1) > 0)
    compared = compared_BT.sum(-1).double()
    return (cosine_BT * compared_BT).sum(-1) / compared, compared


def _silence_as_first(chroma_BTP: Tensor) -> Tensor:
    """Frames of zeros with a 1 for the first pitch class."""
    silent_BT = chroma_BTP.abs().amax(-1) == 0
    return torch.cat([chroma_BTP[..., :1] + silent_BT[..., None], chroma_BTP[..., 1:]], dim=-1)


class ChromaSimilarity(Metric):
    """Mean of ``chroma_similarity``; higher is better, 1 at best, about 0.1 to 0.3 by chance.

    Args:
        average: "clip" gives every clip one vote; "frame" weights clips by their frames, as audiocraft does.
        silent: see ``chroma_similarity``.
        kwargs: for ``torchmetrics.Metric``.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, average: Average = "clip", silent: Silent = "left out", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if average not in get_args(Average):
            raise InputError(f"average {average!r} is unknown; use {' or '.join(get_args(Average))}")
        self.average, self.silent = average, silent
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, generated_chroma: Tensor, reference_chroma: Tensor, lengths: Tensor | None = None) -> None:
        """Adds pairs; both [B, T, P], ``lengths`` [B] in frames. Pairs without a frame to compare have no vote."""
        values, frames = chroma_similarity(generated_chroma, reference_chroma, lengths, silent=self.silent)
        weights = (frames > 0).double() if self.average == "clip" else frames
        self.total += (values.nan_to_num() * weights).sum()
        self.count += weights.sum()

    def compute(self) -> Tensor:
        """The mean, float64 scalar; InputError when no frame could be compared."""
        if self.count == 0:
            raise InputError("chroma similarity needs a frame where the reference is not silent; update it first")
        return self.total / self.count
