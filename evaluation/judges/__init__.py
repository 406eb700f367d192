"""Judges: networks that turn audio and captions into what the metrics compare."""

from evaluation.judges.contract import AudioEmbeddings, Judge, TextJudge, offers
from evaluation.judges.loading import resolve_judge

__all__ = ["AudioEmbeddings", "Judge", "TextJudge", "offers", "resolve_judge"]
