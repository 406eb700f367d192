"""How many players a page has room for, and how good their sound may be.

Known before anything is encoded: what a second of sound takes at most at each quality was measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from evaluation import media
from evaluation.compare import Results
from evaluation.report_extremes import Extremes, find_extremes

# Bytes. Browsers open more, mail servers and hosts of single pages often do not take it.
LARGEST_PAGE = 15_000_000
# A player holds at most this much, so that a page of long songs still opens.
LONGEST_PLAYER = 30.0
EXTREMES = 3  # of either end
_BASE64 = 4 / 3
_PLAYER = 25_000  # whatever it lasts: its spectrogram, Vorbis' tables and HTML
_TEXT = 600  # of a prompt in a column: its scores and a share of its caption


@dataclass(frozen=True)
class Room:
    """What fits.

    Attributes:
        quality: of the sound.
        prompts: of those asked for, how many have players; the first ones.
        extremes: the best and worst clips, by system.
    """

    quality: media.Quality
    prompts: int
    extremes: list[Extremes]


def player_seconds(clips: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, float]:
    """How long the players of a prompt are: as the longest of the systems' clips, within a limit.

    Args:
        clips: of each system, id -> clip of results.json.
    """
    longest: dict[str, float] = {}
    for some in clips:
        for name, clip in some.items():
            longest[name] = min(LONGEST_PLAYER, max(clip["seconds"], longest.get(name, 0.0)))
    return longest


def find_room(systems: Sequence[Results], ids: Sequence[str], room: int) -> Room:
    """The best sound with which everything fits, or else the plainest and as many prompts as fit.

    The best and worst clips take half of the page at most, at the plainest sound; there are fewer of them where that is
    not enough. Those of prompts that have players take nothing more.

    Args:
        systems: what is compared.
        ids: prompts that were asked for.
        room: bytes.
    """
    room -= _TEXT * (len(systems) + 1) * len(ids)
    clips = [one.clips for one in systems]
    seconds = player_seconds(clips)

    def cost(quality: media.Quality, name: str) -> float:
        return seconds[name] * quality.bytes_per_second * _BASE64 + _PLAYER

    plainest = media.QUALITIES[-1]
    for count in range(EXTREMES, -1, -1):
        extremes = [find_extremes(some, count) for some in clips]
        alone = [(*one.best, *one.worst) for one in extremes]
        if sum(cost(plainest, name) for some in alone for name in some) <= room / 2:
            break
    fitting, pairs = 0, list(zip(clips, alone, strict=True))
    for quality in media.QUALITIES:
        # A prompt's players: the reference's, and those of the systems that have it and do not show it already.
        rows = [
            cost(quality, name) * (1 + sum(name in some and name not in shown for some, shown in pairs)) for name in ids
        ]
        begun = sum(cost(quality, name) for some in alone for name in some)
        fitting = sum(total <= room for total in accumulate(rows, initial=begun)) - 1
        if fitting == len(ids):
            break
    return Room(quality, max(0, fitting), extremes)
