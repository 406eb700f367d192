"""Training captions: the shares that were asked for, pure in the sample's number, and no word from nowhere."""

import dataclasses
import hashlib
import random
import re
import string
from itertools import pairwise
from math import sqrt

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from datamodules.captions import FIELDS, STOP_WORDS, CaptionConfig, normalise_text, training_caption
from datamodules.errors import InputError
from experiments.__main__ import main
from experiments.compose import merged

CAPTION = "Slow folk tune on a flute and a harp"
FACTS = {"key": "A minor", "bpm": 72.0, "genre": "folk", "moods": ["calm", "sad"], "instruments": ["flute", "harp"]}
SAID = {"key: A minor", "bpm: 72", "genre: folk", "moods: calm, sad", "instruments: flute, harp"}
N = 20_000


def drawn(config, caption=CAPTION, facts=FACTS, seed=0, numbers=range(N)):
    return [training_caption(caption, facts, config, seed, number) for number in numbers]


def near(count, n, p):
    """Within five standard deviations of the binomial distribution."""
    return abs(count - n * p) <= 5 * sqrt(n * p * (1 - p)) + 1e-9


def parts(text):
    """Whether the description is there, and the fields in their order."""
    found = text.split(". ")
    return found[0] == CAPTION, found[1:] if found[0] == CAPTION else found


def test_nothing_is_done_by_default():
    for caption in (CAPTION, "", "  two  spaces\n", "Ends. "):
        assert training_caption(caption, FACTS, CaptionConfig(), 0, 3) == caption


def test_shares_of_merges_descriptions_and_fields():
    config = CaptionConfig(merge=0.25, drop_description=0.4, drop_field=0.3)
    read = [parts(text) for text in drawn(config)]
    assert all(described or fields for described, fields in read)
    merged = [(described, fields) for described, fields in read if fields]
    assert near(len(merged), N, 0.25 * (1 - 0.3**5))  # a merge whose five fields are all dropped shows nothing
    assert near(sum(not described for described, _ in merged), len(merged), 0.4)
    for field in SAID:
        assert near(sum(field in fields for _, fields in merged), len(merged), 0.7 / (1 - 0.3**5))
    # Fields are dropped by themselves, not together.
    both = sum("bpm: 72" in fields and "genre: folk" in fields for _, fields in merged)
    assert near(both, len(merged), 0.7**2 / (1 - 0.3**5))


SCORE = {
    "instruments": ["flute", "drum kit"], "families": ["woodwinds", "drums"], "drums": True, "bpm": 96.0,
    "tempo": "moderate", "time_signature": "3/4", "form": "waltz", "ensemble": "", "lead": "flute", "room": "hall",
    "composer": "traditional", "collection": "Aird's Airs", "key": "D major", "key_correlation": 0.8, "title": "Air",
    "recipe": "0123", "caption_facts": ["instruments"],
}  # fmt: skip


def test_a_share_of_rendered_scores_is_worded_anew_and_truly():
    texts = drawn(CaptionConfig(reword=0.4), facts=SCORE, numbers=range(2000))
    anew = [text for text in texts if text != CAPTION]
    assert near(len(anew), 2000, 0.4)
    assert len(set(anew)) > 0.8 * len(anew)
    for text in anew:
        said = text.lower()
        assert "flute" in said
        assert not re.search(r"no drums|without (any )?drums|4/4|6/8|piano", said)
        assert all(int(bpm) == 96 for bpm in re.findall(r"(\d+) (?:bpm|beats)", said))
    assert drawn(CaptionConfig(reword=0.4), facts=SCORE, numbers=range(50)) == texts[:50]
    # Of other tracks too little is known.
    assert set(drawn(CaptionConfig(reword=1.0), numbers=range(50))) == {CAPTION}


def test_order_of_fields_is_shuffled():
    texts = [parts(text)[1] for text in drawn(CaptionConfig(merge=1.0))]
    assert all(set(fields) == SAID and len(fields) == 5 for fields in texts)
    for place in range(5):
        for field in SAID:
            assert near(sum(fields[place] == field for fields in texts), N, 1 / 5)


@pytest.mark.parametrize("drop", [0.3, 0.8])
def test_shares_of_words(drop):
    words = [f"w{i}" for i in range(12)]
    texts = [text.split() for text in drawn(CaptionConfig(drop_word=drop), " ".join(words))]
    none_left = drop**12
    for word in words:
        # Where every word was dropped, each is equally likely the one that stays.
        assert near(sum(word in text for text in texts), N, 1 - drop + none_left / 12)
    both = sum("w3" in text and "w4" in text for text in texts)
    assert near(both, N, (1 - drop) ** 2)
    assert all(text == sorted(text, key=words.index) for text in texts)


def test_word_dropout_is_what_its_definition_says():
    """A reading by hand: 32 bits of one SHAKE-128 stream a word, little endian."""
    words = CAPTION.split()
    for seed, number, drop in [(seed, number, drop) for seed in (0, 7) for number in range(60) for drop in (0.3, 0.9)]:
        stream = hashlib.shake_128(f"{seed}/{number}/caption words".encode()).digest(400)
        draws = [int.from_bytes(stream[4 * i : 4 * i + 4], "little") / 4294967296 for i in range(len(words))]
        kept = []
        for word, draw in zip(words, draws, strict=True):
            if not draw < drop:
                kept.append(word)
        if not kept:
            best = 0
            for i, draw in enumerate(draws):
                if draw > draws[best]:
                    best = i
            kept = [words[best]]
        assert training_caption(CAPTION, {}, CaptionConfig(drop_word=drop), seed, number) == " ".join(kept)


WHOLE = CaptionConfig(merge=0.5, drop_description=0.5, drop_field=0.5, drop_word=0.3, normalise=True)


def test_a_sample_is_the_same_whenever_it_is_asked_for():
    numbers = list(range(300))
    first = dict(zip(numbers, drawn(WHOLE, numbers=numbers), strict=True))
    random.Random(1).shuffle(numbers)
    random.seed(5)
    assert all(training_caption(CAPTION, FACTS, WHOLE, 0, number) == first[number] for number in numbers)
    assert len(set(first.values())) > 150
    assert drawn(WHOLE, seed=1, numbers=range(300)) != list(first.values())


def test_a_sample_of_long_ago_is_still_the_same():
    """Whoever changes these draws changes what every run with the same seed sees."""
    config = CaptionConfig(merge=0.9, drop_description=0.5, drop_field=0.3, drop_word=0.1)
    assert drawn(config, numbers=(0, 2, 4, 41237)) == [
        "Slow tune on flute and a harp. key: A minor. bpm: 72. instruments: flute, harp",
        "Slow folk tune on a flute and a harp. moods: calm, sad. bpm: 72",
        "genre: folk. bpm: 72. A minor. moods: calm, sad",
        "genre: folk. instruments: flute, harp. bpm: 72",
    ]


def test_draws_for_different_purposes_do_not_hang_together():
    n = 5_000

    def drawn_some(config):
        return drawn(config, numbers=range(n))

    plain = drawn_some(CaptionConfig(drop_word=0.5))
    first_word = [text.startswith("Slow") for text in plain]
    merges = [text != CAPTION for text in drawn_some(CaptionConfig(merge=0.5))]
    without = [parts(text)[0] for text in drawn_some(CaptionConfig(merge=1.0, drop_description=0.5))]
    no_key = ["key" in text for text in drawn_some(CaptionConfig(merge=1.0, drop_field=0.5))]
    flags = [first_word, merges, without, no_key]
    for i, one in enumerate(flags):
        assert near(sum(one), n, 0.5)
        for other in flags[:i]:
            assert near(sum(a and b for a, b in zip(one, other, strict=True)), n, 0.25)
    # Whether a sample is merged does not depend on what else is done to it.
    alone = [text != CAPTION for text in drawn_some(CaptionConfig(merge=0.5, drop_description=0.9))]
    assert alone == merges


def test_the_draws_of_a_field_do_not_depend_on_other_fields():
    config = CaptionConfig(merge=1.0, drop_field=0.5)
    fewer = {name: value for name, value in FACTS.items() if name != "bpm"}
    for number in range(200):
        more, less = (training_caption(CAPTION, facts, config, 0, number) for facts in (FACTS, fewer))
        assert [field for field in parts(more)[1] if field != "bpm: 72"] == parts(less)[1]


def test_what_is_said_is_never_nothing():
    hard = CaptionConfig(merge=1.0, drop_description=1.0, drop_field=1.0, drop_word=1.0, normalise=True)
    assert all(len(text.split()) == 1 for text in drawn(hard, numbers=range(50)))
    assert drawn(hard, caption="", facts={}, numbers=range(5)) == [""] * 5
    fields_gone = CaptionConfig(merge=1.0, drop_description=1.0, drop_field=1.0)
    assert drawn(fields_gone, numbers=range(50)) == [CAPTION] * 50
    # Without a description the fields speak, if merging is on at all.
    for config in (CaptionConfig(merge=0.01), CaptionConfig(merge=0.01, drop_field=1.0, drop_description=1.0)):
        texts = drawn(config, caption=" ", numbers=range(50))
        assert all(set(text.split(". ")) <= SAID for text in texts)
        assert len(set(texts)) >= 5
    assert drawn(CaptionConfig(drop_word=0.5), caption="", numbers=range(5)) == [""] * 5
    assert drawn(CaptionConfig(drop_word=0.99), caption="harp", numbers=range(50)) == ["harp"] * 50
    assert drawn(CaptionConfig(normalise=True), caption="All of it", numbers=[0]) == ["all of it"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("A minor", "A minor"), ("two\nlines ", "two lines"), ("Ünïcode 琴", "Ünïcode 琴"), (1234567, "1234567"),
        (112.5, "112.5"), (72.0, "72"), (True, "yes"), (["calm", "", None, 3], "calm, 3"), (("a", "b"), "a, b"),
        ("", ""), ("  ", ""), (None, ""), ([], ""), ([None], ""), ({"a": 1}, ""), (float("nan"), ""),
        (float("inf"), ""),
    ],
)  # fmt: skip
def test_values_in_words(value, said):
    config = CaptionConfig(merge=1.0, fields=("time_signature",))
    text = training_caption("Harp.", {"time_signature": value, "key": "C"}, config, 0, 0)
    assert text == (f"Harp. time signature: {said}" if said else "Harp.")


def test_how_parts_are_joined():
    config = CaptionConfig(merge=1.0, fields=("bpm",))
    ends = {"Harp": "Harp. bpm: 9", "Harp!": "Harp! bpm: 9", "Harp. \n": "Harp. bpm: 9", "": "bpm: 9"}
    for caption, text in ends.items():
        assert training_caption(caption, {"bpm": 9}, config, 0, 0) == text


TEXT = st.text(max_size=60)
VALUE = st.one_of(TEXT, st.none(), st.booleans(), st.integers(), st.floats(), st.lists(TEXT, max_size=4))
PROBABILITY = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))


@given(
    TEXT, st.dictionaries(st.sampled_from([*FIELDS, "licence"]), VALUE), PROBABILITY, PROBABILITY, PROBABILITY,
    PROBABILITY, st.integers(0, 10**12),
)  # fmt: skip
def test_every_word_comes_from_the_caption_or_a_field(caption, facts, merge, description, field, word, number):
    config = CaptionConfig(merge, description, field, word)
    text = training_caption(caption, facts, config, 3, number)
    source = set(caption.split())
    for name, value in facts.items():
        if name in FIELDS:
            source |= {f"{name}:", "yes", "no"}
            for one in value if isinstance(value, list) else [value]:
                source |= set(f"{one:g}".split() if isinstance(one, float) else str(one).split())
    # Joining adds commas and full stops, and nothing else.
    bare = {one.rstrip(".,") for one in source}
    assert {one.rstrip(".,") for one in text.split()} <= bare | {""}
    if caption.strip():
        assert text.strip()
    whole = training_caption(caption, facts, dataclasses.replace(config, drop_word=0.0), 3, number)
    normal = training_caption(caption, facts, dataclasses.replace(config, normalise=True), 3, number)
    assert set(normal.split()) <= {one for word in whole.split() for one in normalise_text(word).split()}
    assert bool(normal.strip()) == bool(text.strip())


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The drums are playing in 6/8.", "drum play 6/8"),
        ("A slow waltz, played by two violins & a cello!", "slow waltz play two violin cello"),
        ("Waltz in A minor", "waltz a minor"),
        ("key: A minor. bpm: 112.5", "key a minor bpm 112.5"),
        ("No drums, without bass", "no drum without bass"),
        ("The drummer’s brushes; it's quiet", "drummer brush quiet"),
        ("Rock/Pop,Jazz", "rock pop jazz"),
        ("lo-fi r&b at 1,000 Hz in C# major", "lo-fi r&b 1,000 hz c# major"),
        ("Мелодия для 琴", "мелодия для 琴"),
        ("Singers sang melodies", "singer sing melody"),
        ("...", "..."),
        ("", ""),
    ],
)
def test_normalised_text(text, normal):
    assert normalise_text(text) == normal


@given(st.text(st.characters(codec="ascii"), max_size=80))
def test_normalised_text_keeps_numbers_and_no_stop_word(text):
    said = normalise_text(text).split()
    if said != text.lower().split():
        for word, following in pairwise([*said, ""]):
            assert word not in STOP_WORDS or (word == "a" and following in ("minor", "major", "flat", "sharp"))
            assert word == word.lower()
    lonely = [word for word in re.split(r"\s+", text) if word.isdigit()]
    assert [word for word in said if word in lonely] == lonely


def test_stop_words_are_words_and_no_negations():
    assert all(set(word) <= set(string.ascii_lowercase) for word in STOP_WORDS)
    assert not STOP_WORDS & {"no", "not", "without", "never", "none", "solo", "slow", "fast", "major", "minor", "bass"}


@pytest.mark.parametrize("name", ["merge", "drop_description", "drop_field", "drop_word"])
@pytest.mark.parametrize("value", [-0.1, 1.01, float("nan"), float("inf")])
def test_what_is_no_probability_is_refused(name, value):
    with pytest.raises(InputError, match=f"captions.{name}"):
        CaptionConfig(**{name: value})


def test_a_field_is_named_once():
    with pytest.raises(InputError, match="twice"):
        CaptionConfig(fields=("bpm", "key", "bpm"))


PAPER = CaptionConfig(merge=0.25, drop_description=0.5, drop_field=0.5, drop_word=0.3)


def test_layers_say_what_they_are_called():
    def said(*names):
        return CaptionConfig(**merged([f"captions/{name}" for name in names])["data"]["init_args"]["captions"])

    assert said("paper") == PAPER
    assert said("normalised") == CaptionConfig(normalise=True)
    assert said("paper", "normalised") == dataclasses.replace(PAPER, normalise=True)
    assert said("paper", "normalised", "plain") == CaptionConfig()


def test_layers_compose_with_a_run(capsys):
    words = "fit -c lm -c captions/paper -c captions/normalised --run run --data.init_args.store tokens --print_config"
    with pytest.raises(SystemExit):
        main([*words.split(), "--data.init_args.captions.drop_word", "0.2"])
    captions = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["captions"]
    composed = CaptionConfig(**{**captions, "fields": tuple(captions["fields"])})
    assert composed == dataclasses.replace(PAPER, normalise=True, drop_word=0.2)
