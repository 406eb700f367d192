"""Who listens: judges and the chroma, behind one call, waves in and named tensors out.

Shape letters: N samples, W windows, S segments, D dimensions, L labels, T chroma frames, P pitch classes.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from datamodules.errors import InputError
from datamodules.features.chroma import ChromaExtractor, chroma_one_hot
from datamodules.features.stems import MELODY_STEMS, PUBLISHED, load_separator
from evaluation.judges.contract import Judge
from evaluation.protocol import ChromaChoices, Segments

_SEPARATOR = "htdemucs"


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
    """windows [W, D], and logits [S, L] of a judge that has them: of each segment, which are the windows by default.

    Args:
        judge: who hears.
        device: where.
        segments: how clips are cut before; None leaves that to the judge.

    Raises:
        InputError: segments too short for the judge.
    """

    def __init__(self, judge: Judge, device: torch.device, segments: Segments | None = None) -> None:
        self.judge, self.device, self.segments = judge, device, segments
        self.key, self.name = f"{judge.name} {judge.checksum} {segments}", judge.name
        self.sample_rate, self.shortest = judge.sample_rate, judge.shortest
        if segments is not None:
            if segments.window * judge.sample_rate < judge.shortest:
                least = judge.shortest / judge.sample_rate
                raise InputError(
                    f"judge {judge.name} hears no less than {least:.3f} s, and the protocol cuts segments of "
                    f"{segments.window} s; name another judge or protocol"
                )
            self.shortest = max(judge.shortest, round(segments.shortest * judge.sample_rate))

    def hear(self, waves: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """As ``Ear.hear``."""
        if self.segments is None:
            return self._hear(waves)
        pieces = [cut(wave, self.sample_rate, self.segments, self.shortest) for wave in waves]
        heard = iter(self._hear([piece for some in pieces for piece in some]))
        found = []
        for some in pieces:
            parts = [next(heard) for _ in some]
            one = {"windows": torch.cat([part["windows"] for part in parts])}
            if "logits" in parts[0]:
                one["logits"] = torch.stack([part["logits"].mean(0) for part in parts])
            found.append(one)
        return found

    def _hear(self, waves: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        lengths = torch.tensor([len(wave) for wave in waves], device=self.device)
        padded = pad_sequence([wave.to(self.device) for wave in waves], batch_first=True)
        heard = self.judge.embed_audio(padded[:, None], lengths)
        found = [{"windows": windows.cpu()} for windows in heard.windows()]
        if heard.window_logits is not None:
            for one, logits, mask in zip(found, heard.window_logits, heard.mask, strict=True):
                one["logits"] = logits[mask].cpu()
        return found


def cut(wave: Tensor, sample_rate: int, segments: Segments, shortest: int) -> list[Tensor]:
    """Segments of a wave [N], as ``Segments`` says; those of under ``shortest`` samples are left out."""
    window, hop = round(segments.window * sample_rate), round(segments.hop * sample_rate)
    starts = range(0, max(hop, len(wave) - (window - hop)), hop)
    pieces = [wave[start : start + window] for start in starts]
    pieces = [piece for piece in pieces if len(piece) >= shortest]
    if segments.pad_from is None:
        return pieces
    least = segments.pad_from * sample_rate
    return [pad(piece, (0, window - len(piece))) if len(piece) > least else piece for piece in pieces]


class ChromaEar:
    """chroma [T, P], one-hot, zeros in silence.

    Args:
        choices: of the full mix or of stems, and at which rate.
        device: where.

    Raises:
        InputError: stems are wanted, and Demucs or its weights are not on this machine.
    """

    def __init__(self, choices: ChromaChoices, device: torch.device) -> None:
        self.device, self.extractor = device, ChromaExtractor(choices.sample_rate)
        self.sample_rate, self.shortest, self.name = self.extractor.sample_rate, 1, "chroma"
        self.key = f"chroma {self.sample_rate} {self.extractor.n_fft} {self.extractor.hop} one-hot"
        self.separate = None
        if choices.source == "stems":
            self.separate = load_separator(_SEPARATOR, sample_rate=self.sample_rate)
            self.key += f" {_SEPARATOR} {PUBLISHED[_SEPARATOR]} {MELODY_STEMS}"

    def hear(self, waves: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """As ``Ear.hear``."""
        lengths = torch.tensor([len(wave) for wave in waves])
        padded = pad_sequence(list(waves), batch_first=True).to(self.device)
        if self.separate is not None:
            padded = self.separate(padded[:, None], lengths)[:, 0]
        chroma, mask = self.extractor(padded, lengths)
        one_hot = chroma_one_hot(chroma, silent_class=None)
        return [{"chroma": clip[valid].cpu()} for clip, valid in zip(one_hot, mask, strict=True)]
