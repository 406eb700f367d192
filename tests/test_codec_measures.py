"""The measures of ``mgl evaluate-codec``, against torchmetrics, scipy and counts, and on known cases."""

import math
import sys
from collections import Counter
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import scipy.signal
import tiny
import torch
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from datamodules.errors import InputError
from lightning_modules.codec import measures
from lightning_modules.codec.losses import MultiScaleMelDistance
from lightning_modules.codec.measures import CodebookCounts, ReconstructionMeasures, segments, si_sdr_of_clip
from lightning_modules.codec.visqol import load_visqol

RATE = 32_000


def noise(*shape, seed=0, level=0.1):
    return level * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 2])
def test_si_sdr_is_torchmetrics(channels):
    target, output = noise(channels, 50_000), noise(channels, 50_000, seed=1, level=0.05)
    output += target + 0.2
    wanted = scale_invariant_signal_distortion_ratio(output.flatten().double(), target.flatten().double(), True)
    assert si_sdr_of_clip(output, target) == pytest.approx(wanted.item(), abs=1e-6)


def test_si_sdr_of_known_cases(monkeypatch):
    target = torch.sin(torch.arange(80_000) / 20)[None]
    for decibels in (-10.0, 5.0, 30.0, 60.0):
        other = torch.cos(torch.arange(80_000) / 20)[None]  # at right angles to it, and of equal energy
        ratio = si_sdr_of_clip(target + 10 ** (-decibels / 20) * other, target)
        assert ratio == pytest.approx(decibels, abs=0.05)
    assert si_sdr_of_clip(0.25 * target, target) == 100
    assert si_sdr_of_clip(target, target) == 100
    whole = si_sdr_of_clip(target + 0.1 * other, target)
    monkeypatch.setattr(measures, "segments", lambda length, _: segments(length, 7001))
    assert si_sdr_of_clip(target + 0.1 * other, target) == pytest.approx(whole, abs=1e-9)


def test_silence_has_a_place():
    sound, silence = noise(1, 4000), torch.zeros(1, 4000)
    assert si_sdr_of_clip(silence, sound) == -100
    assert si_sdr_of_clip(silence + 0.3, sound) == -100
    assert si_sdr_of_clip(sound, silence) is None
    score = ReconstructionMeasures(RATE)(sound, silence)
    assert score.si_sdr is None
    assert score.stft_distance is None
    assert 1 < score.mel_distance < 5


@pytest.mark.parametrize("length", [2048, 30_000, 100_001])
def test_stft_distance_is_that_of_scipy(length):
    target = noise(1, length) * torch.linspace(0, 1, length)
    output = 0.7 * target + noise(1, length, seed=1, level=0.02)
    parts = []
    for window in (512, 1024, 2048):
        energy = np.sum(scipy.signal.get_window("hann", window) ** 2)
        made, real = (np.abs(_stft(wav[0].double().numpy(), window)) / energy**0.5 for wav in (output, target))
        convergence = np.linalg.norm(made - real) / np.linalg.norm(real)
        parts.append(convergence + np.abs(np.log(np.maximum(made, 1e-5)) - np.log(np.maximum(real, 1e-5))).mean())
    assert ReconstructionMeasures(RATE)(output, target).stft_distance == pytest.approx(np.mean(parts), rel=1e-4)


def _stft(wav, window):
    """Window sums of frames around every quarter window; scipy divides them by the window's sum."""
    taken = {"nperseg": window, "noverlap": window - window // 4, "boundary": "even", "padded": False}
    _, _, values = scipy.signal.stft(wav, window="hann", **taken)
    return values[:, : 1 + len(wav) // (window // 4)] * scipy.signal.get_window("hann", window).sum()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("length", [2048, 40_000, 70_013, 99_999])
def test_segments_add_up_to_the_whole(monkeypatch, channels, length):
    target, output = noise(channels, length), noise(channels, length, seed=1)
    whole = ReconstructionMeasures(RATE)(output, target)
    monkeypatch.setattr(measures, "SEGMENT_SECONDS", 0.25)
    cut = ReconstructionMeasures(RATE)(output, target)
    assert cut[:3] == pytest.approx(whole[:3], rel=1e-6)
    wanted = MultiScaleMelDistance(RATE)(output[None], target[None]).item()
    assert cut.mel_distance == pytest.approx(wanted, rel=1e-5)


def test_segments_cover_a_clip():
    for length in (1, 9, 10, 14, 15, 24, 26, 1000):
        parts = list(segments(length, 10))
        assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
        assert parts[-1][1] == length
        assert all(5 <= stop - start < 16 for start, stop in parts) or length < 5


def test_the_worst_segment_is_found():
    target = noise(1, 40 * 8000)
    output = target.clone()
    output[:, 20 * 8000 : 30 * 8000] += noise(1, 10 * 8000, seed=1)
    assert ReconstructionMeasures(8000)(output, target).worst == pytest.approx(20, abs=0.2)


def test_a_clip_shorter_than_a_window_is_refused():
    with pytest.raises(InputError, match="2047 samples are shorter"):
        ReconstructionMeasures(RATE)(noise(1, 2047), noise(1, 2047))


def test_codebook_use_is_that_of_a_count():
    counts = CodebookCounts(3, 16)
    parts = [tiny.codes(2, 9, 3, seed=1), tiny.codes(1, 40, 3, seed=2) // 3]
    for part in parts:
        counts.add(part)
    for k, used in enumerate(counts.use()):
        seen = Counter(code for part in parts for row in part[:, k].tolist() for code in row)
        shares = [count / sum(seen.values()) for count in seen.values()]
        bits = -sum(share * math.log2(share) for share in shares)
        assert used == pytest.approx((len(seen) / 16, 2**bits, bits))


# ---- ViSQOL -------------------------------------------------------------------------------------------------------
@pytest.fixture
def fake_visqol(monkeypatch):
    """A module as visqol-python 3.8 is, which remembers what it was asked."""
    asked = []

    class VisqolApi:
        def create(self, mode="audio"):
            asked.append(mode)

        def measure_from_arrays(self, ref_array, deg_array, sample_rate):
            asked.append((ref_array, deg_array, sample_rate))
            if len(asked) == 4:
                raise ValueError("no patches")
            return SimpleNamespace(moslqo=float(len(asked)))

    module = ModuleType("visqol")
    module.VisqolApi, module.__version__ = VisqolApi, "3.8.0"
    monkeypatch.setitem(sys.modules, "visqol", module)
    return asked


def test_visqol_is_asked_for_pieces_reference_first(fake_visqol):
    scorer = load_visqol()
    target = noise(2, 23 * 8000)
    target[:, : 8 * 8000] = 0  # the first of three pieces is silent
    assert scorer(0.5 * target, target, 8000) == 2.5  # its answers to the two that are asked are 2 and 3
    assert fake_visqol[0] == "audio"
    for reference, degraded, rate in fake_visqol[1:]:
        assert rate == 48_000
        assert reference.dtype == np.float64
        assert len(reference) / rate == pytest.approx(23 / 3, abs=0.01)
        np.testing.assert_allclose(degraded, 0.5 * reference, atol=1e-6)
    assert scorer(target, target, 8000) == 5  # one of the two could not be scored


def test_visqol_and_silence(fake_visqol):
    scorer = load_visqol()
    assert scorer(torch.zeros(1, 16_000), noise(1, 16_000), 8000) == 1
    assert scorer(noise(1, 16_000), torch.zeros(1, 16_000), 8000) is None
    assert scorer(noise(1, 7999), noise(1, 7999), 8000) is None
    assert fake_visqol == ["audio"]


def test_visqol_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "visqol", None)
    assert load_visqol() is None
