"""Retrieval: how often a clip's own caption is among the nearest of all captions.

Shape letters: N clips, M captions, D dimensions.
"""

from collections.abc import Sequence

from torch import Tensor

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
    if not captions or not len(captions) == len(audio_embeddings) == len(text_embeddings):
        raise InputError("retrieval needs as many clips as captions, and at least one")
    first = {caption: row for row, caption in reversed(list(enumerate(captions)))}
    candidates = list(first)
    own = audio_embeddings.new_tensor([candidates.index(caption) for caption in captions]).long()
    text = text_embeddings[[first[caption] for caption in candidates]]
    cosine = (audio_embeddings / audio_embeddings.norm(dim=-1, keepdim=True).clamp_min(1e-8)) @ (
        text / text.norm(dim=-1, keepdim=True).clamp_min(1e-8)
    ).T
    nearest = cosine.topk(min(k, len(candidates)), dim=-1).indices
    return float((nearest == own[:, None]).any(-1).double().mean())
