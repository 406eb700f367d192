"""Train, valid and test: no artist is on two sides, and the same artist is on the same side in every run."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from datamodules.manifest import Track
from datamodules.sample_order import uniform

# Names that stand for nobody.
_NOBODY = frozenset(("", "unknown", "unknown artist", "various", "various artists", "va", "n/a", "none", "traditional"))
_BETWEEN = re.compile(
    r"\s*(?:[;/,&+]|\bfeat\b\.?|\bft\b\.?|\bfeaturing\b|\bwith\b|\bvs\b\.?|\band\b)\s*", re.IGNORECASE
)

# By how much a held-out side may exceed its share for the sake of a group that must not be divided.
_OVER = 1.25


def artists(track: Track) -> list[str]:
    """The names behind a track, in one spelling; the folder it lies in where it names nobody."""
    names: list[str] = []
    for field in ("artist", "album_artist"):
        value = track.facts.get(field) or ""
        whole = unicodedata.normalize("NFKC", ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        names += [part.strip().casefold() for part in _BETWEEN.split(whole)]
    known = sorted({" ".join(name.split()) for name in names} - _NOBODY)
    return known or [f"folder {os.path.dirname(str(track.path))}"]


def split_by_artist(tracks: Sequence[Track], shares: Mapping[str, float], seed: int) -> tuple[list[Track], str]:
    """Gives every track that has no split one.

    Artists who share a track belong together. The groups are shuffled by draws of their own, and each held-out side
    takes those that come, if they fit, until it has its share of the hours; the first side has the rest. So the sides
    follow from the music and the seed alone, in whatever order it was found.

    Args:
        tracks: with ``artist`` and ``album_artist`` among their facts where they are known.
        shares: side -> share of the hours; the first side is the one that is trained on.
        seed: of the draws.

    Returns:
        The tracks with their splits, and a remark for the user where the rule could not hold; else "".
    """
    groups = _groups(tracks)
    keys = sorted(set(groups))
    remark = ""
    if len(keys) < len([share for share in shares.values() if share > 0]):
        remark = (
            f"only {len(keys)} artist(s) or folder(s) for {len(shares)} sides: split by track, so the same artist "
            "is heard on both sides and held-out figures will flatter"
        )
        groups = [track.id for track in tracks]
        keys = sorted(set(groups))
    hours: Counter[str] = Counter()
    for track, group in zip(tracks, groups, strict=True):
        hours[group] += track.duration  # type: ignore[assignment]
    sides = _sides(hours, shares, seed)
    placed = [
        track if track.split else replace(track, split=sides[group])
        for track, group in zip(tracks, groups, strict=True)
    ]
    return placed, remark


def _groups(tracks: Sequence[Track]) -> list[str]:
    """The group of each track: the first name among all artists that are tied to its own by common tracks."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    names = [artists(track) for track in tracks]
    for several in names:
        for other in several[1:]:
            one, two = sorted((find(several[0]), find(other)))
            leader[two] = one
    return [find(several[0]) for several in names]


def _sides(hours: Mapping[str, float], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    first, *held_out = [side for side, share in shares.items() if share > 0]
    free = sorted(hours, key=lambda key: (uniform(seed, 0, f"split {key}"), key))
    total = sum(hours.values())
    sides: dict[str, str] = {}
    for side in held_out:
        wanted, taken = shares[side] * total, 0.0
        for key in free:
            if taken < wanted and taken + hours[key] <= _OVER * wanted:
                sides[key] = side
                taken += hours[key]
        # Where every group is too large, the smallest does the least harm; something must be left to train on.
        if not taken and len(free) > 1:
            sides[min(free, key=lambda key: (hours[key], key))] = side
        free = [key for key in free if key not in sides]
    return sides | dict.fromkeys(free, first)
