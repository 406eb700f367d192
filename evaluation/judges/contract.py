"""What a judge is, and what it may leave out.

Shape letters: B clips, N samples, W windows, D dimensions, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from datamodules.errors import InputError

Offer = Literal["embeddings", "logits", "text"]


@dataclass(frozen=True)
class AudioEmbeddings:
    """What a judge hears in a batch of clips.

    Attributes:
        embeddings: [B, W, D], one for each window; zero where the mask is false.
        window_logits: [B, W, L], class scores of each window, zero where the mask is false; None from a judge without
            classes.
        mask: [B, W], true for windows made of the clip's own samples; at least one in each clip.
    """

    embeddings: Tensor
    window_logits: Tensor | None
    mask: Tensor

    @property
    def logits(self) -> Tensor | None:
        """[B, L], the mean of each clip's class scores; None from a judge without classes."""
        return None if self.window_logits is None else self.window_logits.sum(1) / self.mask.sum(1, keepdim=True)

    def clips(self) -> Tensor:
        """[B, D], the mean of each clip's windows: what CLAP score compares with the caption."""
        return self.embeddings.sum(1) / self.mask.sum(1, keepdim=True)

    def windows(self) -> list[Tensor]:
        """B tensors [W_b, D], each clip's own windows: what FAD is taken over."""
        return [clip[mask] for clip, mask in zip(self.embeddings, self.mask, strict=True)]

    def checked(self, judge: str) -> "AudioEmbeddings":
        """Itself; InputError, which names judge and clip, where anything is not finite."""
        check_finite(self.embeddings, judge, "embeddings of clip")
        if self.window_logits is not None:
            check_finite(self.window_logits, judge, "class scores of clip")
        return self


@runtime_checkable
class Judge(Protocol):
    """A frozen network that hears clips; FAD needs no more.

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
    def labels(self) -> Sequence[str] | None:
        """Names of the classes, in the order of the logits; None where it gives none. KL divergence needs them."""
        ...

    @property
    def checksum(self) -> str:
        """sha256 of the weights, in hex."""
        ...

    def embed_audio(self, wav: Tensor, lengths: Tensor) -> AudioEmbeddings:
        """Hears wav [B, 1, N] at ``sample_rate``, of which ``lengths`` [B] samples are the clips' own."""
        ...


@runtime_checkable
class TextJudge(Judge, Protocol):
    """A judge that reads captions as well; CLAP score needs one."""

    def embed_text(self, captions: Sequence[str]) -> Tensor:
        """Reads captions into the same space as the clips; [B, D]."""
        ...


def offers(judge: Judge) -> tuple[Offer, ...]:
    """What metrics can have of a judge: "embeddings" of each, "logits" where it has classes, "text" where it reads."""
    found: list[Offer] = ["embeddings"]
    if judge.labels is not None:
        found.append("logits")
    if isinstance(judge, TextJudge):
        found.append("text")
    return tuple(found)


def check_finite(values: Tensor, judge: str, what: str) -> Tensor:
    """The values [B, ...] themselves.

    Raises:
        InputError: a row is not finite; it says which, as "judge: what row of the batch".
    """
    finite = values.isfinite().flatten(1).all(1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise InputError(
            f"judge {judge}: the {what} {row} of the batch are not finite; fetch its weights again if that is so of "
            "every clip, else leave this one out"
        )
    return values
