"""The words of captions: phrases for single facts, which note what they state."""

import random
from collections.abc import Callable, Mapping
from typing import Any

# Quarter notes a minute below which a tempo is called so, and the words for it.
TEMPI = (
    (76, "slow", ("slow", "unhurried", "leisurely", "slow-paced")),
    (108, "moderate", ("moderate", "mid-tempo", "medium-paced", "steady")),
    (144, "lively", ("lively", "brisk", "spirited")),
    (10_000, "fast", ("fast", "quick", "rapid", "fast-moving")),
)
_KINDS = {
    "": ("folk tune", "traditional tune", "folk melody", "traditional melody", "old tune"),
    "chorale": ("chorale", "hymn setting", "baroque chorale"),
    "quartet movement": ("quartet movement", "classical chamber piece", "chamber music movement", "classical piece"),
    "jig": ("jig", "jig", "folk jig"),
    "reel": ("reel", "reel", "folk reel"),
    "clog": ("clog dance",),
    "fling": ("Highland fling",),
}
_ORIGINS = {
    "O'Neill's Music of Ireland": ("from O'Neill's Music of Ireland", "from O'Neill's Irish collection"),
    "Ryan's Mammoth Collection": ("from Ryan's Mammoth Collection", "from Ryan's collection of dance tunes"),
    "Aird's Airs": ("from Aird's Airs", "from Aird's old book of airs"),
}
_ROOMS = {
    "dry": ("The sound is dry and close.", "Dry, close sound.", "There is no reverb."),
    "room": ("It sounds like a small room.", "There is a touch of room reverb.", "Light room reverb."),
    "hall": ("It rings in a large hall.", "Spacious hall reverb.", "Long reverb, as in a concert hall."),
}
# An estimate below this is not mentioned as the key.
SURE_OF_KEY = 0.75


def tempo_class(bpm: float) -> str:
    """What a tempo in quarter notes a minute is called: "slow", "moderate", "lively" or "fast"."""
    return next(name for limit, name, _ in TEMPI if bpm < limit)


class Words:
    """Wordings of one piece's facts; ``stated`` collects the names of the facts used."""

    def __init__(self, facts: Mapping[str, Any], rng: random.Random) -> None:
        self.facts = facts
        self.rng = rng
        self.stated: set[str] = set()

    @property
    def alone(self) -> bool:
        """Whether there is one instrument."""
        return len(self.facts["instruments"]) == 1

    def one(self, *choices: str) -> str:
        """Any of them."""
        return self.rng.choice(choices)

    def maybe(self, chance: float, say: Callable[[], str]) -> str:
        """What ``say`` says, or nothing; facts count as stated only when it speaks."""
        return say() if self.rng.random() < chance else ""

    def article(self, words: str) -> str:
        """With "a" or "an" in front."""
        return f"{'an' if words[0] in 'aeiouE' else 'a'} {words}"

    def names(self) -> list[str]:
        """The instruments' bare names."""
        self.stated |= {"instruments", "drums"}
        return list(self.facts["instruments"])

    def who(self, articles: bool = True) -> str:
        """All instruments in a row, the drums last: "a flute, a piano and a drum kit"."""
        names = self.names()
        if articles and self.rng.random() < 0.7:
            names = [
                name if name.endswith(("strings", "choir", "section", "brass")) else self.article(name)
                for name in names
            ]
        row = _row(names, self.one("and", "&") if not articles else "and")
        ensemble = self.facts["ensemble"]
        if ensemble and articles and self.rng.random() < 0.6:
            self.stated.add("ensemble")
            return (
                f"{self.article(ensemble)} with {row}" if self.facts["drums"] else f"{self.article(ensemble)} of {row}"
            )
        return row

    def lead(self) -> str:
        """The one that leads over the others, as in "flute melody over piano and cello"; else all in a row."""
        lead = self.facts["lead"]
        if not lead:
            return self.one("solo {}", "{} alone").format(*self.names()) if self.alone else self.who()
        others = [name for name in self.names() if name != lead]
        self.stated.add("lead")
        head = self.one(f"{lead} melody", f"lead {lead}", f"melody on {lead}", f"{lead}")
        return f"{head} {self.one('over', 'accompanied by', 'backed by', 'supported by')} {_row(others, 'and')}"

    def tempo(self, bare: bool = False) -> str:
        """A word for the tempo; ``bare`` for one that stands before "tempo" or "pace"."""
        self.stated.add("tempo")
        words = next(words for _, name, words in TEMPI if name == self.facts["tempo"])
        return self.one(*(word for word in words if not (bare and "-" in word)))

    def bpm(self) -> str:
        """The tempo in numbers."""
        self.stated.add("bpm")
        return f"{self.facts['bpm']:g} {self.one('BPM', 'bpm', 'beats per minute')}"

    def metre(self, plain: bool = False) -> str:
        """The time signature; ``plain`` for the bare fraction."""
        self.stated.add("time_signature")
        signature = str(self.facts["time_signature"])
        if plain:
            return signature
        if signature == "3/4" and self.rng.random() < 0.3:
            return "three-four time"
        return self.one(f"{signature} time", signature, f"{signature} metre")

    def kind(self) -> str:
        """What sort of piece it is: its form, or else that it is a traditional tune."""
        form = str(self.facts["form"])
        self.stated.add("form" if form else "collection")
        return self.one(*_KINDS.get(form, (form,)))

    def origin(self) -> str:
        """By whom it is, or the book that a tune is from."""
        composer = str(self.facts["composer"])
        if composer != "traditional":
            self.stated.add("composer")
            return "by " + self.one(composer, composer.split()[-1])
        self.stated.add("collection")
        return self.one(*_ORIGINS[self.facts["collection"]])

    def key(self) -> str:
        """The key where the estimate is good, else nothing."""
        if self.facts["key_correlation"] < SURE_OF_KEY:
            return ""
        self.stated.add("key")
        return f"in {self.one(self.facts['key'], 'a ' + self.facts['key'].split()[-1] + ' key')}"

    def key_sentence(self) -> str:
        """The key as a sentence."""
        key = self.key()
        return f"It is {key}." if key else ""

    def room(self) -> str:
        """A sentence on the room."""
        self.stated.add("room")
        return self.one(*_ROOMS[self.facts["room"]])

    def drums(self) -> str:
        """A sentence on the drums, or on there being none."""
        self.stated.add("drums")
        if self.facts["drums"]:
            return self.one("The drums keep the beat.", "Drums drive it along.", "There is a drum beat throughout.")
        return self.one("No drums.", "There are no drums.", "Played without drums.")


def _row(names: list[str], last: str) -> str:
    return f"{', '.join(names[:-1])} {last} {names[-1]}" if len(names) > 1 else names[0]
