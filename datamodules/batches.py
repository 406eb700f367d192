"""What a batch holds. Shape letters: B items, C channels, N samples, K codebooks, T frames."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from datamodules.failures import Failure


@dataclass
class AudioBatch:
    """Crops of waveforms.

    Attributes:
        audio: [B, C, N] float32, padded with zeros on the right.
        lengths: [B] int64, true samples of each item.
        captions: B descriptions.
        numbers: [B] int64, the samples' numbers in the run: the key of everything random about them.
        tracks: B track ids.
        facts: B mappings, the tracks' further fields.
        failures: draws that could not be read and were replaced.
    """

    audio: Tensor
    lengths: Tensor
    captions: list[str]
    numbers: Tensor
    tracks: list[str]
    facts: list[Mapping[str, Any]]
    failures: list[Failure] = field(default_factory=list)


@dataclass
class TokenBatch:
    """Windows of codec tokens.

    Attributes:
        codes: [B, K, T] int64, padded with zeros on the right.
        lengths: [B] int64, true frames of each item.
        captions: B descriptions.
        numbers: [B] int64, the samples' numbers in the run.
        tracks: B track ids.
        chroma: [B, T'] uint8, the strongest pitch class of each chroma frame of the same seconds; 255 where it is
            silent and past the item's end.
    """

    codes: Tensor
    lengths: Tensor
    captions: list[str]
    numbers: Tensor
    tracks: list[str]
    chroma: Tensor
