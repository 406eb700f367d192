"""Train, valid and test: no artist is on two sides, and the same artist is on the same side in every run."""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace

from datamodules.manifest import Track
from datamodules.sample_order import uniform

# Names that stand for nobody.
_NOBODY = frozenset(("", "unknown", "unknown artist", "various", "various artists", "va", "n/a", "none", "traditional"))
_BETWEEN = re.compile(
    r"\s*(?:[;/,&+]|\bfeat\b\.?|\bft\b\.?|\bfeaturing\b|\bwith\b|\bvs\b\.?|\band\b)\s*", re.IGNORECASE
)


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

    Artists who share a track belong together. A group goes where a draw of its own puts it, so more music never moves
    an artist to another side, except that a side which would be empty takes the groups nearest to it.

    Args:
        tracks: with ``artist`` and ``album_artist`` among their facts where they are known.
        shares: side -> share, in order; they add up to 1.
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
    sides = _sides(keys, shares, seed)
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


def _sides(keys: list[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    draws = sorted((uniform(seed, 0, f"split {key}"), key) for key in keys)
    wanted = [side for side, share in shares.items() if share > 0]
    borders, total = [], 0.0
    for side in wanted:
        borders.append(total)
        total += shares[side]
    sides = {key: wanted[sum(border <= draw for border in borders[1:])] for draw, key in draws}
    # From the last side to the first: an empty one takes the neighbour that is nearest to its border.
    for place in range(len(wanted) - 1, 0, -1):
        if wanted[place] not in sides.values():
            later = set(wanted[place + 1 :])
            free = [key for _, key in draws if sides[key] not in later]
            if len(free) > place:
                sides[free[-1]] = wanted[place]
    return sides
