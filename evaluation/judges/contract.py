"""What a judge is.

Shape letters: B clips, N samples, W windows, D dimensions, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class AudioEmbeddings:
    """What a judge hears in a batch of clips.

    Attributes:
        embeddings: [B, W, D], one for each window; zero where the mask is false.
        logits: [B, L], class scores, averaged over each clip's windows.
        mask: [B, W], true for windows made of the clip's own samples; at least one in each clip.
    """

    embeddings: Tensor
    logits: Tensor
    mask: Tensor

    def clips(self) -> Tensor:
        """[B, D], the mean of each clip's windows: what CLAP score compares with the caption."""
        return self.embeddings.sum(1) / self.mask.sum(1, keepdim=True)

    def windows(self) -> list[Tensor]:
        """B tensors [W_b, D], each clip's own windows: what FAD is taken over."""
        return [clip[mask] for clip, mask in zip(self.embeddings, self.mask, strict=True)]


@runtime_checkable
class Judge(Protocol):
    """A frozen audio-text network with class scores.

    Attributes:
        name: short name that stands beside every number made with it.
        checksum: sha256 of its weights, in hex: numbers are comparable only where it is equal.
        sample_rate: rate it wants, in Hz.
        window: seconds of audio in one embedding.
        hop: seconds from one window to the next.
        shortest: the fewest samples it can judge.
    """

    name: str
    sample_rate: int
    window: float
    hop: float
    shortest: int

    @property
    def labels(self) -> Sequence[str]:
        """Names of the classes, in the order of the logits."""
        ...

    @property
    def checksum(self) -> str:
        """sha256 of the weights, in hex."""
        ...

    def embed_audio(self, wav: Tensor, lengths: Tensor) -> AudioEmbeddings:
        """Hears wav [B, 1, N] at ``sample_rate``, of which ``lengths`` [B] samples are the clips' own."""
        ...

    def embed_text(self, captions: Sequence[str]) -> Tensor:
        """Reads captions into the same space as the clips; [B, D]."""
        ...
