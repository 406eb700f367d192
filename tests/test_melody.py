"""Melody as a prefix: what is heard, what null means, and what the language model makes of it."""

import json
import warnings

import numpy as np
import pytest
import soundfile
import tiny
import torch

from datamodules.errors import InputError
from datamodules.features.chroma import NO_CLASS, ChromaExtractor, chroma_one_hot
from datamodules.manifest import read_manifest
from datamodules.tokens import Collate, TokenDataModule
from datamodules.tokens.store import TokenStore
from experiments.__main__ import run
from experiments.jobs.sound import level
from lightning_modules.checkpoints import load_model, save_model
from lightning_modules.codec.folder import save_codec
from lightning_modules.conditioning.dropout import ConditionDropout
from lightning_modules.conditioning.melody import MelodyConfig, MelodyEncoder
from lightning_modules.generation.decoder import Decoder
from lightning_modules.generation.engine import generate_codes
from lightning_modules.generation.guidance import branches
from lightning_modules.generation.sampling import Sampling

RATE = 32_000
NAMES = ("melody", "text")


def scale(seconds, classes, rate=RATE):
    """[1, N]: a tone of each pitch class in turn, in the octave above middle C."""
    each = round(seconds * rate / len(classes))
    time = np.arange(each) / rate
    tones = [0.3 * np.sin(2 * np.pi * 261.6256 * 2 ** (pitch / 12) * time) for pitch in classes]
    return torch.tensor(np.concatenate(tones), dtype=torch.float32)[None]


def encoder(frames=235):
    return MelodyEncoder(MelodyConfig(frames=frames, stems=""))


def melody_model(**shape):
    return tiny.language_model(cross=(), prefix=NAMES, **shape)


# ---- hearing ------------------------------------------------------------------------------------------------------
def test_thirty_seconds_are_the_papers_235_frames():
    wav = scale(30.0, [0, 4, 7, 9])
    classes = encoder().classes([wav], RATE)
    assert classes.shape == (1, 235)
    quarter = [classes[0, place].item() for place in (20, 80, 140, 200)]
    assert quarter == [0, 4, 7, 9]
    made, mask = encoder()(classes)
    assert mask.all()
    assert torch.equal(made, chroma_one_hot(ChromaExtractor(RATE)(wav)[0]))


def test_shorter_melodies_are_repeated_and_longer_ones_cut():
    short = encoder().classes([scale(10.0, [0, 5])], RATE)[0]
    own = -(-10 * RATE // 4096)
    assert torch.equal(short[own : 2 * own], short[:own])
    long = encoder(20).classes([scale(10.0, [0, 5])], RATE)[0]
    assert torch.equal(long, short[:20])
    # What a token store holds is fitted in the same way.
    stored = torch.tensor([[1, 2, 3]], dtype=torch.uint8)
    assert encoder(7)(stored).embeddings.argmax(-1).tolist() == [[1, 2, 3, 1, 2, 3, 1]]


def test_silence_and_no_melody_are_the_null_condition():
    heard = encoder(8)
    none = heard(heard.classes([None, None], RATE))
    given = tiny.conditioners(melody=True)(["a", "b"], torch.tensor([[3, 4, NO_CLASS]] * 2, dtype=torch.uint8))
    null = given.null(["melody"])
    assert torch.equal(null["melody"].embeddings[:, :8], none.embeddings)
    assert torch.equal(given["melody"].embeddings[0, 2], none.embeddings[0, 0])
    assert torch.equal(null["text"].embeddings, given["text"].embeddings)
    assert none.embeddings[..., 0].all()
    assert not none.embeddings[..., 1:].any()


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (torch.zeros(1, 40_000), "silent; give another"),
        (scale(0.4, [0]), "0.40 s is shorter than a window of its chroma, 0.51 s"),
        (torch.full((1, 40_000), torch.nan), "finite"),
        (torch.zeros(40_000), r"\[C, N\]"),
    ],
)
def test_what_has_no_melody_is_said_in_a_line(wav, message):
    with pytest.raises(InputError, match=message):
        encoder().classes([wav], RATE)


def test_drums_alone_are_said_to_be_silent(monkeypatch):
    monkeypatch.setattr(
        "datamodules.features.stems.load_separator", lambda name, sample_rate: lambda wav: torch.zeros_like(wav)
    )
    with pytest.raises(InputError, match="silent without its drums and bass"):
        MelodyEncoder(MelodyConfig()).classes([scale(1.0, [0])], RATE)


def test_stems_are_heard_where_asked_for(monkeypatch):
    kept = scale(2.0, [9])
    monkeypatch.setattr("datamodules.features.stems.load_separator", lambda name, sample_rate: lambda wav: kept[None])
    classes = MelodyEncoder(MelodyConfig(frames=10)).classes([scale(2.0, [0])], RATE)
    assert classes.unique().tolist() == [9]


# ---- in the language model ----------------------------------------------------------------------------------------
def given(melodies=((1, 5), (2, 7)), lengths=(4, 2), frames=6, seed=0):
    """Conditions of a melody model: classes, repeated, and random text embeddings."""
    text = tiny.conditions(list(lengths), seed=seed)
    heard = encoder(frames)
    melody = heard(torch.tensor(melodies, dtype=torch.uint8))
    return type(text)({"melody": melody, "text": text["text"]}, {"melody": heard.null})


@torch.no_grad()
def test_a_prefix_is_what_stands_before_the_sequence():
    """Against a plain sequence of embeddings, and one position after the other."""
    model = melody_model()
    conditions, codes = given(lengths=(3, 3)), tiny.codes(2, 5)
    sequence = model.pattern.build(codes)
    logits = model(sequence, model.context(conditions))
    before = torch.cat([model.projections[name](conditions[name].embeddings) for name in NAMES], 1)
    x = torch.cat([before, model.embedding(sequence + model.offsets).sum(1)], 1)
    from lightning_modules.lm.transformer import Context

    whole = model.heads(model.transformer(x, Context()))[:, before.shape[1] :]
    torch.testing.assert_close(logits, whole.unflatten(-1, (4, 16)).transpose(1, 2), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_different_melodies_change_the_logits_and_a_null_one_does_not_depend_on_the_input():
    model, codes = melody_model(), tiny.codes(2, 5)
    one, other = given(), given(((3, 5), (2, 7)))
    logits = [model.logits(codes, conditions)[0] for conditions in (one, other)]
    assert (logits[0][0] - logits[1][0]).abs().max() > 1e-2
    assert torch.equal(logits[0][1], logits[1][1])
    nulls = [model.logits(codes, conditions.null(["melody"]))[0] for conditions in (one, other)]
    assert torch.equal(*nulls)
    everything = torch.tensor([True, True])
    dropped = model.logits(codes, one.drop(everything, ["melody"]))[0]
    assert torch.equal(dropped, nulls[0])


@torch.no_grad()
def test_padding_in_a_prefix_is_hidden_or_heard():
    """Hidden, what stands in padded places never matters; heard, its zeros take their share (the originals' way)."""
    codes, conditions = tiny.codes(2, 5), given(lengths=(4, 2))
    embeddings, mask = conditions["text"]
    garbage = conditions.replace("text", type(conditions["text"])(embeddings + ~mask[..., None] * 1.0, mask))
    for masked in (True, False):
        model = melody_model(mask_padded_text=masked)
        torch.testing.assert_close(model.logits(codes, garbage)[0], model.logits(codes, conditions)[0])
    hidden, heard = melody_model(), melody_model(mask_padded_text=False)
    difference = (hidden.logits(codes, conditions)[0] - heard.logits(codes, conditions)[0]).abs().amax((1, 2, 3))
    assert difference[0] < 1e-5  # no padding, no difference
    assert difference[1] > 1e-3


@torch.no_grad()
def test_everything_null_is_finite():
    for masked in (True, False):
        model = melody_model(mask_padded_text=masked)
        assert model.logits(tiny.codes(2, 5), given().null())[0].isfinite().all()
        alone = tiny.language_model(cross=(), prefix=("text",), mask_padded_text=masked)
        assert alone.logits(tiny.codes(2, 5), tiny.conditions([4, 2]).null())[0].isfinite().all()


# ---- guidance -----------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_a_scale_for_each_condition_by_its_formula():
    model, conditions = melody_model(), given(lengths=(3, 3))
    sequence = model.pattern.build(tiny.codes(2, 5))

    def logits(some):
        branch = len(some["text"].mask) // 2
        return model(sequence.repeat(branch, 1, 1), model.context(some))

    null, melody, both = logits(conditions.null()), logits(conditions.null(["text"])), logits(conditions)
    made = branches(conditions, NAMES, {"melody": 2.0, "text": 5.0})
    assert sum(made.weights) == pytest.approx(1)
    expected = null + 2 * (melody - null) + 5 * (both - melody)
    torch.testing.assert_close(made.mix(logits(made.conditions)), expected, atol=1e-4, rtol=1e-4)
    # Equal scales are the paper's guidance, with two branches; audiocraft's "double" one has this shape too.
    equal = branches(conditions, NAMES, {"melody": 3.0, "text": 3.0})
    assert equal.weights == branches(conditions, NAMES, 3.0).weights == (3.0, -2.0)
    torch.testing.assert_close(equal.mix(logits(equal.conditions)), null + 3 * (both - null), atol=1e-4, rtol=1e-4)
    alpha, beta = 2.0, 2.5
    theirs = null + alpha * (melody + beta * (both - melody) - null)
    ours = branches(conditions, NAMES, {"melody": alpha, "text": alpha * beta})
    torch.testing.assert_close(ours.mix(logits(ours.conditions)), theirs, atol=1e-4, rtol=1e-4)
    assert branches(conditions, NAMES, 1.0).weights == (1.0,)


def test_guidance_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="guidance names text; this model has melody, text"):
        branches(given(), NAMES, {"text": 3.0})
    with pytest.raises(InputError, match="3 negative prompts; give one, or one for each"):
        branches(given(), NAMES, 3.0, tiny.conditions([1, 2, 3])["text"])


@torch.no_grad()
def test_a_negative_prompt_takes_the_place_of_nothing():
    model, conditions = melody_model(), given(lengths=(3, 3))
    against = tiny.conditions([5], seed=9)["text"]
    made = branches(conditions, NAMES, 3.0, against)
    half = made.conditions["text"]
    assert torch.equal(half.embeddings[2:], against.embeddings.expand(2, -1, -1))
    assert torch.equal(made.conditions["melody"].embeddings[2:], conditions.null()["melody"].embeddings)
    sampling = Sampling(greedy=True)
    codes = [
        generate_codes(Decoder(model), branches(conditions, NAMES, 3.0, negative), 8, [1, 2], sampling)
        for negative in (None, against)
    ]
    assert not torch.equal(*codes)


# ---- whole models -------------------------------------------------------------------------------------------------
@pytest.fixture
def model(tmp_path):
    """A melody model in its folder; its codec is at 32 kHz, for a window of chroma is 16,384 samples."""
    save_codec(tmp_path / "codec", tiny.codec(sample_rate=RATE, ratios=(8, 8)))
    lm = melody_model(mask_padded_text=False)
    save_model(tmp_path / "model", lm, tiny.TEXT, tiny.conditioners(melody=True), tmp_path / "codec")
    return load_model(tmp_path / "model")


def test_a_melody_model_survives_and_hears(model, tmp_path):
    assert model.conditioners.melody.config == MelodyConfig(frames=9, stems="")
    soundfile.write(tmp_path / "tune.wav", scale(2.0, [4, 9])[0], RATE)
    texts = ["piano", "a slow violin"]
    by_file, by_tensor = (
        model.generate_codes(texts, 0.05, melody=melody, greedy=True)
        for melody in (tmp_path / "tune.wav", [scale(2.0, [4, 9]), scale(2.0, [4, 9])])
    )
    assert all(torch.equal(a, b) for a, b in zip(by_file, by_tensor, strict=True))
    other = model.generate_codes(texts, 0.05, melody=[None, scale(2.0, [1, 7])], greedy=True)
    assert not torch.equal(other[1], by_file[1])
    assert not torch.equal(other[0], by_file[0])


def test_an_item_depends_on_no_neighbour(model):
    """Although padding is heard in this model, as the published ones have it."""
    texts, tunes = ["a calm piano", "", "drums", "drumz"], [scale(2.0, [4]), None, scale(2.0, [7]), None]
    options = {"negative": "noise", "guidance": {"melody": 2.0, "text": 4.0}, "seed": 3}
    told = []
    together = model.generate_codes(
        texts, 0.05, melody=tunes, ids=list("abcd"), progress=lambda *step: told.append(step), **options
    )
    for place, name in enumerate("abcd"):
        (alone,) = model.generate_codes([texts[place]], 0.05, melody=[tunes[place]], ids=[name], **options)
        assert torch.equal(alone, together[place])
    done, total = zip(*told, strict=True)
    assert list(done) == list(range(1, total[0] + 1))
    assert set(total) == {len(done)}


def test_what_does_not_fit_the_model_is_refused(model, model_folder):
    with pytest.raises(InputError, match="3 melodies; give one, or one for each"):
        model.conditions(["a", "b"], melody=[None] * 3)
    with pytest.raises(InputError, match="hears no melody"):
        load_model(model_folder).generate(["piano"], 0.1, melody=scale(1.0, [0]))
    with pytest.raises(InputError, match="no such"):
        model.conditions(["a"], melody="nowhere.wav")


def test_the_command_follows_melodies(model, tmp_path, capsys):
    soundfile.write(tmp_path / "one.wav", scale(2.0, [4, 9])[0], RATE)
    soundfile.write(tmp_path / "two.wav", scale(2.0, [1, 7])[0], RATE)
    lines = [{"caption": "piano", "id": "own", "melody": "two.wav"}, {"caption": "piano", "id": "shared"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ["--model", str(tmp_path / "model"), "--prompts", str(tmp_path / "p.jsonl"), "--duration", "0.05"]
    heard = {}
    for name, options in {
        "melody": ["--melody", str(tmp_path / "one.wav"), "--guidance", "{text: 3, melody: 2}", "--negative", "noise"],
        "none": ["--melody", ""],
    }.items():
        run("generate", [*words, "--out", str(tmp_path / name), *options])
        tracks = {track.id: track for track in read_manifest(tmp_path / name)}
        heard[name] = {key: soundfile.read(track.path)[0] for key, track in tracks.items()}
        facts = tracks["shared"].facts
        assert facts["guidance"] == ({"text": 3.0, "melody": 2.0} if name == "melody" else 3.0)
        assert ("melody" in facts) == (name == "melody")
    assert not np.array_equal(heard["melody"]["own"], heard["none"]["own"])
    # The same from Python.
    (wav,) = model.generate(
        ["piano"],
        0.05,
        melody=tmp_path / "two.wav",
        guidance={"text": 3.0, "melody": 2.0},
        negative="noise",
        ids=["own"],
    )
    assert np.abs(level(wav, RATE, None)[0][0].numpy() - heard["melody"]["own"]).max() < 1e-4


def test_training_hears_the_stores_melodies(tmp_path):
    """One step on a token store: the melody's projection learns, and different melodies give different losses."""
    from lightning_modules.lm.model import LanguageModelConfig
    from lightning_modules.lm.training import LanguageModelTraining
    from lightning_modules.optim import OptimConfig

    shape = LanguageModelConfig(dim=32, layers=1, heads=2, codebooks=2, entries=8, cross=(), prefix=("melody", "text"))
    module = LanguageModelTraining(
        shape,
        tiny.TEXT,
        OptimConfig(),
        melody=MelodyConfig(9, ""),
        condition_dropout=0.0,
        attribute_dropout={"melody": 0.0},
    )
    module.log = module.log_dict = lambda *args, **kwargs: None
    store = tiny.write_store(tmp_path / "store")
    data = TokenDataModule(str(store), seconds=1.0, batch_size=3, workers=0)
    batch = data.samples("train", 3)
    collate = Collate(10, TokenStore(store).header.chroma_frames(10))
    batch = collate([batch[number] for number in range(3)])
    loss = module.training_step(batch, 0)
    loss.backward()
    assert module.lm.projections["melody"].weight.grad.abs().max() > 0
    batch.chroma = (batch.chroma + 5) % 12
    assert module.training_step(batch, 0) != loss


def test_blank_texts_are_one_and_the_same(model):
    """Six spaces have six tokens, all of them hidden: nothing of them may be heard, alone or beside others."""
    options = {"greedy": True, "guidance": 1.0}
    (alone,) = model.generate_codes(["      "], 0.05, **options)
    together = model.generate_codes(["", "      ", "piano"], 0.05, **options)
    assert torch.equal(together[0], alone)
    assert torch.equal(together[1], alone)
    together[0][:, 0] = 3  # codes can be worked on


def test_a_model_without_any_condition_generates(tmp_path):
    save_codec(tmp_path / "codec", tiny.codec())
    from lightning_modules.conditioning.conditioners import Conditioners

    save_model(tmp_path / "free", tiny.language_model(cross=()), None, Conditioners(None), tmp_path / "codec")
    free = load_model(tmp_path / "free")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, two = free.generate_codes(["", " "], 0.2)
    # That prompts are not heard is said once.
    with pytest.warns(UserWarning, match="hears no texts; what the prompts say has no effect") as told:
        codes = [free.generate_codes(["a", "b"], 0.2) for _ in range(2)][1]
    assert len(told) == 1
    assert torch.equal(torch.stack(codes), torch.stack([one, two]))
    assert not torch.equal(one, two)
    assert torch.equal(free.generate_codes(["a"], 0.2, guidance=1.0)[0], one)
    with pytest.raises(InputError, match="hears none"):
        free.generate_codes(["a"], 0.2, negative="noise")


def test_prompts_are_a_list(model):
    with pytest.raises(InputError, match=r"\['calm piano'\]"):
        model.generate("calm piano")
    with pytest.raises(InputError, match="2 ids for 1 prompts"):
        model.generate(["calm piano"], ids=["a", "b"])


def test_dropping_everything_is_the_null_branch_that_is_decoded():
    """Training's dropout with p = 1, rows made by hand, and the rows of guidance's other half: bit for bit."""
    conditions = given(lengths=(4, 2))
    dropped = ConditionDropout(1.0)(conditions, torch.arange(2))
    decoded = branches(conditions, NAMES, 3.0).conditions
    for name, by_hand in (
        ("melody", torch.eye(12)[0].expand(2, 6, 12)),
        ("text", torch.zeros_like(conditions["text"].embeddings)),
    ):
        mask = torch.full((2, by_hand.shape[1]), name == "melody")
        for embeddings, shown in (dropped[name], (part[2:] for part in decoded[name])):
            assert torch.equal(embeddings, by_hand)
            assert torch.equal(shown, mask)


def test_a_file_is_heard_once_and_named_where_it_has_no_melody(model, tmp_path, monkeypatch):
    tune, silence = tmp_path / "tune.wav", tmp_path / "silence.wav"
    soundfile.write(tune, scale(2.0, [4, 9])[0], RATE)
    soundfile.write(silence, np.zeros(RATE), RATE)
    heard, whole = [], model.conditioners.melody.classes
    monkeypatch.setattr(model.conditioners.melody, "classes", lambda *given: heard.append(1) or whole(*given))
    conditions = model.conditions(["a", "b", "c"], melody=[tune, None, str(tune)])
    assert len(heard) == 2
    melody = conditions["melody"].embeddings
    assert torch.equal(melody[0], melody[2])
    assert not torch.equal(melody[0], melody[1])
    with pytest.raises(InputError, match=r"silence\.wav: the melody is silent"):
        model.conditions(["a"], melody=silence)
