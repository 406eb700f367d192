"""Captions from facts, in varied wording: every statement is true of the piece, and says which fact it rests on."""

import random
from collections.abc import Callable, Mapping
from typing import Any

from datamodules.corpus.wording import Words

_Plan = Callable[[Words], str]


def _plain(w: Words) -> str:
    text = f"{w.tempo()} {w.kind()} {w.one('played by', 'for', 'on', 'performed by')} {w.who()}"
    return text + w.maybe(0.4, lambda: f" in {w.metre()}") + w.maybe(0.35, lambda: f" at {w.bpm()}") + "."


def _short(w: Words) -> str:
    who = w.who(articles=False)
    if w.alone:
        who = w.one("solo {}", "{} solo", "{} alone", "unaccompanied {}").format(who)
    return who + w.maybe(0.5, lambda: f", {w.tempo()}") + w.maybe(0.3, lambda: f", {w.kind()}")


def _tags(w: Words) -> str:
    tags = [*w.names(), w.tempo(), w.kind()]
    tags += [tag for tag in (w.maybe(0.5, w.bpm), w.maybe(0.5, w.metre), w.maybe(0.08, w.key)) if tag]
    w.rng.shuffle(tags)
    return ", ".join(tags)


def _led(w: Words) -> str:
    kind = w.kind()
    text = f"{w.lead()}, {w.article(kind)}" + w.maybe(0.4, lambda: f" {w.origin()}")
    return text + w.maybe(0.5, lambda: f", {w.one('{} tempo', '{} pace', '{}').format(w.tempo(bare=True))}") + "."


def _sourced(w: Words) -> str:
    text = f"{w.article(w.kind())} {w.origin()}, {w.one('arranged for', 'played on', 'heard on', 'set for')} {w.who()}."
    return text + w.maybe(
        0.5, lambda: f" The tempo is {w.tempo(bare=True)}" + w.maybe(0.3, lambda: f", {w.bpm()}") + "."
    )


def _performers(w: Words) -> str:
    verb = "plays" if w.alone else w.one("play", "perform", "share", "play together in")
    text = f"{w.who()} {verb} {w.article(w.tempo())} {w.kind()}"
    return text + w.maybe(0.35, lambda: f" in {w.metre()}") + "."


def _featuring(w: Words) -> str:
    text = w.one(
        "instrumental music with", "an instrumental featuring", "music for", "an arrangement for", "a piece for"
    )
    text += f" {w.who()}" + w.maybe(0.5, lambda: f", {w.one('in', 'counted in')} {w.metre()}")
    return text + w.maybe(0.5, lambda: f", {w.tempo()}") + "."


def _pace(w: Words) -> str:
    tempo = w.article(w.tempo(bare=True))
    text = f"{w.one('at', 'taken at')} {tempo} {w.one('tempo', 'pace')}" + w.maybe(0.5, lambda: f" ({w.bpm()})")
    if w.rng.random() < 0.5:
        return f"{text}, {w.lead()}."
    return f"{text}, {w.who()} {'plays' if w.alone else 'play'} {w.article(w.kind())}."


def _notes(w: Words) -> str:
    lines = [
        f"{w.one('Instruments', 'Instrumentation', 'Played by')}: {w.who(articles=False)}.",
        w.maybe(0.6, lambda: f"Tempo: {w.tempo(bare=True)}."),
        w.maybe(0.4, lambda: f"{w.bpm()}."),
        w.maybe(0.4, lambda: f"Time signature {w.metre(plain=True)}."),
        w.maybe(0.6, lambda: f"{w.one('Style', 'Form', 'Type')}: {w.kind()}."),
    ]
    return " ".join(line for line in lines if line)


def _counted(w: Words) -> str:
    head = f"{w.kind()} in {w.metre()}" if w.rng.random() < 0.6 else w.kind()
    return f"{head}, {w.bpm()}, {w.one('with', 'for', 'featuring')} {w.who()}."


def _listing(w: Words) -> str:
    """Two sentences: what it is, then who plays."""
    first = f"{w.article(w.tempo())} {w.kind()}" + w.maybe(0.4, lambda: f" {w.origin()}")
    verb = w.one("It is played by", "You can hear", "It features", "Played by")
    return f"{first}. {verb} {w.who()}."


PLANS: tuple[_Plan, ...] = (
    _plain,
    _short,
    _tags,
    _led,
    _sourced,
    _performers,
    _featuring,
    _pace,
    _notes,
    _counted,
    _listing,
)
# These are a phrase, not a sentence, and are not followed by another.
_PHRASES = (_short, _tags)
_FOLLOWING = (("room", 0.2), ("drums", 0.12), ("key", 0.05))


def write_caption(facts: Mapping[str, Any], rng: random.Random) -> tuple[str, list[str]]:
    """Writes a caption.

    Args:
        facts: of the manifest line: instruments, lead, ensemble, drums, bpm, tempo, time_signature, form, composer,
            collection, key and room are looked at.
        rng: draws plan, words and which facts to state; the instruments are always stated.

    Returns:
        The caption, and the names of the facts that it states, in order of the alphabet.
    """
    words = Words(facts, rng)
    plan = rng.choice(PLANS)
    text = plan(words)
    if plan not in _PHRASES:
        sentences: dict[str, Callable[[], str]] = {"room": words.room, "drums": words.drums, "key": words.key_sentence}
        for fact, chance in _FOLLOWING:
            # Naming the kit has stated the drums; that there are none still needs saying, and sometimes that there are.
            if rng.random() < chance and (fact == "drums" or fact not in words.stated):
                text = f"{text} {sentences[fact]()}".strip()
    style = rng.random()
    if style < 0.75:
        text = ". ".join(one[0].upper() + one[1:] for one in text.split(". "))
    elif style > 0.93:
        text = text.lower()
    return text, sorted(words.stated)
