"""Recordings: freely licensed music out of Debian packages, fetched without installing anything.

The way of a piece, a file each: ``packages`` (which packages, and where their music lies) -> ``fetching`` (apt, or a
folder of .deb files) -> ``debs`` (a .deb read as a stream) -> ``copyright`` (whose it is, under what terms) -> ``tags``
(title, artist, caption) -> ``collecting`` (audio, side-cars, what was left out) -> ``attribution`` (a page to read).
"""

from datamodules.recordings.attribution import write_attribution
from datamodules.recordings.collecting import Collection, Piece, collect
from datamodules.recordings.debs import all_unpacked
from datamodules.recordings.fetching import fetch
from datamodules.recordings.packages import PACKAGES, Package, choose

__all__ = [
    "PACKAGES",
    "Collection",
    "Package",
    "Piece",
    "all_unpacked",
    "choose",
    "collect",
    "fetch",
    "write_attribution",
]
