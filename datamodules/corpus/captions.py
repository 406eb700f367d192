"""Captions from facts, in varied wording: every statement is true of the piece, and says which fact it rests on."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Quarter notes a minute below which a tempo is called so, and the words for it.
TEMPI = (
    (76, "slow", ("slow", "unhurried", "leisurely", "slow-paced")),
    (108, "moderate", ("moderate", "mid-tempo", "medium-paced", "steady")),
    (144, "lively", ("lively", "brisk", "spirited")),
    (10_000, "fast", ("fast", "quick", "rapid", "high-speed")),
)
_KINDS = {
    "": ("folk tune", "traditional tune", "folk melody", "traditional melody"),
    "chorale": ("chorale", "hymn setting", "four-part chorale"),
    "quartet movement": ("quartet movement", "classical chamber piece", "chamber music movement", "classical piece"),
    "clog": ("clog dance",),
    "fling": ("Highland fling",),
}
_ORIGINS = {
    "O'Neill's Music of Ireland": ("from O'Neill's Music of Ireland", "from O'Neill's Irish collection"),
    "Ryan's Mammoth Collection": ("from Ryan's Mammoth Collection", "from the repertoire of Ryan's Mammoth Collection"),
    "Aird's Airs": ("from Aird's Airs", "from Aird's old book of airs"),
}
_ROOMS = {
    "dry": ("The recording is dry and close.", "Dry, close sound.", "There is no reverb."),
    "room": ("It sounds like a small room.", "A touch of room reverb.", "Light room reverb."),
    "hall": ("It rings in a large hall.", "Spacious hall reverb.", "Long reverb, as in a concert hall."),
}


def tempo_class(bpm: float) -> str:
    """ "slow", "moderate", "lively" or "fast", by quarter notes a minute."""
    return next(name for limit, name, _ in TEMPI if bpm < limit)


@dataclass
class _Writer:
    """Wordings of one piece's facts; each notes the facts that it states."""

    facts: Mapping[str, Any]
    rng: random.Random
    stated: set[str] = field(default_factory=set)

    def one(self, *choices: str) -> str:
        return self.rng.choice(choices)

    def maybe(self, chance: float, say: Callable[[], str]) -> str:
        return say() if self.rng.random() < chance else ""

    def who(self, articles: bool = True) -> str:
        """All instruments: "a flute, a piano and a drum kit"; the drums last."""
        self.stated |= {"instruments", "drums"}
        names = [self.named(name) if articles else name for name in self.facts["instruments"]]
        if len(names) == 1:
            return names[0]
        return f"{', '.join(names[:-1])} {self.one('and', 'and', '&') if not articles else 'and'} {names[-1]}"

    def named(self, name: str) -> str:
        plain = name.endswith(("strings", "choir", "section", "ensemble"))
        return name if plain and name != "string ensemble" else f"{'an' if name[0] in 'aeiouE' else 'a'} {name}"

    def lead(self) -> str:
        """ "flute over piano and bass" where one instrument leads, else all in a row."""
        lead, names = self.facts["lead"], self.facts["instruments"]
        others = [name for name in names if name != lead]
        if not lead or not others:
            return self.who()
        self.stated |= {"instruments", "drums", "lead"}
        under = f"{', '.join(others[:-1])} and {others[-1]}" if len(others) > 1 else others[0]
        join = self.one("over", "accompanied by", "backed by", "supported by", "with")
        head = self.one(f"{lead} melody", f"lead {lead}", f"tune on the {lead}")
        return f"{head} {join} {under}"

    def tempo(self) -> str:
        self.stated.add("tempo")
        return self.one(*next(words for _, name, words in TEMPI if name == self.facts["tempo"]))

    def bpm(self) -> str:
        self.stated.add("bpm")
        bpm = f"{self.facts['bpm']:g}"
        return self.one(f"{bpm} BPM", f"{bpm} bpm", f"{bpm} beats per minute")

    def metre(self) -> str:
        self.stated.add("time_signature")
        signature = self.facts["time_signature"]
        if signature == "3/4" and self.rng.random() < 0.3:
            return "waltz time"
        return self.one(f"{signature} time", signature, f"{signature} metre")

    def kind(self) -> str:
        form = self.facts["form"]
        if form:
            self.stated.add("form")
        else:
            self.stated.add("collection")
        return self.one(*_KINDS.get(form, (form,)))

    def origin(self) -> str:
        """ "by Joseph Haydn", or the book that a tune is from."""
        if self.facts["composer"] != "traditional":
            self.stated.add("composer")
            composer = self.facts["composer"]
            return "by " + self.one(composer, composer.split()[-1])
        self.stated.add("collection")
        return self.one(*_ORIGINS[self.facts["collection"]])

    def key(self) -> str:
        self.stated.add("key")
        return f"in {self.facts['key']}"

    def room(self) -> str:
        self.stated.add("room")
        return self.one(*_ROOMS[self.facts["room"]])

    def drums(self) -> str:
        """A sentence on the kit, or on there being none."""
        self.stated.add("drums")
        if self.facts["drums"]:
            return self.one("The drums keep the beat.", "Drums drive it along.", "There is a drum beat throughout.")
        return self.one("No drums.", "There are no drums.", "Played without drums.")


def _plain(w: _Writer) -> str:
    text = f"{w.tempo()} {w.kind()} {w.one('played by', 'for', 'on', 'performed by')} {w.who()}"
    text += w.maybe(0.4, lambda: f" in {w.metre()}") + w.maybe(0.35, lambda: f" at {w.bpm()}")
    return text + "."


def _short(w: _Writer) -> str:
    if len(w.facts["instruments"]) == 1:
        text = w.one("solo {}", "{} solo", "{} alone", "a {} by itself").format(w.who(articles=False))
    else:
        text = w.who(articles=False)
    return text + w.maybe(0.5, lambda: f", {w.tempo()}")


def _tags(w: _Writer) -> str:
    tags = [w.tempo(), w.kind(), *w.facts["instruments"]]
    w.stated |= {"instruments", "drums"}
    tags += [tag for tag in (w.maybe(0.5, w.bpm), w.maybe(0.5, w.metre), w.maybe(0.08, w.key)) if tag]
    w.rng.shuffle(tags)
    return ", ".join(tags) + w.maybe(0.2, lambda: ".")


def _led(w: _Writer) -> str:
    text = f"{w.lead()}, {w.one('', 'instrumental ')}{w.kind()}"
    return text + w.maybe(0.4, lambda: f" {w.origin()}") + w.maybe(0.5, lambda: f", {w.tempo()} tempo") + "."


def _sourced(w: _Writer) -> str:
    kind = w.kind()
    text = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} {w.origin()}, "
    text += f"{w.one('arranged for', 'played on', 'heard on', 'set for')} {w.who()}."
    return text + w.maybe(
        0.6, lambda: f" {w.one('The tempo is', 'It is')} {w.tempo()}{w.maybe(0.3, lambda: f', {w.bpm()}')}."
    )


def _performers(w: _Writer) -> str:
    verb = "plays" if len(w.facts["instruments"]) == 1 else w.one("play", "perform", "share", "play together in")
    tempo = w.tempo()
    text = f"{w.who()} {verb} {'an' if tempo[0] in 'aeiou' else 'a'} {tempo} {w.kind()}"
    return text + w.maybe(0.35, lambda: f" {w.key()}" if w.rng.random() < 0.3 else f" in {w.metre()}") + "."


def _featuring(w: _Writer) -> str:
    head = w.one(
        "instrumental music with", "an instrumental featuring", "music for", "an arrangement for", "a piece for"
    )
    text = f"{head} {w.who()}" + w.maybe(0.5, lambda: f", {w.one('in', 'counted in')} {w.metre()}")
    return text + w.maybe(0.5, lambda: f", {w.tempo()}") + "."


def _pace(w: _Writer) -> str:
    tempo = w.tempo()
    article = "an" if tempo[0] in "aeiou" else "a"
    text = w.one(f"at {article} {tempo} tempo", f"{article} {tempo} pace", f"{article} {tempo} performance")
    text += w.maybe(0.5, lambda: f" ({w.bpm()})") + f": {w.one(w.lead(), w.who())}"
    return text + w.maybe(0.5, lambda: f" in {w.one('this', 'the')} {w.kind()}") + "."


def _notes(w: _Writer) -> str:
    parts = [f"{w.one('Instruments', 'Instrumentation', 'Played by')}: {w.who(articles=False)}."]
    extra = [
        w.maybe(0.6, lambda: f"Tempo: {w.tempo()}."),
        w.maybe(0.4, lambda: f"{w.bpm()}."),
        w.maybe(
            0.4, lambda: f"Time signature {w.facts['time_signature']}." if not w.stated.add("time_signature") else ""
        ),  # type: ignore[func-returns-value]
        w.maybe(0.6, lambda: f"{w.kind().capitalize()}."),
    ]
    return " ".join([*parts, *(one for one in extra if one)])


def _counted(w: _Writer) -> str:
    return f"{w.metre()} {w.kind()}, {w.bpm()}, {w.one('with', 'for', 'featuring')} {w.who()}."


PLANS = (_plain, _short, _tags, _led, _sourced, _performers, _featuring, _pace, _notes, _counted)
_SINGLE = (_short, _tags)


def write_caption(facts: Mapping[str, Any], rng: random.Random) -> tuple[str, list[str]]:
    """Writes a caption.

    Args:
        facts: of the manifest line: instruments, lead, drums, bpm, tempo, time_signature, form, composer, collection,
            key and room are looked at.
        rng: draws plan, words and which facts to state; the instruments are always stated.

    Returns:
        The caption, and the names of the facts that it states, in order of the alphabet.
    """
    writer = _Writer(facts, rng)
    plan = rng.choice(PLANS)
    text = plan(writer)
    if plan not in _SINGLE:
        follow = [
            (0.2, "room", writer.room),
            (0.15, "", writer.drums),
            (0.06, "key", lambda: f"{writer.key()}.".capitalize()),
        ]
        for chance, fact, say in follow:
            if fact not in writer.stated and rng.random() < chance:
                text += " " + say()
    style = rng.random()
    if style < 0.75:
        text = text[0].upper() + text[1:]
    elif style > 0.93:
        text = text.lower()
    return text, sorted(writer.stated)
