"""Pieces longer than a window, against the original's loop and a decoding without cache."""

import math

import pytest
import soundfile
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_decoding import loop

from datamodules.errors import InputError
from datamodules.features.chroma import ChromaExtractor, strongest_class
from datamodules.sample_order import derived_seed
from lightning_modules.checkpoints import load_model, save_model
from lightning_modules.codec.folder import save_codec
from lightning_modules.conditioning.conditioners import Conditioners
from lightning_modules.conditioning.melody import MelodyConfig, MelodyEncoder
from lightning_modules.generation.model import MusicModel
from lightning_modules.generation.sampling import noise
from lightning_modules.generation.windows import window_and_stride, windows, wrapped


def audiocrafts(frames, known, window, stride):
    """Its loop (genmodel.py), for a prompt that is shorter than a window: (start, length, prompt) of each pass."""
    passes, offset, prompt = [], 0, known
    while offset + prompt < frames:
        length = min(frames - offset, window)
        passes.append((offset, length, prompt))
        prompt = length - stride
        offset += stride
    return passes


@given(st.integers(1, 400), st.integers(0, 60), st.integers(2, 60), st.integers(1, 59))
def test_windows_are_the_originals_and_cover_everything_once(frames, known, window, stride):
    if known >= frames or stride >= window:
        return
    plan = windows(frames, known, window, stride)
    if known < window and (known == 0 or frames <= window or known <= window - stride):
        assert [(one.start, one.frames, one.given) for one in plan] == audiocrafts(frames, known, window, stride)
    done = known
    for one in plan:
        assert one.start + one.given == done < one.stop <= one.start + window
        done = one.stop
    assert done == frames


def test_the_original_stride_is_the_default():
    assert window_and_stride(50.0, 30.0, None) == (1500, 900)
    assert window_and_stride(50.0, 10.0, None) == (500, 300)
    assert window_and_stride(50.0, 30.0, 25.0) == (1500, 1250)


def test_a_window_is_drawn_after_the_tail_of_the_one_before_with_positions_from_zero(model):
    made = model.generate_codes(["piano"], 0.25, window=0.1, stride=0.06, ids=["a"], seed=3)[0]
    conditions, seed = model.conditions(["piano"]), derived_seed(3, "a")
    wanted = loop(model.lm, conditions, 10, torch.empty(1, 4, 0), noise([seed], 14, 4))
    for number, stop in enumerate((16, 22, 25), start=1):
        start = 6 * number
        known = wanted[..., start:]
        drawn = loop(model.lm, conditions, stop - start, known, noise([derived_seed(seed, number)], 14, 4))
        wanted = torch.cat([wanted[..., :start], drawn], 2)
    assert torch.equal(made, wanted[0])


def test_long_and_short_samples_share_a_call(model):
    texts, durations = ["piano", "drums", "piano", "a calm flute"], [0.25, 0.07, 0.5, 0.1]
    options = {"window": 0.1, "stride": 0.05, "seed": [1, 2, 3, 4]}
    told = []
    together = model.generate_codes(
        texts, durations, ids=list("abcd"), progress=lambda *step: told.append(step), **options
    )
    assert [codes.shape[1] for codes in together] == [25, 7, 50, 10]
    for place, name in enumerate("abcd"):
        (alone,) = model.generate_codes(
            [texts[place]], durations[place], ids=[name], **{**options, "seed": options["seed"][place]}
        )
        assert torch.equal(alone, together[place])
    # 10 frames and 3 steps of the delay; then eight windows of 5 more frames, in three of which "a" is along.
    done, total = zip(*told, strict=True)
    assert set(total) == {13 + 8 * 8}
    assert list(done) == list(range(1, total[0] + 1))


def test_what_is_continued_may_be_longer_than_a_window(model):
    audio = torch.from_numpy(tiny.sine(0.25, tiny.RATE)).T.float()
    (codes,) = model.generate_codes(["piano"], 0.4, window=0.1, stride=0.06, continuation=audio)
    assert codes.shape == (4, 40)
    assert torch.equal(codes[:, :25], model.codec.encode(audio[None])[0])


# ---------------------------------------------------------------------------------------------------------------------
# Melodies, at a rate at which a chroma frame and its window are short beside a window of codes.

RATE, FRAMES = 16_000, 12
HEARD = FRAMES * 4096 / RATE  # 3.072 s


def tune(classes, seconds=1.0):
    """[1, N]: one pitch class after the other, each so long."""
    time = torch.arange(round(seconds * RATE)) / RATE
    return torch.cat([torch.sin(2 * math.pi * 440 * 2 ** ((9 + c) / 12 - 1) * time) for c in classes])[None] * 0.3


@pytest.fixture(scope="module")
def follower(tmp_path_factory):
    folder = tmp_path_factory.mktemp("melody")
    save_codec(folder / "codec", tiny.codec(sample_rate=RATE, ratios=(32, 25)))  # 20 frames a second
    lm = tiny.language_model(cross=(), prefix=("melody", "text"))
    parts = Conditioners(tiny.text_encoder(), MelodyEncoder(MelodyConfig(FRAMES, "")))
    save_model(folder / "model", lm, tiny.TEXT, parts, folder / "codec")
    return load_model(folder / "model")


def test_a_melody_goes_on_from_window_to_window_and_round_and_round(follower, tmp_path):
    melody = tune([0, 4, 7, 2, 9])  # 5 s; windows begin at 0, 1.8, 3.6 and 5.4 s
    assert follower.window == 3.0
    heard = []
    encoder = follower.conditioners.melody
    hook = encoder.register_forward_hook(lambda module, given, made: heard.append(made.embeddings.argmax(-1)))
    try:
        made = follower.generate_codes(["", ""], 8.0, melody=[melody, None])
        soundfile.write(tmp_path / "a.wav", melody[0].numpy(), RATE, subtype="FLOAT")
        by_file = follower.generate_codes(["", ""], 8.0, melody=[tmp_path / "a.wav", None])
    finally:
        hook.remove()
    assert all(torch.equal(one, other) for one, other in zip(made, by_file, strict=True))
    later = [rows for rows in heard if len(rows) == 2]
    assert len(later) == 6  # three of each call
    for number, rows in enumerate(later[:3], start=1):
        start = round(1.8 * number * RATE)
        turning = melody[0].repeat(4)[start : start + FRAMES * 4096]
        wanted = strongest_class(ChromaExtractor(RATE)(turning[None, None])[0])[0]
        assert torch.equal(rows[0], wanted[:FRAMES].long())
        assert (rows[1] == 0).all()  # no melody stays none
    assert not torch.equal(later[0], later[1])


def test_wrapping_is_modular():
    wav = torch.arange(10.0).expand(2, 10)
    assert wrapped(wav, 7, 8).tolist() == [[7, 8, 9, 0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize(
    ("about", "frames", "rate", "window"),
    [
        ({}, None, 32_000, 30.0),
        ({}, 235, 32_000, 30.0),
        ({}, 79, 32_000, 10.0),
        ({}, 2, 32_000, 0.256),
        ({"window": 20.0}, 235, 32_000, 20.0),
    ],
)
def test_a_model_says_what_it_was_trained_on(about, frames, rate, window):
    melody = MelodyEncoder(MelodyConfig(frames, "")) if frames else None
    codec = tiny.codec(sample_rate=rate)
    prefix = {"prefix": ("melody",), "cross": ()} if frames else {"cross": ()}
    made = MusicModel(tiny.language_model(**prefix), Conditioners(None, melody), codec, "", about)
    assert made.window == window


def test_a_window_that_config_yaml_has_wrong_is_refused():
    with pytest.raises(InputError, match="window"):
        MusicModel(tiny.language_model(cross=()), Conditioners(None), tiny.codec(), "", {"window": "long"})
