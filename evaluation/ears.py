"""Who listens: judges and the chroma, behind one call, waves in and named tensors out.

Shape letters: N samples, W windows, D dimensions, L labels, T chroma frames, P pitch classes.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.features.chroma import ChromaExtractor, chroma_one_hot
from evaluation.judges.contract import Judge


class Ear(Protocol):
    """Hears clips.

    Attributes:
        key: tells what it hears from what any other ear does: two of one key hear the same in the same sound.
        sample_rate: of the waves that it wants, Hz.
        shortest: the fewest samples that it hears.
        name: for people.
    """

    key: str
    sample_rate: int
    shortest: int
    name: str

    def hear(self, waves: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Waves [N] of any lengths -> for each what was heard in it, on the CPU."""
        ...


class JudgeEar:
    """windows [W, D], clip [D], their mean, and logits [L] of a judge that has them."""

    def __init__(self, judge: Judge, device: torch.device) -> None:
        self.judge, self.device = judge, device
        self.key, self.name = f"{judge.name} {judge.checksum}", judge.name
        self.sample_rate, self.shortest = judge.sample_rate, judge.shortest

    def hear(self, waves: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """As ``Ear.hear``."""
        lengths = torch.tensor([len(wave) for wave in waves], device=self.device)
        padded = pad_sequence([wave.to(self.device) for wave in waves], batch_first=True)
        heard = self.judge.embed_audio(padded[:, None], lengths)
        found = [
            {"windows": windows.cpu(), "clip": clip.cpu()}
            for windows, clip in zip(heard.windows(), heard.clips(), strict=True)
        ]
        if heard.logits is not None:
            for one, logits in zip(found, heard.logits, strict=True):
                one["logits"] = logits.cpu()
        return found


class ChromaEar:
    """chroma [T, P], one-hot, zeros in silence."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.extractor = device, ChromaExtractor()
        self.sample_rate, self.shortest, self.name = self.extractor.sample_rate, 1, "chroma"
        self.key = f"chroma {self.sample_rate} {self.extractor.n_fft} {self.extractor.hop} one-hot"

    def hear(self, waves: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """As ``Ear.hear``."""
        lengths = torch.tensor([len(wave) for wave in waves])
        chroma, mask = self.extractor(pad_sequence(list(waves), batch_first=True).to(self.device), lengths)
        one_hot = chroma_one_hot(chroma, silent_class=None)
        return [{"chroma": clip[valid].cpu()} for clip, valid in zip(one_hot, mask, strict=True)]
