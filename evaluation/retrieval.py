"""Retrieval: how often a clip's own caption is among the nearest of all captions, and the other way round.

Shape letters: N clips, M different captions, D dimensions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from datamodules.errors import InputError


def retrieval_recall(
    audio_embeddings: Tensor, text_embeddings: Tensor, captions: Sequence[str], *, k: int = 1
) -> float:
    """R@k from audio to text: the share of clips whose caption is among their k nearest by cosine.

    Args:
        audio_embeddings: [N, D].
        text_embeddings: [N, D], row by row the captions'.
        captions: N captions; equal ones count as one candidate.
        k: how many nearest captions to look at.

    Returns:
        Recall in 0..1.

    Raises:
        InputError: nothing to rank, or lists of different lengths.
    """
    return float(retrieval_hits(audio_embeddings, text_embeddings, captions, k)[0].double().mean())


def retrieval_hits(
    audio_embeddings: Tensor, text_embeddings: Tensor, captions: Sequence[str], k: int = 1
) -> tuple[Tensor, Tensor]:
    """Which clips find their caption, and which clips' captions find a clip of their own, among the k nearest.

    Clips of one caption are all its own. What lies as near as a clip's own counts as nearer, so embeddings that are
    all alike find nothing.

    Args:
        audio_embeddings: [N, D].
        text_embeddings: [N, D], row by row the captions'.
        captions: N captions; equal ones count as one candidate.
        k: how many nearest to look at, by cosine.

    Returns:
        Audio to text and text to audio, both [N], true where found.

    Raises:
        InputError: nothing to rank, or lists of different lengths.
    """
    if not captions or not len(captions) == len(audio_embeddings) == len(text_embeddings):
        raise InputError("retrieval needs as many clips as captions, and at least one")
    first = {caption: row for row, caption in reversed(list(enumerate(captions)))}
    places = {caption: place for place, caption in enumerate(first)}
    own_N = torch.tensor([places[caption] for caption in captions], device=audio_embeddings.device)
    audio, text = (
        normalize(some, dim=-1, eps=1e-8) for some in (audio_embeddings, text_embeddings[list(first.values())])
    )
    cosine_NM = audio @ text.T
    is_own_NM = own_N[:, None] == torch.arange(len(first), device=own_N.device)
    foreign_NM = cosine_NM.masked_fill(is_own_NM, -torch.inf)
    to_text_N = (foreign_NM >= cosine_NM.gather(1, own_N[:, None])).sum(1) < k
    best_M = cosine_NM.masked_fill(~is_own_NM, -torch.inf).amax(0)
    to_audio_M = (foreign_NM >= best_M).sum(0) < k
    return to_text_N, to_audio_M[own_N]
