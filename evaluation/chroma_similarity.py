"""Chroma similarity: how well generated music follows the melody of its reference.

Shape letters: B clips, T frames, P pitch classes.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from datamodules.errors import InputError

Average = Literal["clip", "frame"]


def chroma_similarity(
    generated_chroma: Tensor, reference_chroma: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine of corresponding frames, averaged over each clip (MusicGen paper, section 3.3).

    On one-hot chroma the cosine of two frames is 1 where they agree and 0 where they do not. A frame where the
    reference is all zeros (silence, see ``chroma_one_hot``) is not compared; one where only the generated clip is all
    zeros scores 0.

    Args:
        generated_chroma: [B, T, P].
        reference_chroma: [B, T, P].
        lengths: [B], frames that count in each pair; all of T where it is None.

    Returns:
        Similarity [B] in 0..1, NaN for a pair without a frame to compare, and the frames compared [B]; float64.

    Raises:
        InputError: shapes that differ, or chroma that is not finite.
    """
    if generated_chroma.dim() != 3 or generated_chroma.shape != reference_chroma.shape:
        raise InputError(
            f"chroma must be two [B, T, P] of one shape, not {list(generated_chroma.shape)} and "
            f"{list(reference_chroma.shape)}; cut both to the shorter one"
        )
    if not (generated_chroma.isfinite().all() and reference_chroma.isfinite().all()):
        raise InputError("chroma is not finite; look for broken clips first")
    generated, reference = generated_chroma.double(), reference_chroma.double()
    batch, frames, _ = generated.shape
    if lengths is None:
        lengths = torch.full((batch,), frames, device=generated.device)
    norms = (generated.norm(dim=-1) * reference.norm(dim=-1)).clamp_min(1e-8)
    cosine_BT = (generated * reference).sum(-1) / norms
    inside_BT = torch.arange(frames, device=generated.device) < lengths.to(generated.device)[:, None]
    compared_BT = inside_BT & (reference.abs().amax(-1) > 0)
    compared = compared_BT.sum(-1).double()
    return (cosine_BT * compared_BT).sum(-1) / compared, compared


class ChromaSimilarity(Metric):
    """Mean of ``chroma_similarity``; higher is better, 1 at best, about 0.1 to 0.3 by chance.

    Args:
        average: "clip" gives every clip one vote; "frame" weights clips by their frames, as audiocraft does.
        kwargs: for ``torchmetrics.Metric``.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, average: Average = "clip", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if average not in ("clip", "frame"):
            raise InputError(f"average {average!r} is unknown; use clip or frame")
        self.average = average
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, generated_chroma: Tensor, reference_chroma: Tensor, lengths: Tensor | None = None) -> None:
        """Adds pairs; both [B, T, P], ``lengths`` [B] in frames. Pairs without a frame to compare have no vote."""
        values, frames = chroma_similarity(generated_chroma, reference_chroma, lengths)
        weights = (frames > 0).double() if self.average == "clip" else frames
        self.total += (values.nan_to_num() * weights).sum()
        self.count += weights.sum()

    def compute(self) -> Tensor:
        """The mean, float64 scalar; InputError when no frame could be compared."""
        if self.count == 0:
            raise InputError("chroma similarity needs a frame where the reference is not silent; update it first")
        return self.total / self.count
