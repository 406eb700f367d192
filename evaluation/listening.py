"""Reads pairs of clips and lets judges and chroma hear them, a batch at a time; the next one is read meanwhile.

Shape letters: N samples, W windows, S segments, D dimensions, L labels, T chroma frames, P pitch classes.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from datamodules.audio_io import audio_length
from datamodules.errors import InputError
from datamodules.features.chroma import ChromaExtractor
from datamodules.sample_order import derived_seed
from datamodules.workers import cores
from evaluation.ears import ChromaEar, Ear, JudgeEar
from evaluation.heard import HeardBefore, content_key
from evaluation.judges.panel import Panel
from evaluation.levels import noise_at_level, read_at_level
from evaluation.pairing import Pair
from evaluation.protocol import Choices, Level

BATCH = 8
# White noise as loud as quiet music: about -20 dB below full scale.
_NOISE_LEVEL = 0.1
# Noise is noise: so many pieces of each length stand for all clips, and are heard once.
_NOISES = 16
_SIDES = ("clip", "reference", "noise")


@dataclass(frozen=True)
class Sound:
    """What was heard in one clip; None of what the protocol leaves out.

    Attributes:
        windows: [W, D], embeddings of the judge for FAD.
        captioned: [W, D], embeddings of the judge for CLAP score.
        logits: [S, L], class scores of the judge for KL divergence, segment by segment.
        chroma: [T, P], one-hot, zeros in silence.
        seconds: length of what was heard.
    """

    windows: Tensor | None
    captioned: Tensor | None
    logits: Tensor | None
    chroma: Tensor | None
    seconds: float


@dataclass(frozen=True)
class HeardPair:
    """A pair, and a clip of white noise in the generated one's place: the scale's far end.

    Attributes:
        pair: ids, caption and files.
        generated: what the system made.
        reference: the recording, for as long as the protocol says.
        noise: white noise of the generated clip's length.
        text: [D], the caption; None where it is empty.
        contents: sha256 of the generated file and of the reference's.
    """

    pair: Pair
    generated: Sound
    reference: Sound
    noise: Sound
    text: Tensor | None
    contents: tuple[str, str]


@dataclass(frozen=True)
class _Seat:
    """An ear, and how loud either side is for it."""

    ear: Ear
    generated: Level
    reference: Level

    def level(self, side: str) -> Level:
        return self.reference if side == "reference" else self.generated


@dataclass
class _Side:
    """One of a pair's three sounds: what it is and how much of it, how it is read, and what was heard where."""

    content: str
    limit: float | None
    seconds: float
    read: Callable[[int, Level], Tensor]
    waves: dict[tuple[int, Level], Tensor] = field(default_factory=dict)
    heard: dict[_Seat, dict[str, Tensor]] = field(default_factory=dict)

    def key(self, level: Level) -> str:
        return f"{self.content} {self.limit and round(self.limit, 6)} {level}"


class Listener:
    """Hears pairs with a panel of judges.

    Args:
        panel: who hears for which metric.
        choices: the protocol.
        seed: of the noise.
        device: where judges and chroma run.
        before: what was heard before is not heard again; None hears all of it.
    """

    def __init__(
        self,
        panel: Panel,
        choices: Choices,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        before: HeardBefore | None = None,
    ) -> None:
        self.panel, self.choices, self.seed, self.before = panel, choices, seed, before or HeardBefore(None)
        self.chroma: ChromaExtractor | None = None
        self.seats = self._take_seats(torch.device(device))

    def _take_seats(self, device: torch.device) -> dict[str, _Seat]:
        """By metric; those that would hear the same have one seat."""
        ears: dict[str, Ear] = {}
        seats = {}
        for metric, judge in self.panel.judges.items():
            part = getattr(self.choices, metric)
            ear: Ear = JudgeEar(judge, device, None if metric == "clap" else part.segments)
            seats[metric] = _Seat(ears.setdefault(ear.key, ear), part.generated, part.reference)
        if (chroma := self.choices.chroma) is not None:
            listens = ChromaEar(chroma, device)
            self.chroma = listens.extractor
            seats["chroma"] = _Seat(listens, chroma.generated, chroma.reference)
        return seats

    def fad_dimensions(self) -> int:
        """D of what FAD is taken over, found by listening to silence."""
        ear = self.seats["fad"].ear
        return int(ear.hear([torch.zeros(ear.shortest)])[0]["windows"].shape[1])

    def listen(self, pairs: Sequence[Pair]) -> Iterator[tuple[list[HeardPair], list[dict[str, str]]]]:
        """Yields, batch by batch, what was heard and which clips failed, as ``{"id", "reason"}``."""
        for batch in self._read_ahead(pairs):
            loaded, failed = [], []
            for pair, sides in batch:
                if isinstance(sides, InputError):
                    failed.append({"id": pair.id, "reason": str(sides)})
                else:
                    loaded.append((pair, sides))
            yield self._hear(loaded) if loaded else [], failed

    def _read_ahead(self, pairs: Sequence[Pair]) -> Iterator[list[tuple[Pair, "list[_Side] | InputError"]]]:
        """Batches, of which threads read one ahead; decoding, resampling and filters leave Python alone meanwhile."""
        readers = ThreadPoolExecutor(min(BATCH, cores()), "mgl-reader")
        reading: list[Future[list[_Side] | InputError]] = []
        begun: Sequence[Pair] = ()
        try:
            for following in [*batches(pairs), ()]:
                batch, read = begun, reading
                begun, reading = following, [readers.submit(self._try_to_load, pair) for pair in following]
                if batch:
                    yield [(pair, one.result()) for pair, one in zip(batch, read, strict=True)]
        finally:
            readers.shutdown(cancel_futures=True)

    def _try_to_load(self, pair: Pair) -> "list[_Side] | InputError":
        try:
            return self._load(pair)
        except InputError as error:
            return error

    def _load(self, pair: Pair) -> list[_Side]:
        """Generated, reference and noise, with what was heard before, and the waves of whoever has yet to hear."""
        sides = self._sides(pair)
        for seat in dict.fromkeys(self.seats.values()):
            ear = seat.ear
            for name, side in zip(_SIDES, sides, strict=True):
                level = seat.level(name)
                if (heard := self.before.get(ear.key, side.key(level))) is not None:
                    side.heard[seat] = heard
                    continue
                if (ear.sample_rate, level) not in side.waves:
                    side.waves[ear.sample_rate, level] = side.read(ear.sample_rate, level)
                _require_length(ear, name, pair, side.waves[ear.sample_rate, level])
        return sides

    def _sides(self, pair: Pair) -> list[_Side]:
        made, real = _seconds(pair.generated), _seconds(pair.reference)
        limits: tuple[float | None, float | None] = {
            "generated": (None, made),
            "shorter": (min(made, real),) * 2,
            "whole": (None, None),
        }[self.choices.heard]
        lasting = [min(seconds, limit or seconds) for seconds, limit in zip((made, real), limits, strict=True)]

        number = derived_seed(pair.id) % _NOISES

        def noise(rate: int, level: Level) -> Tensor:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, number, "noise", rate))
            wav = _NOISE_LEVEL * torch.randn(round(lasting[0] * rate), generator=generator)
            return noise_at_level(wav, rate, level)

        files = [
            _Side(content_key(path), limit, seconds, partial(read_at_level, path, duration=limit))
            for path, seconds, limit in zip((pair.generated, pair.reference), lasting, limits, strict=True)
        ]
        return [*files, _Side(f"noise {self.seed} {number}", lasting[0], lasting[0], noise)]

    def _hear(self, loaded: Sequence[tuple[Pair, list[_Side]]]) -> list[HeardPair]:
        """Whoever has yet to hear hears all that is new in one batch."""
        for seat in dict.fromkeys(self.seats.values()):
            new: dict[str, list[tuple[_Side, Level]]] = {}
            for name, side in ((name, side) for _, sides in loaded for name, side in zip(_SIDES, sides, strict=True)):
                level = seat.level(name)
                if seat not in side.heard and not self._heard_since(seat, side, level):
                    new.setdefault(side.key(level), []).append((side, level))
            if not new:
                continue
            waves = [side.waves[seat.ear.sample_rate, level] for (side, level), *_ in new.values()]
            for (key, alike), heard in zip(new.items(), seat.ear.hear(waves), strict=True):
                for side, _ in alike:
                    side.heard[seat] = heard
                self.before.keep(seat.ear.key, key, heard)
        captions = [pair.caption for pair, _ in loaded]
        reader = self.panel.clap
        texts = [None] * len(loaded) if reader is None else reader.embed_text(captions).cpu()
        pairs = []
        for (pair, sides), text in zip(loaded, texts, strict=True):
            generated, reference, noise = map(self._sound, sides)
            contents = sides[0].content, sides[1].content
            pairs.append(HeardPair(pair, generated, reference, noise, text if pair.caption else None, contents))
        return pairs

    def _heard_since(self, seat: _Seat, side: _Side, level: Level) -> bool:
        """Whether the same sound came by, under another id, after this one was read."""
        if (heard := self.before.get(seat.ear.key, side.key(level))) is None:
            return False
        side.heard[seat] = heard
        return True

    def _sound(self, side: _Side) -> Sound:
        heard = {metric: side.heard[seat] for metric, seat in self.seats.items()}
        of = {"fad": "windows", "clap": "windows", "kld": "logits", "chroma": "chroma"}
        found = {metric: heard[metric][name] if metric in heard else None for metric, name in of.items()}
        return Sound(found["fad"], found["clap"], found["kld"], found["chroma"], side.seconds)


def batches(pairs: Sequence[Pair]) -> list[Sequence[Pair]]:
    """Pairs that are heard together: who hears beside whom moves the last digits, so it is always the same."""
    return [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]


def _seconds(path: Path) -> float:
    frames, rate = audio_length(path)
    return frames / rate


def _require_length(ear: Ear, name: str, pair: Pair, wave: Tensor) -> None:
    """InputError for a clip or reference that is too short for an ear."""
    if len(wave) < ear.shortest:
        path = pair.reference if name == "reference" else pair.generated
        length, least = len(wave) / ear.sample_rate, ear.shortest / ear.sample_rate
        raise InputError(f"{path}: the {name} lasts {length:.3f} s, too short for {ear.name} (at least {least:.3f} s)")
