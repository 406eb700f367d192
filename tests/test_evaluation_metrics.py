"""The four metrics against independent references."""

import math
import os
import subprocess
import sys
import textwrap
from datetime import timedelta

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.multiprocessing as mp

from datamodules.errors import InputError
from evaluation import ChromaSimilarity, CLAPScore, FrechetAudioDistance, KLDivergence
from evaluation.chroma_similarity import chroma_similarity
from evaluation.clap_score import clap_score
from evaluation.fad import Moments, frechet_distance
from evaluation.kld import kl_divergence
from evaluation.retrieval import retrieval_recall


def cloud(n, d, seed, shift=0.0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) / math.sqrt(d) + shift


def textbook_fad(real, generated):
    s1, s2 = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2)
    return ((real.mean(0) - generated.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * np.real(root))


def svd_fad(real, generated):
    """Exact for any number of samples: the trace of the root is the nuclear norm of the product of centred data."""
    x, y = real - real.mean(0), generated - generated.mean(0)
    n, m = len(x), len(y)
    nuclear = np.linalg.svd(x @ y.T, compute_uv=False).sum() / math.sqrt((n - 1) * (m - 1))
    offset = real.mean(0) - generated.mean(0)
    return offset @ offset + (x**2).sum() / (n - 1) + (y**2).sum() / (m - 1) - 2 * nuclear


@pytest.mark.parametrize(("n", "m", "d"), [(400, 300, 16), (500, 600, 64)])
def test_fad_equals_the_textbook_matrix_root_at_full_rank(n, m, d):
    real, generated = cloud(n, d, 0), cloud(m, d, 1, shift=0.3)
    ours = frechet_distance(*Moments.of(real).gaussian(), *Moments.of(generated).gaussian())
    assert ours == pytest.approx(textbook_fad(real, generated), rel=1e-8)


@pytest.mark.parametrize(("n", "m"), [(20, 30), (20, 500), (2, 2)])
def test_fad_is_exact_with_fewer_samples_than_dimensions(n, m):
    real, generated = cloud(n, 64, 0), cloud(m, 64, 1, shift=0.3)
    ours = frechet_distance(*Moments.of(real).gaussian(), *Moments.of(generated).gaussian())
    assert ours == pytest.approx(svd_fad(real, generated), rel=1e-8)


def test_fad_of_a_set_with_itself_is_zero():
    for n in (10, 300):
        gaussian = Moments.of(cloud(n, 32, 0)).gaussian()
        assert 0 <= frechet_distance(*gaussian, *gaussian) < 1e-10


def test_fad_of_one_dimension_has_a_closed_form():
    value = frechet_distance(torch.tensor([1.0]), torch.tensor([[4.0]]), torch.tensor([3.0]), torch.tensor([[9.0]]))
    assert value == pytest.approx((1 - 3) ** 2 + (2 - 3) ** 2)


def test_fad_of_clouds_without_spread_is_the_distance_of_their_means():
    assert frechet_distance(np.zeros(3), np.zeros((3, 3)), np.ones(3), np.zeros((3, 3))) == pytest.approx(3.0)


def test_fad_metric_in_one_shot_and_in_pieces():
    real, generated = torch.from_numpy(cloud(90, 16, 0)).float(), torch.from_numpy(cloud(70, 16, 1)).float()
    whole, pieces = FrechetAudioDistance(16), FrechetAudioDistance()
    whole.update(real, real=True)
    whole.update(generated, real=False)
    for some in real.split(7):
        pieces.update(some, real=True)
    for some in generated.split(11):
        pieces.update(some, real=False)
    assert float(whole.compute()) == pytest.approx(
        textbook_fad(real.double().numpy(), generated.double().numpy()), 1e-8
    )
    assert float(pieces.compute()) == pytest.approx(float(whole.compute()), rel=1e-12)
    pieces.reset()
    with pytest.raises(InputError, match="at least 2"):
        pieces.compute()


def test_fad_keeps_its_precision_far_from_the_origin():
    real, generated = cloud(300, 16, 0, shift=1000.0), cloud(300, 16, 1, shift=1000.0)
    ours = frechet_distance(*Moments.of(real).gaussian(), *Moments.of(generated).gaussian())
    assert ours == pytest.approx(svd_fad(real, generated), rel=1e-6)


def test_fad_refuses_what_it_cannot_measure():
    metric = FrechetAudioDistance()
    with pytest.raises(InputError, match="both"):
        metric.compute()
    metric.update(torch.randn(1, 4), real=True)
    metric.update(torch.randn(9, 4), real=False)
    with pytest.raises(InputError, match="1 real"):
        metric.compute()
    with pytest.raises(InputError, match="dimensions"):
        metric.update(torch.randn(2, 5), real=True)
    with pytest.raises(InputError, match="not finite"):
        metric.update(torch.full((2, 4), math.nan), real=True)
    with pytest.raises(InputError, match=r"\[N, D\]"):
        metric.update(torch.randn(4), real=True)
    with pytest.raises(InputError, match="finite"):
        frechet_distance(np.full(2, np.nan), np.eye(2), np.zeros(2), np.eye(2))


def test_moments_subtract_what_they_added():
    a, b = cloud(30, 8, 0), cloud(20, 8, 1)
    left = Moments.of(np.concatenate([a, b])) - Moments.of(b)
    for ours, theirs in zip(left.gaussian(), (a.mean(0), np.cov(a, rowvar=False)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def slow_kl(generated, reference, eps):
    total = []
    for q_logits, p_logits in zip(generated.tolist(), reference.tolist(), strict=True):
        q = [math.exp(x) / sum(math.exp(y) for y in q_logits) for x in q_logits]
        p = [math.exp(x) / sum(math.exp(y) for y in p_logits) for x in p_logits]
        total.append(sum(a * (math.log(a) - math.log(b + eps)) for a, b in zip(p, q, strict=True)))
    return total


def test_kl_divergence_against_a_loop_in_both_directions():
    generated, reference = torch.randn(6, 9) * 3, torch.randn(6, 9) * 3
    forward, backward = slow_kl(generated, reference, 1e-6), slow_kl(reference, generated, 1e-6)
    np.testing.assert_allclose(kl_divergence(generated, reference), forward, rtol=1e-5)
    np.testing.assert_allclose(
        kl_divergence(generated, reference, direction="generated_to_reference"), backward, rtol=1e-5
    )
    both = kl_divergence(generated, reference, direction="both")
    np.testing.assert_allclose(both, np.add(forward, backward), rtol=1e-5)
    metric = KLDivergence()
    metric.update(generated[:2], reference[:2])
    metric.update(generated[2:], reference[2:])
    assert float(metric.compute()) == pytest.approx(np.mean(forward), rel=1e-5)


def test_kl_divergence_is_audiocrafts_formula():
    generated, reference = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    theirs = torch.nn.functional.kl_div((generated.softmax(-1) + 1e-6).log(), reference.softmax(-1), reduction="none")
    torch.testing.assert_close(kl_divergence(generated, reference), theirs.sum(-1))


def test_kl_divergence_of_impossible_labels_is_finite():
    sure = torch.tensor([[500.0, -500.0]])
    assert float(kl_divergence(-sure, sure)) == pytest.approx(-math.log(1e-6), rel=1e-3)


def test_kl_divergence_refuses():
    with pytest.raises(InputError, match="one shape"):
        kl_divergence(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(InputError, match="not finite"):
        kl_divergence(torch.full((1, 2), math.inf), torch.zeros(1, 2))
    with pytest.raises(InputError, match="direction"):
        KLDivergence(direction="sideways")
    with pytest.raises(InputError, match="at least one"):
        KLDivergence().compute()


def test_clap_score_against_a_loop():
    audio, text = torch.randn(5, 8), torch.randn(5, 8)
    slow = [
        sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)
        for x, y in zip(audio.tolist(), text.tolist(), strict=True)
    ]
    np.testing.assert_allclose(clap_score(audio, text), slow, rtol=1e-5)
    metric = CLAPScore()
    metric.update(audio[:3], text[:3])
    metric.update(audio[3:], text[3:])
    assert float(metric.compute()) == pytest.approx(np.mean(slow), rel=1e-5)
    with pytest.raises(InputError):
        metric.update(audio, text[:2])
    assert float(clap_score(torch.zeros(1, 4), torch.ones(1, 4))) == 0


def test_chroma_similarity_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 12, (2, 4, 9), generator=generator)
    generated, reference = (torch.nn.functional.one_hot(some, 12).float() for some in classes)
    reference[1, 2] = 0  # silence: not compared
    generated[2, 1] = 0  # silence where music should be: scores 0
    lengths = torch.tensor([9, 7, 4, 1])
    slow = []
    for clip, length in enumerate(lengths.tolist()):
        frames = [t for t in range(length) if reference[clip, t].sum() > 0]
        agree = [torch.equal(generated[clip, t], reference[clip, t]) for t in frames]
        slow.append((sum(agree) / len(agree), len(agree)))
    values, frames = chroma_similarity(generated, reference, lengths)
    np.testing.assert_allclose(values, [value for value, _ in slow])
    for average, weights in (("clip", [1] * 4), ("frame", [count for _, count in slow])):
        metric = ChromaSimilarity(average=average)
        metric.update(generated[:1], reference[:1], lengths[:1])
        metric.update(generated[1:], reference[1:], lengths[1:])
        assert float(metric.compute()) == pytest.approx(np.average([value for value, _ in slow], weights=weights))


def test_chroma_similarity_without_anything_to_compare():
    silence = torch.zeros(1, 3, 12)
    values, frames = chroma_similarity(torch.ones(1, 3, 12), silence)
    assert values.isnan().all()
    assert frames.tolist() == [0]
    metric = ChromaSimilarity()
    metric.update(torch.ones(1, 3, 12), silence)
    with pytest.raises(InputError, match="silent"):
        metric.compute()


def test_retrieval_counts_equal_captions_once():
    audio, text = torch.eye(3), torch.eye(3)
    assert retrieval_recall(audio, text, ["a", "b", "c"]) == 1
    assert retrieval_recall(audio[[1, 0, 2]], text, ["a", "b", "c"]) == pytest.approx(1 / 3)
    assert retrieval_recall(audio[[0, 0, 2]], text[[0, 0, 2]], ["a", "a", "c"]) == 1
    assert retrieval_recall(audio[[1, 0, 2]], text, ["a", "b", "c"], k=3) == 1


def _share(rank, folder, data):
    meet, patience = f"file://{folder}/meet", timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=patience)
    part = slice(rank, None, 2)
    metrics = FrechetAudioDistance(8), KLDivergence(), CLAPScore(), ChromaSimilarity()
    metrics[0].update(data["real"][part], real=True)
    metrics[0].update(data["made"][part], real=False)
    metrics[1].update(data["made"][part], data["real"][part])
    metrics[2].update(data["made"][part], data["real"][part])
    metrics[3].update(data["chroma"][part], data["chroma"].flip(0)[part])
    torch.save([float(metric.compute()) for metric in metrics], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path):
    generator = torch.Generator().manual_seed(0)
    data = {
        "real": torch.randn(31, 8, generator=generator),
        "made": torch.randn(31, 8, generator=generator),
        "chroma": torch.rand(31, 5, 12, generator=generator),
    }
    other = mp.get_context("spawn").Process(target=_share, args=(1, str(tmp_path), data))
    other.start()
    _share(0, str(tmp_path), data)  # this process is the other one's peer: one cold start instead of two
    other.join(60)
    assert other.exitcode == 0
    alone = FrechetAudioDistance(8), KLDivergence(), CLAPScore(), ChromaSimilarity()
    alone[0].update(data["real"], real=True)
    alone[0].update(data["made"], real=False)
    alone[1].update(data["made"], data["real"])
    alone[2].update(data["made"], data["real"])
    alone[3].update(data["chroma"], data["chroma"].flip(0))
    expected = [float(metric.compute()) for metric in alone]
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(expected, rel=1e-12)


def test_importing_the_package_is_cheap():
    code = """
        import sys
        import evaluation, experiments.commands.evaluate, experiments.commands.compare
        assert "torch" not in sys.modules
        import evaluation.report, evaluation.runner
        heavy = {"laion_clap", "frechet_audio_distance", "hear21passt", "demucs", "gradio", "music21"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env=environment)
