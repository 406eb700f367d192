"""CLAP score: how well a clip fits its caption, in the space of an audio-text judge.

Shape letters: N clips, D dimensions.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from datamodules.errors import InputError


def clap_score(audio_embeddings: Tensor, text_embeddings: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Cosine of each clip and its caption: a.t / max(|a| |t|, epsilon)   (MusicGen paper, section 3.3).

    Args:
        audio_embeddings: [N, D], one a clip.
        text_embeddings: [N, D], row by row their captions'.
        epsilon: least product of the norms.

    Returns:
        [N] in -1..1, float64.

    Raises:
        InputError: shapes that differ, or embeddings that are not finite.
    """
    if audio_embeddings.dim() != 2 or audio_embeddings.shape != text_embeddings.shape:
        raise InputError(
            f"embeddings must be two [N, D] of one shape, not {list(audio_embeddings.shape)} and "
            f"{list(text_embeddings.shape)}"
        )
    if not (audio_embeddings.isfinite().all() and text_embeddings.isfinite().all()):
        raise InputError("embeddings are not finite; look for broken clips first")
    audio, text = audio_embeddings.double(), text_embeddings.double()
    norms = (audio.norm(dim=-1) * text.norm(dim=-1)).clamp_min(epsilon)
    return (audio * text).sum(-1) / norms


class CLAPScore(Metric):
    """Mean over clips of ``clap_score``; higher is better.

    The value means nothing without the name of the judge: the same audio scored 0.13 and 0.31 with two public CLAP
    checkpoints.

    Args:
        kwargs: for ``torchmetrics.Metric``.

    Example:
        >>> metric = CLAPScore()
        >>> metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
        >>> float(metric.compute())
        1.0
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, audio_embeddings: Tensor, text_embeddings: Tensor) -> None:
        """Adds clips and their captions; both [N, D]."""
        values = clap_score(audio_embeddings, text_embeddings)
        self.total += values.sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        """The mean, float64 scalar; InputError before any update."""
        if self.count == 0:
            raise InputError("CLAP score needs at least one clip; update it first")
        return self.total / self.count
