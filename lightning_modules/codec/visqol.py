"""ViSQOL, a model of how listeners would rate a codec (arXiv 2004.09584), where visqol-python is installed.

Shape letters: C channels, N samples.
"""

import math
from typing import Any

from torch import Tensor
from torchaudio.functional import resample

from lightning_modules.codec.measures import SILENT

PIECE_SECONDS = 10.0
MISSING = "visqol-python is not installed (pip install visqol-python)"
_RATE = 48_000  # of its audio mode, in Hz
_WORST = 1.0


class Visqol:
    """ViSQOL in audio mode, from 1 (bad) to some 4.73 (no difference).

    Its guidelines ask for clips of 8 to 10 s, or 3 at least, so a longer clip is scored in equal pieces of 5 to 10 s,
    mixed down to mono at 48 kHz, and their scores are averaged. They also say that it was fitted to codecs of 24 kbit/s
    and more, and may behave poorly below.

    Args:
        api: a ``VisqolApi`` that was created; ``load_visqol`` makes one.
        version: of the package.
    """

    def __init__(self, api: Any, version: str) -> None:
        self._api, self.version = api, version

    def __call__(self, output: Tensor, target: Tensor, sample_rate: int) -> float | None:
        """Scores a reconstruction [C, N] against its original [C, N].

        A piece whose original is silent is left out: ViSQOL would rate anything as perfect there. A silent
        reconstruction of a sounding piece has the worst score, 1; ViSQOL has none.

        Returns:
            None where nothing can be scored: silence, less than a second, or what ViSQOL itself gives up on.
        """
        pieces = math.ceil(target.shape[-1] / (PIECE_SECONDS * sample_rate))
        scores = []
        for number in range(pieces):
            start, stop = (place * target.shape[-1] // pieces for place in (number, number + 1))
            made, real = (wav[:, start:stop].mean(0) for wav in (output, target))
            if stop - start >= sample_rate and real.square().mean() >= SILENT**2:
                scores.append(self._piece(made, real, sample_rate))
        known = [score for score in scores if math.isfinite(score)]
        return sum(known) / len(known) if known else None

    def _piece(self, made: Tensor, real: Tensor, sample_rate: int) -> float:
        if made.square().mean() < SILENT**2:
            return _WORST
        made, real = (resample(wav.double(), sample_rate, _RATE) for wav in (made, real))
        try:
            # The original comes first; the score is not symmetric.
            return float(self._api.measure_from_arrays(real.numpy(), made.numpy(), sample_rate=_RATE).moslqo)
        except ValueError:  # no patch of the original is loud enough, for one
            return math.nan


def load_visqol() -> Visqol | None:
    """ViSQOL, or None where visqol-python is not installed."""
    try:
        import visqol
    except ImportError:
        return None
    api = visqol.VisqolApi()
    api.create(mode="audio")
    return Visqol(api, visqol.__version__)
