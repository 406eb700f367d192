"""The best and the worst clips of a system, by one rule over the scores that a clip has of its own."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from evaluation.tables import METRICS

# FAD and KAD are of sets, and retrieval is only hit or miss.
PER_CLIP = tuple(metric for metric in METRICS if metric.key in ("kld", "clap", "chroma"))


class Extremes(NamedTuple):
    """Ids of clips: the best from the best down, the worst from the worst up."""

    best: list[str]
    worst: list[str]


def beaten_shares(clips: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The share of a system's other clips that a clip beats, averaged over the metrics that it has a score of.

    A tie is half a win. In a metric, a clip is held against those that have a score of it, too.

    Args:
        clips: id -> clip of results.json.

    Returns:
        id -> share, 1 for a clip that is the best in all; without the clips that cannot be ranked in any metric.
    """
    from scipy.stats import rankdata

    shares: dict[str, list[float]] = {}
    for metric in PER_CLIP:
        scored = [name for name, clip in clips.items() if clip.get(metric.key) is not None]
        if len(scored) < 2:
            continue
        sign = -1 if metric.better == "lower" else 1
        ranks = rankdata([sign * clips[name][metric.key] for name in scored])
        for name, rank in zip(scored, ranks, strict=True):
            shares.setdefault(name, []).append((float(rank) - 1) / (len(scored) - 1))
    return {name: sum(some) / len(some) for name, some in shares.items()}


def find_extremes(clips: Mapping[str, Mapping[str, Any]], count: int) -> Extremes:
    """``count`` clips of either end, or fewer, so that none is both; equal ones are in the order of their ids."""
    shares = beaten_shares(clips)
    ordered = sorted(shares, key=lambda name: (-shares[name], name))
    count = min(count, len(ordered) // 2)
    return Extremes(ordered[:count], ordered[::-1][:count])
