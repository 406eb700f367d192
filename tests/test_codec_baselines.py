"""Opus and Vorbis as baselines of the codec, against libsndfile itself, scipy, and the Ogg format."""

import io
import os
import re

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import correlate, resample_poly

from datamodules.errors import InputError
from lightning_modules.codec.baselines import FileCodec, container_bytes, delay, is_baseline, shifted
from lightning_modules.codec.measures import si_sdr_of_clip

RATE = 8000


def music(seconds, rate=RATE, channels=1, seed=0):
    """[C, N]: decaying tones in every half second, and a little noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * hz * time) * np.exp(-3 * ((2 * time + hz / 70) % 1)) for hz in (110, 277, 660, 1320))
    wave = tones / 10 + 0.003 * generator.standard_normal(len(time))
    return torch.tensor(np.stack([wave * 0.8**channel for channel in range(channels)]), dtype=torch.float32)


def passed(name, wav, rate):
    codec = FileCodec(name, rate, len(wav))
    coded = codec.encode(wav[None])
    return codec.decode(coded)[0], coded.content


@pytest.mark.parametrize("name", ["opus", "opus@16", "opus@64", "vorbis"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (32_000, 2), (44_100, 1)])
def test_reconstructions_lie_where_the_clip_does(name, rate, channels):
    wav = music(3.017, rate, channels)
    made, _ = passed(name if channels == 1 or name != "opus@16" else "opus@32", wav, rate)
    assert made.shape == wav.shape
    for ours, theirs in zip(made.numpy(), wav.numpy(), strict=True):
        fine = correlate(resample_poly(ours, 8, 1), resample_poly(theirs, 8, 1), method="fft")
        lag = int(fine.argmax()) - (8 * len(theirs) - 1)
        assert abs(lag) <= 8 * rate / 48_000 + 1  # within one of Opus's samples


@pytest.mark.parametrize("name", ["opus@64", "vorbis"])
def test_clicks_stay_where_they_are(name):
    wav = torch.zeros(1, 3 * 48_000)
    clicks = [20_000, 70_000, 143_000]
    wav[0, clicks] = 0.9
    made, _ = passed(name, wav, 48_000)
    for click in clicks:
        near = made[0, click - 500 : click + 500]
        assert int(near.argmax()) == 500


def test_more_bits_are_better():
    wav = music(6, 32_000)
    scores = [si_sdr_of_clip(passed(f"opus@{rate}", wav, 32_000)[0], wav) for rate in (6, 12, 32, 128)]
    assert scores == sorted(scores)
    assert scores[0] > 0
    assert scores[-1] > 25


def test_the_bitrate_is_what_was_asked_for_about(tmp_path):
    wav = music(20, 48_000, 2)
    for asked in (24, 48, 128):
        _, content = passed(f"opus@{asked}", wav, 48_000)
        assert len(content) * 8 / 20 / 1000 == pytest.approx(asked, rel=0.1)
    # "opus" is the lowest there is: what soundfile itself writes at compression level 1.
    file = tmp_path / "lowest.opus"
    soundfile.write(file, wav.T.numpy(), 48_000, format="OGG", subtype="OPUS", compression_level=1.0)
    assert len(passed("opus", wav, 48_000)[1]) == pytest.approx(os.stat(file).st_size, rel=0.01)


@pytest.mark.parametrize(("name", "rate"), [("opus@12", 16_000), ("vorbis", 16_000)])
def test_the_container_is_counted(name, rate):
    content = passed(name, music(25, rate), rate)[1]
    # Another count: the pages as they are found by their mark, with their lacing values (RFC 3533, section 6).
    starts = [found.start() for found in re.finditer(b"OggS", content)]
    bodies = [sum(content[start + 27 : start + 27 + content[start + 26]]) for start in starts]
    positions = [int.from_bytes(content[start + 6 : start + 14], "little", signed=True) for start in starts]
    sound = sum(body for body, position in zip(bodies, positions, strict=True) if position != 0)
    assert container_bytes(content) == len(content) - sound
    assert 0 < container_bytes(content) < 0.5 * len(content)


def test_ten_minutes_of_vorbis_do_not_crash():
    wav = music(60, 16_000).repeat(1, 10)
    made, _ = passed("vorbis", wav, 16_000)
    assert made.shape == wav.shape
    assert si_sdr_of_clip(made, wav) > 8


def test_delays_are_found_and_undone():
    wav = music(1)
    for by in (-12, -3, 0, 5, 12):
        moved = shifted(wav, by)
        assert moved.shape == wav.shape
        np.testing.assert_array_equal(moved[0, 20:-20], np.roll(wav[0].numpy(), by)[20:-20])
        assert delay(moved, wav) == by
    assert delay(torch.zeros(1, 4000), torch.zeros(1, 4000)) == 0


def test_a_delay_costs_the_baseline_nothing():
    wav = music(6, 48_000)
    made, content = passed("opus", wav, 48_000)
    raw = torch.from_numpy(soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0].T.copy())
    assert raw.shape == wav.shape
    best = max(si_sdr_of_clip(shifted(raw, by), wav) for by in range(-12, 13))
    assert si_sdr_of_clip(made, wav) == pytest.approx(best, abs=0.2)
    assert best > si_sdr_of_clip(raw, wav) + 0.2


@pytest.mark.parametrize(
    ("name", "channels", "message"),
    [
        ("opus@x", 1, "opus@x: write opus@KBIT, for instance opus@6, or opus for its lowest"),
        ("opus@", 2, "opus@: write opus@KBIT, for instance opus@12"),
        ("opus@6", 2, "opus@6: libsndfile's Opus has 12 to 512 kbit/s for 2 channels; write opus@12"),
        ("opus@nan", 1, "6 to 256 kbit/s for 1 channel"),
        ("vorbis@40", 1, "Vorbis is taken at its lowest quality and has no bitrate; write vorbis"),
    ],
)
def test_baselines_that_are_not_there(name, channels, message):
    assert is_baseline(name)
    with pytest.raises(InputError, match=re.escape(message)):
        FileCodec(name, RATE, channels)


def test_a_rate_that_vorbis_does_not_have():
    with pytest.raises(InputError, match="vorbis: has no 250,000 Hz, 192,000 at most; leave it out"):
        FileCodec("vorbis", 250_000, 1)


def test_folders_are_no_baselines():
    assert not any(is_baseline(name) for name in ("./opus", "runs/opus", "opus2", "vorbis/", "OPUS", ""))
