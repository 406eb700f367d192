"""The text that a sample is trained with: its caption, augmented as the sample's number says.

Where a track is a rendered score, whose facts are known, its description can be worded anew for every sample. The rest
follows MusicGen, section 3 and appendix A.2: with some probability a track's other fields are merged into its
description; given that, the description may be left out; then words are dropped. What fields are merged, their wording
("bpm: 120") and their shuffled order are audiocraft's, as is the order of the steps: merge, normalise, drop words.
Where it departs from audiocraft, on purpose:

- ``drop_field`` is the probability that a field is *left out*; audiocraft's ``drop_other_p`` is the one that it stays.
- Text ends as it began: audiocraft puts a full stop behind every description as soon as merging is enabled.
- The description is left out only where a field is there to stand in for it, and a track without a description always
  has its fields said when merging is enabled.
- No text is ever dropped to nothing. An empty text is the null condition, whose share is condition dropout's to set,
  once and for all captions alike; word dropout would make it more frequent the shorter the caption.
- Values stand as the manifest has them; audiocraft makes most of them lower-case and passes over two keys in one.
- Normalisation keeps numbers as digits, negations ("no drums") and the A of "A minor".
- Every draw is a pure function of (seed, sample number, purpose), and a word is dropped or not whatever the others are.
"""

import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_128
from itertools import pairwise
from math import isfinite
from re import compile as pattern
from string import punctuation
from typing import Any

from datamodules.corpus.captions import write_caption
from datamodules.errors import InputError
from datamodules.sample_order import derived_seed, uniform

# Audiocraft's, then those of the embedded corpus that say the same under another name.
FIELDS = ("key", "bpm", "genre", "moods", "instrument", "keywords", "instruments", "form", "tempo")

_FUNCTION_WORDS = """
the a an this that these those such
it its itself he him his she her hers they them their theirs we us our ours you your yours i me my mine one ones
be am is are was were been being have has had having do does did doing done can could may might must shall should
will would
and or but so yet both either as than then if while whereas because since though although when where which who whom
whose what how
of in on at to from by with for about into onto upon over under within throughout through during between among along
across around against behind beyond toward towards via per off out up down
there here also too very quite rather somewhat just only even still again already always often ever
some any each every all most more much many few several other others another same own
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
# Where simplemma's table of lemmas is wrong, or means another word than music does.
_LEMMAS = {
    "playing": "play", "singing": "sing", "swinging": "swing", "mixing": "mix", "mixed": "mix", "mixes": "mix",
    "developed": "develop", "synths": "synth", "saw": "saw", "reed": "reed", "opera": "opera",
}  # fmt: skip
_AFTER_A_KEY = frozenset(("minor", "major", "flat", "sharp"))
# "rock/pop" and "calm,dark" are two words; "6/8" and "1,000" are one.
_BETWEEN_WORDS = pattern(r"\s+|[,;:/](?!\d)")
_AROUND_WORDS = punctuation.replace("#", "") + "“”‘’«»„…–—"
_SENTENCE_ENDS = (".", "!", "?", "…")
# Tracks with these fields are `mgl corpus`'s, which says of them all that captions are written from.
_RENDERED = frozenset(("recipe", "caption_facts"))


@dataclass(frozen=True)
class CaptionConfig:
    """How captions are augmented; nothing is by default.

    Attributes:
        merge: probability that further fields of the track are merged into its description; the paper has 0.25.
        drop_description: probability that the description is left out, given a merge of at least one field; the paper
            has 0.5.
        drop_field: probability of each field to be left out of a merge.
        drop_word: probability of each word to be left out, at least one being left; the paper has 0.3.
        normalise: lower-case, without stop words, every word its lemma (English).
        fields: names of the fields that are merged, those that a track has.
        reword: probability that a description is written anew from the facts of a rendered score; other tracks keep
            theirs.
    """

    merge: float = 0.0
    drop_description: float = 0.0
    drop_field: float = 0.0
    drop_word: float = 0.0
    normalise: bool = False
    fields: tuple[str, ...] = FIELDS
    reword: float = 0.0

    def __post_init__(self) -> None:
        for name in ("merge", "drop_description", "drop_field", "drop_word", "reword"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"captions.{name}={getattr(self, name)} is no probability; give one from 0 to 1")
        if len(set(self.fields)) < len(self.fields):
            raise InputError(f"captions.fields names a field twice: {', '.join(self.fields)}")


def training_caption(caption: str, facts: Mapping[str, Any], config: CaptionConfig, seed: int, number: int) -> str:
    """The text of one sample: a pure function of its arguments.

    Args:
        caption: the track's description; may be empty.
        facts: the track's further fields. Text, numbers, yes or no and lists of them can be said; fields of another
            kind, empty or not a number are passed over.
        config: what is done.
        seed: the run's seed.
        number: the sample's number in the run.

    Returns:
        The text; empty only where there was nothing to say: no caption, and no field that ``config`` merges. If every
        field, or every word, came to be dropped, the one that came nearest to being kept stays.
    """
    if config.reword and facts.keys() >= _RENDERED and uniform(seed, number, "caption reword") < config.reword:
        caption = write_caption(facts, random.Random(derived_seed(seed, number, "caption wording")))[0]
    text = caption
    alone = not caption.strip()
    if config.merge and (alone or uniform(seed, number, "caption merge") < config.merge):
        text = _merged(caption, facts, config, seed, number)
    if config.normalise:
        text = normalise_text(text)
    if config.drop_word:
        text = _thinned(text, config.drop_word, seed, number)
    return text


def normalise_text(text: str) -> str:
    """English text in lower case without punctuation and stop words, each word as its lemma; numbers stay digits.

    "The drums are playing in 6/8." becomes "drum play 6/8". Text that holds nothing but stop words and punctuation is
    only made lower-case. Words of other languages pass unchanged.
    """
    words = [word for part in _BETWEEN_WORDS.split(text.lower()) if (word := _base(part))]
    kept = [
        word
        for word, following in pairwise([*words, ""])
        if word not in STOP_WORDS or (word == "a" and following in _AFTER_A_KEY)
    ]
    return " ".join(kept) or text.lower()


@lru_cache(maxsize=1 << 16)
def _base(part: str) -> str:
    """The lemma of a word in lower case that may have punctuation around it."""
    word = part.strip(_AROUND_WORDS).replace("’", "'").removesuffix("'s")
    if word in STOP_WORDS or not (word.isascii() and word.isalpha()):
        return word
    if word in _LEMMAS:
        return _LEMMAS[word]
    import simplemma  # its tables take a second to load: only for those who normalise

    return simplemma.lemmatize(word, lang="en").lower()


def _merged(caption: str, facts: Mapping[str, Any], config: CaptionConfig, seed: int, number: int) -> str:
    """The fields in shuffled order behind the description, or in its place."""
    alone = not caption.strip()
    said = []  # (draw, words): a field's draw does not depend on which other fields there are
    for name, draw in zip(config.fields, _draws(seed, number, "caption fields", len(config.fields)), strict=True):
        value = _in_words(facts.get(name))
        if value:
            said.append((draw, f"{name.replace('_', ' ')}: {value}"))
    # Those that stay go in the order of their draws: given which stay, every order is equally likely.
    kept = sorted(field for field in said if field[0] >= config.drop_field)
    if alone and said:
        kept = kept or [max(said)]
    if not kept:
        return caption
    parts = [words for _, words in kept]
    if not alone and uniform(seed, number, "caption description") >= config.drop_description:
        parts.insert(0, caption.rstrip())
    return "".join(f"{part}{' ' if part.endswith(_SENTENCE_ENDS) else '. '}" for part in parts[:-1]) + parts[-1]


def _in_words(value: Any) -> str:
    """A field's value as text, without line breaks; empty where it cannot be said."""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}" if isfinite(value) else ""
    if isinstance(value, list | tuple):
        return ", ".join(words for one in value if (words := _in_words(one)))
    return ""


def _thinned(text: str, drop: float, seed: int, number: int) -> str:
    """The text without some of its words; with the one whose draw is the greatest, if that leaves none."""
    words = text.split()
    if not words:
        return text
    draws = _draws(seed, number, "caption words", len(words))
    kept = [word for word, draw in zip(words, draws, strict=True) if draw >= drop]
    return " ".join(kept) or words[draws.index(max(draws))]


def _draws(seed: int, number: int, purpose: str, count: int) -> list[float]:
    """``count`` numbers in [0, 1) like ``uniform``'s; however many, they begin alike."""
    stream = shake_128(f"{seed}/{number}/{purpose}".encode()).digest(4 * count)
    return [draw * 2.0**-32 for draw in struct.unpack(f"<{count}I", stream)]
