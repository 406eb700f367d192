"""Which score piece number ``n`` of a corpus plays: a pure function of the seed and n.

A corpus of 200 pieces therefore begins with the corpus of 100 pieces of the same seed, and any number of processes can
work on it without speaking to each other.
"""

import random
from collections.abc import Sequence

from datamodules.corpus.catalogue import SPLITS, Entry

# Out of ten pieces in a row, how many stand on each side.
_OF_TEN = {"train": 8, "valid": 1, "test": 1}
# Share of the pieces. By number of scores the three books of tunes would be 90 %.
_SHARES = {
    "Bach": 0.25,
    "O'Neill's Music of Ireland": 0.19,
    "Ryan's Mammoth Collection": 0.17,
    "Aird's Airs": 0.16,
    "Beethoven quartets": 0.08,
    "Mozart quartets": 0.08,
    "Haydn quartets": 0.07,
}
# The first so many attempts take a score each, the others further excerpts of them: a side of a collection may have
# only one, of which many an excerpt is damaged.
SCORES, ATTEMPTS = 12, 48


class Selection:
    """Deals the catalogue out.

    Each side of each collection is a pack shuffled by the seed. Piece n takes the next card of its pack; when a pack is
    through it is dealt again, and the scores come back in other arrangements.

    Args:
        entries: the catalogue.
        seed: the corpus's seed.
    """

    def __init__(self, entries: Sequence[Entry], seed: int) -> None:
        self.seed = seed
        self.packs: dict[tuple[str, str], list[Entry]] = {}
        for entry in entries:
            self.packs.setdefault((entry.split, entry.collection), []).append(entry)
        for (split, collection), pack in self.packs.items():
            random.Random(f"{seed}/{split}/{collection}/pack").shuffle(pack)

    def deal(self, pieces: int) -> list[list[Entry]]:
        """For each of the first ``pieces`` pieces the score to play, followed by those to try where it is damaged.

        Stand-ins come from the far end of the pack, so a small corpus plays no score twice.
        """
        dealt: dict[tuple[str, str], int] = {}
        hands = []
        for number in range(pieces):
            key = self._pack_of(number)
            pack = self.packs[key]
            place = dealt.get(key, 0)
            dealt[key] = place + 1
            spare = [pack[-1 - (place * SCORES + index) % len(pack)] for index in range(1, ATTEMPTS)]
            hands.append([pack[place % len(pack)], *spare])
        return hands

    def _pack_of(self, number: int) -> tuple[str, str]:
        sides = [split for split in SPLITS for _ in range(_OF_TEN[split])]
        random.Random(f"{self.seed}/{number // 10}/sides").shuffle(sides)
        split = sides[number % 10]
        names = [name for name in _SHARES if (split, name) in self.packs]
        draw = random.Random(f"{self.seed}/{number}/collection")
        return split, draw.choices(names, [_SHARES[name] for name in names])[0]
