"""Judges: networks that turn audio and captions into what the metrics compare."""

from evaluation.judges.contract import AudioEmbeddings, Judge
from evaluation.judges.loading import resolve_judge

__all__ = ["AudioEmbeddings", "Judge", "resolve_judge"]
