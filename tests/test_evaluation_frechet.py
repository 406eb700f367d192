"""Frechet distances of sets, of clips, and without the bias of small sets, against independent references."""

import math
import sys
from types import ModuleType

import numpy as np
import pytest
import scipy.linalg
import torch

from datamodules.errors import InputError
from evaluation import FrechetAudioDistance
from evaluation.fad import Moments, ReferenceGaussian, distance_of_embeddings, frechet_distance
from evaluation.fad_infinity import fad_infinity, fad_infinity_interval
from evaluation.uncertainty import jackknife, jackknife_groups


def cloud(n, d, seed, shift=0.0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) / math.sqrt(d) + shift


def gaussian(values):
    return values.mean(0), np.cov(values, rowvar=False)


def svd_fad(real, generated):
    """Exact for any number of samples: the trace of the root is the nuclear norm of the product of centred data."""
    x, y = real - real.mean(0), generated - generated.mean(0)
    n, m = len(x) - 1, len(y) - 1
    nuclear = np.linalg.svd(x @ y.T, compute_uv=False).sum() / math.sqrt(n * m)
    offset = real.mean(0) - generated.mean(0)
    return offset @ offset + (x**2).sum() / n + (y**2).sum() / m - 2 * nuclear


def sqrtm_fad(real, generated):
    (mean1, s1), (mean2, s2) = gaussian(real), gaussian(generated)
    return ((mean1 - mean2) ** 2).sum() + np.trace(s1 + s2 - 2 * np.real(scipy.linalg.sqrtm(s1 @ s2)))


def test_both_forms_equal_scipys_matrix_root_at_full_rank():
    real, generated = cloud(700, 64, 0), cloud(500, 64, 1, shift=0.3)
    expected = sqrtm_fad(real, generated)
    assert distance_of_embeddings(real, generated) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(*gaussian(real), *gaussian(generated)) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("n", "m"), [(20, 30), (20, 500), (500, 20), (64, 65), (2, 2), (65, 64)])
def test_the_low_rank_form_is_exact(n, m):
    real, generated = cloud(n, 64, 0), cloud(m, 64, 1, shift=0.3)
    expected = svd_fad(real, generated)
    assert distance_of_embeddings(real, generated) == pytest.approx(expected, rel=1e-10)
    assert distance_of_embeddings(torch.from_numpy(real), generated) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(*gaussian(real), *gaussian(generated)) == pytest.approx(expected, rel=1e-10)


def test_spectra_that_fall_steeply_stay_exact():
    # Their smallest eigenvalues are 1e-12 of the largest: the quick form's roots would be rounding.
    fall = np.logspace(0, -6, 96)
    real, generated = cloud(300, 96, 0) * fall, cloud(300, 96, 1) * fall
    assert frechet_distance(*gaussian(real), *gaussian(generated)) == pytest.approx(svd_fad(real, generated), rel=1e-8)
    assert 0 <= frechet_distance(*gaussian(real), *gaussian(real)) < 1e-10


@pytest.mark.parametrize("n", [10, 400])
def test_a_set_is_at_no_distance_from_itself(n):
    values = cloud(n, 32, 0, shift=5)
    assert 0 <= distance_of_embeddings(values, values) < 1e-10
    assert 0 <= ReferenceGaussian(*gaussian(values)).distance(values) < 1e-10


def test_it_equals_frechet_audio_distances_own_calculation(monkeypatch):
    pytest.importorskip("resampy", reason="frechet-audio-distance is not installed")
    pytest.importorskip("encodec", reason="frechet-audio-distance is not installed")
    # It imports laion_clap, which asks the network for minutes, and for this calculation needs nothing of it.
    monkeypatch.setitem(sys.modules, "laion_clap", ModuleType("laion_clap"))
    theirs = pytest.importorskip("frechet_audio_distance.fad").FrechetAudioDistance
    peer = object.__new__(theirs)
    for n in (150, 600):
        real, generated = cloud(n, 128, 0), cloud(n, 128, 1, shift=0.1)
        expected = peer.calculate_frechet_distance(*gaussian(real), *gaussian(generated))
        # Without full rank it is theirs that is off.
        assert distance_of_embeddings(real, generated) == pytest.approx(expected, rel=1e-8 if n > 200 else 1e-4)


def test_clips_against_a_reference_are_frechet_distances():
    real = cloud(500, 48, 0)
    reference = ReferenceGaussian(*gaussian(real))
    for n in (2, 10, 47, 48, 49, 200):
        clip = cloud(n, 48, n, shift=0.2)
        assert reference.distance(torch.from_numpy(clip)) == pytest.approx(svd_fad(real, clip), rel=1e-10)
        assert reference.distance(clip) == pytest.approx(
            frechet_distance(*gaussian(real), *Moments.of(clip).gaussian()), rel=1e-8
        )
    poor = ReferenceGaussian(*gaussian(real[:9]))
    assert poor.factor.shape == (48, 8)
    assert poor.distance(real[100:120]) == pytest.approx(svd_fad(real[:9], real[100:120]), rel=1e-10)


def test_what_has_no_distance_is_refused():
    with pytest.raises(InputError, match="at least 2 embeddings, not 1"):
        distance_of_embeddings(np.zeros((1, 4)), np.zeros((5, 4)))
    with pytest.raises(InputError, match="not 4 and 5"):
        distance_of_embeddings(np.zeros((3, 4)), np.zeros((3, 5)))
    with pytest.raises(InputError, match="not 4 and 5"):
        frechet_distance(np.zeros(4), np.eye(4), np.zeros(5), np.eye(5))
    with pytest.raises(InputError, match="not finite"):
        distance_of_embeddings(np.full((3, 4), np.nan), np.zeros((3, 4)))
    with pytest.raises(InputError, match="covariance"):
        ReferenceGaussian(np.zeros(4), np.eye(5))
    with pytest.raises(InputError, match="5 dimensions, those of the reference 4"):
        ReferenceGaussian(np.zeros(4), np.eye(4)).distance(np.zeros((3, 5)))


def test_too_few_embeddings_are_warned_of():
    metric = FrechetAudioDistance(32)
    metric.update(torch.randn(100, 32), real=True)
    metric.update(torch.randn(20, 32), real=False)
    with pytest.warns(UserWarning, match=r"20 embeddings of 32 dimensions make FAD far too high.*give 64"):
        metric.compute()


def test_infinity_takes_the_bias_of_small_sets_away():
    generator = np.random.default_rng(0)
    scale = math.sqrt(10 / 512)  # the plain value is then about 0.9
    real, made = (generator.normal(size=(n, 512)) * scale for n in (5000, 2000))
    reference = ReferenceGaussian(*gaussian(real))
    plain, found = reference.distance(made), fad_infinity(reference, made, draws=2)
    assert 0.85 < plain < 0.95
    assert abs(found.value) < 0.3
    assert found.slope > 0
    assert found.r2 > 0.99
    assert (found.sizes[0], found.sizes[-1], len(found.sizes)) == (1000, 2000, 8)
    assert found.distances[-1] == pytest.approx(plain, rel=1e-9)


def test_infinity_is_the_line_through_the_distances_of_its_subsets():
    real, made = cloud(400, 8, 0), cloud(90, 8, 1, shift=0.1)
    reference = ReferenceGaussian(*gaussian(real))
    found = fad_infinity(reference, made, sizes=[20, 45, 90], draws=3, seed=5)
    generator, distances = np.random.default_rng(5), np.zeros(3)
    for _ in range(3):
        order = np.argsort(generator.permutation(90))
        assert len(set(order)) == 90
        distances += [svd_fad(real, made[order[:size]]) / 3 for size in (20, 45, 90)]
    assert found.distances == pytest.approx(distances.tolist(), rel=1e-9)
    slope, value = np.polyfit(1 / np.array([20, 45, 90]), distances, 1)
    assert (found.value, found.slope) == (pytest.approx(value), pytest.approx(slope))
    assert found.r2 == pytest.approx(np.corrcoef(1 / np.array([20, 45, 90]), distances)[0, 1] ** 2)
    assert fad_infinity(reference, made, seed=1) == fad_infinity(reference, made, seed=1)
    assert fad_infinity(reference, made, seed=1) != fad_infinity(reference, made, seed=2)


def test_infinity_draws_whole_tracks():
    # Ten windows of a track are nearly one: only tracks show how FAD falls with their number.
    generator = np.random.default_rng(0)
    reference = ReferenceGaussian(np.zeros(8), np.eye(8))
    errors = {"tracks": [], "windows": [], "plain": []}
    for seed in range(8):
        made = np.repeat(generator.normal(size=(60, 8)), 10, axis=0) + 0.05 * generator.normal(size=(600, 8))
        errors["tracks"].append(fad_infinity(reference, made, np.arange(600) // 10, seed=seed).value)
        errors["windows"].append(fad_infinity(reference, made, seed=seed).value)
        errors["plain"].append(reference.distance(made))
    means = {name: np.mean(values) for name, values in errors.items()}
    assert abs(means["tracks"]) < 0.15 < 0.8 * means["plain"] < means["windows"]
    sizes = fad_infinity(reference, made, np.arange(600) // 10, sizes=[205, 308, 411], draws=2).sizes
    assert sizes == [200, 300, 410]


def test_intervals_of_infinity_cover_the_truth_and_hold_their_value():
    dim, width = 8, 1 / np.arange(1, 9)
    reference = ReferenceGaussian(np.zeros(dim), np.diag(width**2))
    shift = 0.5 * width
    truth = frechet_distance(np.zeros(dim), np.diag(width**2), shift, np.diag((1.5 * width) ** 2))
    generator, hits = np.random.default_rng(0), 0
    for trial in range(150):
        made = generator.normal(size=(100, dim)) * 1.5 * width + shift
        found = fad_infinity_interval(reference, made, sizes=[50, 70, 100], draws=2, seed=trial)
        assert found.low <= found.value <= found.high
        hits += found.low <= truth <= found.high
    assert hits / 150 >= 0.90
    made = generator.normal(size=(100, dim))
    assert found != fad_infinity_interval(reference, made, seed=1) == fad_infinity_interval(reference, made, seed=1)
    assert fad_infinity_interval(reference, made, seed=1).value == fad_infinity(reference, made, seed=1).value


def test_intervals_of_fad_cover_its_mean_at_their_number_where_a_bootstrap_never_does():
    dim, count, trials = 24, 60, 120
    reference = ReferenceGaussian(np.zeros(dim), np.eye(dim))
    generator = np.random.default_rng(0)
    made = generator.normal(size=(trials, count, dim)) * 1.2
    expected = np.mean([reference.distance(one) for one in generator.normal(size=(400, count, dim)) * 1.2])
    hits = resampled = 0
    for trial, values in enumerate(made):
        groups = jackknife_groups(count, seed=trial)

        def statistic(group, values=values, groups=groups):
            return reference.distance(values[groups != (-1 if group is None else group)])

        found, _ = jackknife(statistic, 20, least=0.0)
        assert found.low <= found.value <= found.high
        hits += found.low <= expected <= found.high
        if trial < 5:
            draws = [reference.distance(values[generator.integers(count, size=count)]) for _ in range(40)]
            resampled += min(draws) <= found.value
    assert hits / trials >= 0.90
    assert resampled == 0


def test_infinity_refuses_what_is_too_small():
    reference = ReferenceGaussian(np.zeros(16), np.eye(16))
    values = cloud(40, 16, 0)
    with pytest.raises(InputError, match="needs at least 32 embeddings, not 31"):
        fad_infinity(reference, values[:31])
    for sizes in ([16, 20, 30], [20, 30, 41], [20, 30], [20, 30, 30]):
        with pytest.raises(InputError, match="at least 3 different sizes"):
            fad_infinity(reference, values, sizes=sizes)
    with pytest.raises(InputError, match="nothing would be drawn"):
        fad_infinity(reference, values, draws=0)
    with pytest.raises(InputError, match="15 dimensions"):
        fad_infinity(reference, values[:, :15])
    with pytest.raises(InputError, match="no whole track fits into 20"):
        fad_infinity(reference, values, [0] * 40)
    with pytest.raises(InputError, match="as many tracks"):
        fad_infinity(reference, values, [0] * 3)
    with pytest.raises(InputError, match="2 groups"):
        fad_infinity_interval(reference, values, [0] * 40)
