"""Reads pairs of clips and lets judges and chroma hear them, a batch at a time.

Shape letters: N samples, W windows, D dimensions, L labels, T chroma frames, P pitch classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.audio_io import audio_length, read_audio
from datamodules.errors import InputError
from datamodules.features.chroma import ChromaExtractor, chroma_one_hot
from datamodules.sample_order import derived_seed
from evaluation.judges.contract import AudioEmbeddings, Judge
from evaluation.judges.panel import Panel
from evaluation.pairing import Pair

BATCH = 8
# White noise as loud as quiet music: about -20 dB below full scale.
_NOISE_LEVEL = 0.1


@dataclass(frozen=True)
class Sound:
    """What was heard in one clip.

    Attributes:
        windows: [W, D], embeddings of the judge for FAD.
        clip: [D], mean of the embeddings of the judge for CLAP score.
        logits: [L], class scores of the judge for KL divergence.
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
    """A pair's audio: by rate the waves [N] of generated, reference and noise."""

    pair: Pair
    waves: Mapping[int, list[Tensor]]


class Listener:
    """Hears pairs with a panel of judges.

    Args:
        panel: who hears for which metric.
        seed: of the noise.
        device: where judges and chroma run.
    """

    def __init__(self, panel: Panel, *, seed: int = 0, device: str | torch.device = "cpu") -> None:
        self.panel, self.seed, self.device = panel, seed, torch.device(device)
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
        waves = {}
        for target in {judge.sample_rate for judge in self.panel.distinct} | {self.chroma.sample_rate}:
            generated = read_audio(pair.generated, sample_rate=target)[0]
            reference = read_audio(pair.reference, sample_rate=target, duration=seconds)[0]
            generator = torch.Generator().manual_seed(derived_seed(self.seed, pair.id, "noise", target))
            waves[target] = [generated, reference, _NOISE_LEVEL * torch.randn(len(generated), generator=generator)]
        for judge in self.panel.distinct:
            _require_length(judge, pair, waves[judge.sample_rate])
        return _Loaded(pair, waves)

    def _hear(self, loaded: list[_Loaded]) -> list[HeardPair]:
        """Three sounds a pair, all in one batch."""
        heard = {id(judge): self._hear_with(judge, loaded) for judge in self.panel.distinct}
        windows = heard[id(self.panel.fad)].windows()
        logits = heard[id(self.panel.kld)].logits
        assert logits is not None, "a judge with labels gives logits"
        clips = heard[id(self.panel.clap)].clips()
        waves = [wave for one in loaded for wave in one.waves[self.chroma.sample_rate]]
        sounds = [
            Sound(one.cpu(), clip.cpu(), scores.cpu(), frames, len(wave) / self.chroma.sample_rate)
            for one, clip, scores, frames, wave in zip(
                windows, clips, logits, self._hear_chroma(waves), waves, strict=True
            )
        ]
        captions = [one.pair.caption for one in loaded]
        texts = self.panel.clap.embed_text(captions).cpu()
        pairs = []
        for row, one in enumerate(loaded):
            generated, reference, noise = sounds[3 * row : 3 * row + 3]
            pairs.append(HeardPair(one.pair, generated, reference, noise, texts[row] if captions[row] else None))
        return pairs

    def _hear_with(self, judge: Judge, loaded: Sequence[_Loaded]) -> AudioEmbeddings:
        waves = [wave.to(self.device) for one in loaded for wave in one.waves[judge.sample_rate]]
        lengths = torch.tensor([len(wave) for wave in waves], device=self.device)
        return judge.embed_audio(pad_sequence(waves, batch_first=True)[:, None], lengths)

    def _hear_chroma(self, waves: list[Tensor]) -> list[Tensor]:
        lengths = torch.tensor([len(wave) for wave in waves])
        padded = pad_sequence(waves, batch_first=True).to(self.device)
        chroma, mask = self.chroma(padded, lengths)
        one_hot = chroma_one_hot(chroma, silent_class=None)
        return [clip[valid].cpu() for clip, valid in zip(one_hot, mask, strict=True)]


def _require_length(judge: Judge, pair: Pair, waves: Sequence[Tensor]) -> None:
    """InputError for a clip or reference that is too short for a judge."""
    least = judge.shortest / judge.sample_rate
    for name, path, wave in zip(("clip", "reference"), (pair.generated, pair.reference), waves, strict=False):
        if len(wave) < judge.shortest:
            length = len(wave) / judge.sample_rate
            raise InputError(
                f"{path}: the {name} lasts {length:.3f} s, too short for {judge.name} (at least {least:.3f} s)"
            )
