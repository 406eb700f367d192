"""Key estimates: the Krumhansl-Schmuckler correlation of pitch-class durations with the probe-tone profiles."""

from collections.abc import Iterable
from dataclasses import dataclass

from datamodules.corpus.scores import Note

# Krumhansl & Kessler 1982: how well each of the twelve tones fits a major and a minor context.
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
_NAMES = {
    "major": ("C", "D-flat", "D", "E-flat", "E", "F", "F-sharp", "G", "A-flat", "A", "B-flat", "B"),
    "minor": ("C", "C-sharp", "D", "E-flat", "E", "F", "F-sharp", "G", "G-sharp", "A", "B-flat", "B"),
}


@dataclass(frozen=True)
class KeyEstimate:
    """A key and the correlation (-1..1) that speaks for it."""

    tonic: int
    mode: str
    correlation: float

    @property
    def name(self) -> str:
        """The key in words, as in "F-sharp minor"."""
        return f"{_NAMES[self.mode][self.tonic]} {self.mode}"


def estimate_key(notes: Iterable[Note]) -> KeyEstimate:
    """The best of the 24 keys for notes weighted by their length; C major at correlation 0 where nothing speaks."""
    weights = [0.0] * 12
    for note in notes:
        weights[note.pitch % 12] += note.beats
    best = KeyEstimate(0, "major", 0.0)
    for mode, profile in (("major", _MAJOR), ("minor", _MINOR)):
        for tonic in range(12):
            correlation = _correlation(weights[tonic:] + weights[:tonic], profile)
            if correlation > best.correlation + 1e-12:
                best = KeyEstimate(tonic, mode, correlation)
    return best


def _correlation(left: Iterable[float], right: Iterable[float]) -> float:
    xs, ys = list(left), list(right)
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    spread = (sum((x - mean_x) ** 2 for x in xs) * sum((y - mean_y) ** 2 for y in ys)) ** 0.5
    return covariance / spread if spread > 0 else 0.0
