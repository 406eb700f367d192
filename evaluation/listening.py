"""Reads pairs of clips and lets judge and chroma hear them, a batch at a time.

Shape letters: N samples, W windows, D dimensions, L labels, T chroma frames, P pitch classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.audio_io import audio_length, read_audio
from datamodules.errors import InputError
from datamodules.features.chroma import ChromaExtractor, chroma_one_hot
from datamodules.sample_order import derived_seed
from evaluation.judges.contract import Judge, TextJudge, offers
from evaluation.pairing import Pair

BATCH = 8
# White noise as loud as quiet music: about -20 dB below full scale.
_NOISE_LEVEL = 0.1


@dataclass(frozen=True)
class Sound:
    """What was heard in one clip.

    Attributes:
        windows: [W, D], the judge's embeddings.
        clip: [D], their mean.
        logits: [L], the judge's class scores.
        chroma: [T, P], one-hot, zeros in silence.
        seconds: length of what was heard.
    """

    windows: Tensor
    clip: Tensor
    logits: Tensor
    chroma: Tensor
    seconds: float


@dataclass(frozen=True)
class HeardPair:
    """A pair, and a clip of white noise in the generated one's place: the scale's far end.

    Attributes:
        pair: ids, caption and files.
        generated: what the system made.
        reference: as much of the recording as the system made.
        noise: white noise of the same length.
        text: [D], the caption; None where it is empty.
    """

    pair: Pair
    generated: Sound
    reference: Sound
    noise: Sound
    text: Tensor | None


@dataclass(frozen=True)
class _Loaded:
    """A pair's audio: for generated, reference and noise the waves [N] at the judge's and at the chroma's rate."""

    pair: Pair
    for_judge: list[Tensor]
    for_chroma: list[Tensor]


class Listener:
    """Hears pairs with one judge.

    Args:
        judge: its embeddings and class scores are taken.
        seed: of the noise.
        device: where judge and chroma run.

    Raises:
        InputError: a judge that gives no class scores or reads no captions.
    """

    def __init__(self, judge: Judge, *, seed: int = 0, device: str | torch.device = "cpu") -> None:
        if not isinstance(judge, TextJudge) or judge.labels is None:
            raise InputError(
                f"judge {judge.name} gives {', '.join(offers(judge))}; embeddings, logits and text of one judge are "
                "needed: use embedded or a judge's folder"
            )
        self.judge: TextJudge = judge
        self.seed, self.device = seed, torch.device(device)
        self.chroma = ChromaExtractor()

    def listen(self, pairs: Sequence[Pair]) -> Iterator[tuple[list[HeardPair], list[dict[str, str]]]]:
        """Yields, batch by batch, what was heard and which clips failed, as ``{"id", "reason"}``."""
        for start in range(0, len(pairs), BATCH):
            loaded, failed = [], []
            for pair in pairs[start : start + BATCH]:
                try:
                    loaded.append(self._load(pair))
                except InputError as error:
                    failed.append({"id": pair.id, "reason": str(error)})
            yield self._hear(loaded) if loaded else [], failed

    def _load(self, pair: Pair) -> _Loaded:
        frames, rate = audio_length(pair.generated)
        seconds = frames / rate
        waves = []
        for target in (self.judge.sample_rate, self.chroma.sample_rate):
            generated = read_audio(pair.generated, sample_rate=target)[0]
            reference = read_audio(pair.reference, sample_rate=target, duration=seconds)[0]
            generator = torch.Generator().manual_seed(derived_seed(self.seed, pair.id, "noise", target))
            waves.append([generated, reference, _NOISE_LEVEL * torch.randn(len(generated), generator=generator)])
        least = self.judge.shortest / self.judge.sample_rate
        for name, path, wave in zip(("clip", "reference"), (pair.generated, pair.reference), waves[0], strict=False):
            if len(wave) < self.judge.shortest:
                length = len(wave) / self.judge.sample_rate
                raise InputError(
                    f"{path}: the {name} lasts {length:.3f} s, too short to judge (at least {least:.3f} s)"
                )
        return _Loaded(pair, *waves)

    def _hear(self, loaded: list[_Loaded]) -> list[HeardPair]:
        """Three sounds a pair, all in one batch."""
        waves = [wave.to(self.device) for one in loaded for wave in one.for_judge]
        lengths = torch.tensor([len(wave) for wave in waves], device=self.device)
        heard = self.judge.embed_audio(pad_sequence(waves, batch_first=True)[:, None], lengths)
        assert heard.logits is not None, "a judge with labels gives logits"
        chroma = self._hear_chroma([wave for one in loaded for wave in one.for_chroma])
        sounds = [
            Sound(windows.cpu(), clip.cpu(), logits.cpu(), frames, int(length) / self.judge.sample_rate)
            for windows, clip, logits, frames, length in zip(
                heard.windows(), heard.clips(), heard.logits, chroma, lengths, strict=True
            )
        ]
        captions = [one.pair.caption for one in loaded]
        texts = self.judge.embed_text(captions).cpu()
        pairs = []
        for row, one in enumerate(loaded):
            generated, reference, noise = sounds[3 * row : 3 * row + 3]
            pairs.append(HeardPair(one.pair, generated, reference, noise, texts[row] if captions[row] else None))
        return pairs

    def _hear_chroma(self, waves: list[Tensor]) -> list[Tensor]:
        lengths = torch.tensor([len(wave) for wave in waves])
        padded = pad_sequence(waves, batch_first=True).to(self.device)
        chroma, mask = self.chroma(padded, lengths)
        one_hot = chroma_one_hot(chroma, silent_class=None)
        return [clip[valid].cpu() for clip, valid in zip(one_hot, mask, strict=True)]
