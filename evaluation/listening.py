"""Reads pairs of clips and lets judges and chroma hear them, a batch at a time.

Shape letters: N samples, W windows, D dimensions, L labels, T chroma frames, P pitch classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from datamodules.audio_io import audio_length, read_audio
from datamodules.errors import InputError
from datamodules.features.chroma import ChromaExtractor
from datamodules.sample_order import derived_seed
from evaluation.ears import ChromaEar, Ear, JudgeEar
from evaluation.heard import HeardBefore, content_key
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


@dataclass
class _Side:
    """One of a pair's three sounds: its key, its waves [N] by rate as they are read, and what ears heard in it."""

    key: str
    read: Callable[[int], Tensor]
    waves: dict[int, Tensor] = field(default_factory=dict)
    heard: dict[str, dict[str, Tensor]] = field(default_factory=dict)


class Listener:
    """Hears pairs with a panel of judges.

    Args:
        panel: who hears for which metric.
        seed: of the noise.
        device: where judges and chroma run.
        before: what was heard before is not heard again; None hears all of it.
    """

    def __init__(
        self,
        panel: Panel,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        before: HeardBefore | None = None,
    ) -> None:
        self.panel, self.seed, self.before = panel, seed, before or HeardBefore(None)
        self._chroma = ChromaEar(torch.device(device))
        self._judges = {id(judge): JudgeEar(judge, torch.device(device)) for judge in panel.distinct}
        self.ears: list[Ear] = [*self._judges.values(), self._chroma]

    @property
    def chroma(self) -> ChromaExtractor:
        """How chroma is computed."""
        return self._chroma.extractor

    def listen(self, pairs: Sequence[Pair]) -> Iterator[tuple[list[HeardPair], list[dict[str, str]]]]:
        """Yields, batch by batch, what was heard and which clips failed, as ``{"id", "reason"}``."""
        for start in range(0, len(pairs), BATCH):
            loaded, failed = [], []
            for pair in pairs[start : start + BATCH]:
                try:
                    loaded.append((pair, self._load(pair)))
                except InputError as error:
                    failed.append({"id": pair.id, "reason": str(error)})
            yield self._hear(loaded) if loaded else [], failed

    def _load(self, pair: Pair) -> list[_Side]:
        """Generated, reference and noise, with what was heard before, and the waves of whoever has yet to hear."""
        frames, rate = audio_length(pair.generated)
        seconds = frames / rate
        audio_length(pair.reference)  # a missing file is told of by its name

        def noise(target: int) -> Tensor:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, pair.id, "noise", target))
            return _NOISE_LEVEL * torch.randn(round(seconds * target), generator=generator)

        sides = [
            _Side(content_key(pair.generated), lambda target: read_audio(pair.generated, sample_rate=target)[0]),
            _Side(
                f"{content_key(pair.reference)} {seconds:.6f}",
                lambda target: read_audio(pair.reference, sample_rate=target, duration=seconds)[0],
            ),
            _Side(f"noise {self.seed} {pair.id} {seconds:.6f}", noise),
        ]
        for ear in self.ears:
            for name, side in zip(("clip", "reference", "noise"), sides, strict=True):
                if (heard := self.before.get(ear.key, side.key)) is not None:
                    side.heard[ear.key] = heard
                    continue
                if ear.sample_rate not in side.waves:
                    side.waves[ear.sample_rate] = side.read(ear.sample_rate)
                _require_length(ear, name, pair, side.waves[ear.sample_rate])
        return sides

    def _hear(self, loaded: Sequence[tuple[Pair, list[_Side]]]) -> list[HeardPair]:
        """Whoever has yet to hear hears all that is new in one batch."""
        for ear in self.ears:
            new = [side for _, sides in loaded for side in sides if ear.key not in side.heard]
            if new:
                for side, heard in zip(new, ear.hear([side.waves[ear.sample_rate] for side in new]), strict=True):
                    side.heard[ear.key] = heard
                    self.before.keep(ear.key, side.key, heard)
        captions = [pair.caption for pair, _ in loaded]
        texts = self.panel.clap.embed_text(captions).cpu()
        pairs = []
        for row, (pair, sides) in enumerate(loaded):
            generated, reference, noise = (self._sound(pair, side) for side in sides)
            pairs.append(HeardPair(pair, generated, reference, noise, texts[row] if captions[row] else None))
        return pairs

    def _sound(self, pair: Pair, side: _Side) -> Sound:
        fad, kld, clap = (
            side.heard[self._judges[id(judge)].key] for judge in (self.panel.fad, self.panel.kld, self.panel.clap)
        )
        frames, rate = audio_length(pair.generated)
        return Sound(fad["windows"], clap["clip"], kld["logits"], side.heard[self._chroma.key]["chroma"], frames / rate)


def _require_length(ear: Ear, name: str, pair: Pair, wave: Tensor) -> None:
    """InputError for a clip or reference that is too short for an ear."""
    if len(wave) < ear.shortest:
        path = pair.reference if name == "reference" else pair.generated
        length, least = len(wave) / ear.sample_rate, ear.shortest / ear.sample_rate
        raise InputError(f"{path}: the {name} lasts {length:.3f} s, too short for {ear.name} (at least {least:.3f} s)")
