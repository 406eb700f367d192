"""From folders of audio to numbers and a page: judges, metrics, intervals, results and reports.

The metrics are ``torchmetrics.Metric`` classes; importing this package costs nothing until one of them is named.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.chroma_similarity import ChromaSimilarity
    from evaluation.clap_score import CLAPScore
    from evaluation.fad import FrechetAudioDistance
    from evaluation.kld import KLDivergence

_HOMES = {
    "CLAPScore": "evaluation.clap_score",
    "ChromaSimilarity": "evaluation.chroma_similarity",
    "FrechetAudioDistance": "evaluation.fad",
    "KLDivergence": "evaluation.kld",
}

__all__ = ["CLAPScore", "ChromaSimilarity", "FrechetAudioDistance", "KLDivergence"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
