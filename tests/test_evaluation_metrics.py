"""The four metrics against independent references."""

import math
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial
from importlib import import_module

import numpy as np
import pytest
import scipy.linalg
import torch
from metric_tester import CHECKS, MetricCase, does_not_hear_padding, two_processes_give_what_one_gives

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


def test_fad_keeps_its_precision_far_from_the_origin():
    real, generated = cloud(300, 16, 0, shift=1000.0), cloud(300, 16, 1, shift=1000.0)
    ours = frechet_distance(*Moments.of(real).gaussian(), *Moments.of(generated).gaussian())
    assert ours == pytest.approx(svd_fad(real, generated), rel=1e-6)


def test_fad_refuses_what_it_cannot_measure():
    with pytest.raises(InputError, match="finite"):
        frechet_distance(np.full(2, np.nan), np.eye(2), np.zeros(2), np.eye(2))
    metric = FrechetAudioDistance()
    metric.update(torch.randn(1, 4), real=True)
    metric.update(torch.randn(9, 4), real=False)
    with pytest.raises(InputError, match="1 real"):
        metric.compute()


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


def test_kl_divergence_is_audiocrafts_formula():
    generated, reference = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    theirs = torch.nn.functional.kl_div((generated.softmax(-1) + 1e-6).log(), reference.softmax(-1), reduction="none")
    torch.testing.assert_close(kl_divergence(generated, reference), theirs.sum(-1))


def test_kl_divergence_of_impossible_labels_is_finite():
    sure = torch.tensor([[500.0, -500.0]])
    assert float(kl_divergence(-sure, sure)) == pytest.approx(-math.log(1e-6), rel=1e-3)


def test_settings_without_sense_are_refused():
    with pytest.raises(InputError, match="direction"):
        KLDivergence(direction="sideways")
    with pytest.raises(InputError, match="average"):
        ChromaSimilarity(average="beat")


def test_clap_score_of_silence_is_zero():
    assert float(clap_score(torch.zeros(1, 4), torch.ones(1, 4))) == 0


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


# ---- every metric's promises ----------------------------------------------------------------------------------------
def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def feed_fad(metric, data):
    metric.update(data["real"], real=True)
    metric.update(data["generated"], real=False)


def slow_fad(data):
    return textbook_fad(data["real"].numpy(), data["generated"].numpy())


def feed_kl(metric, data):
    metric.update(data["generated"], data["reference"])


def mean_of_slow_kl(data):
    return np.mean(slow_kl(data["generated"], data["reference"], 1e-6))


def mean_of_slow_kl_backwards(data):
    return np.mean(slow_kl(data["reference"], data["generated"], 1e-6))


def feed_clap(metric, data):
    metric.update(data["audio"], data["text"])


def slow_clap(data):
    rows = zip(data["audio"].tolist(), data["text"].tolist(), strict=True)
    return np.mean([sum(map(math.prod, zip(x, y, strict=True))) / math.hypot(*x) / math.hypot(*y) for x, y in rows])


def feed_chroma(metric, data):
    metric.update(data["generated"], data["reference"], data["lengths"])


def slow_chroma(data, weight_of=lambda frames: 1):
    values, weights = [], []
    for generated, reference, length in zip(*(data[name].tolist() for name in data), strict=True):
        heard = [t for t in range(length) if any(reference[t])]  # silence is not compared
        agree = [generated[t] == reference[t] for t in heard]
        if heard:
            values.append(sum(agree) / len(agree))
            weights.append(weight_of(len(agree)))
    return np.average(values, weights=weights)


def slow_chroma_by_frames(data):
    return slow_chroma(data, weight_of=lambda frames: frames)


def longer_chroma(data):
    noise = torch.rand(len(data["lengths"]), 5, 12, dtype=torch.float64)
    return {
        **{name: torch.cat([data[name], noise], 1) for name in ("generated", "reference")},
        "lengths": data["lengths"],
    }


def chroma_data():
    classes = torch.randint(0, 3, (2, 20, 9), generator=torch.Generator().manual_seed(0))
    generated, reference = torch.nn.functional.one_hot(classes, 12).double()
    reference[1, 2] = reference[5] = 0  # silence, and a clip of nothing but it
    generated[2, 1] = 0  # silence where music should be
    return {"generated": generated, "reference": reference, "lengths": torch.arange(20) % 9 + 1}


def wrong_pairs(*shape):
    """Updates with two tensors of this shape that every metric of pairs refuses."""
    return [
        (lambda metric: metric.update(torch.zeros(*shape), torch.zeros(shape[0] + 1, *shape[1:])), "one shape"),
        (lambda metric: metric.update(torch.full(shape, math.nan), torch.zeros(*shape)), "not finite"),
        (lambda metric: metric.update(torch.zeros(*shape), torch.full(shape, math.inf)), "not finite"),
        (lambda metric: metric.update(torch.zeros(shape[0]), torch.zeros(shape[0])), r"two \[."),
    ]


WRONG_SETS = [
    (lambda metric: metric.update(torch.randn(2, 7), real=True), "7 dimensions, expected 6"),
    (lambda metric: metric.update(torch.full((2, 6), math.nan), real=True), "not finite"),
    (lambda metric: metric.update(torch.randn(6), real=True), r"\[N, D\]"),
]
SETS = {"real": draw(61, 6), "generated": draw(47, 6) + 0.3}
LOGITS = {"generated": 3 * draw(23, 9), "reference": 3 * draw(23, 9).flip(0)}
EMBEDDINGS = {"audio": draw(23, 7), "text": draw(23, 7).flip(0)}
CASES = [
    MetricCase("fad", partial(FrechetAudioDistance, 6), SETS, feed_fad, slow_fad, WRONG_SETS, "at least 2|both"),
    MetricCase("kl", KLDivergence, LOGITS, feed_kl, mean_of_slow_kl, wrong_pairs(2, 9), "at least one"),
    MetricCase(
        "kl backwards",
        partial(KLDivergence, "generated_to_reference"),
        LOGITS,
        feed_kl,
        mean_of_slow_kl_backwards,
        wrong_pairs(2, 9),
        "at least one",
    ),
    MetricCase("clap", CLAPScore, EMBEDDINGS, feed_clap, slow_clap, wrong_pairs(2, 7), "at least one"),
    *(
        MetricCase(
            f"chroma by {average}",
            partial(ChromaSimilarity, average),
            chroma_data(),
            feed_chroma,
            slow,
            wrong_pairs(2, 9, 12),
            "silent",
            longer_chroma,
        )
        for average, slow in (("clip", slow_chroma), ("frame", slow_chroma_by_frames))
    ),
]


PROMISES = {
    f"{case.name}-{check.__name__}": (case, check)
    for case in CASES
    for check in CHECKS
    if case.longer or check is not does_not_hear_padding
}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize(("case", "check"), PROMISES.values(), ids=PROMISES)
def test_every_metric(case, check):
    check(case)


def test_two_processes(tmp_path):
    # Functions of this module and no lambdas: what is to be refused stays here.
    two_processes_give_what_one_gives([replace(case, wrong=()) for case in CASES], tmp_path)


def test_fad_learns_its_dimension_from_the_first_batch():
    told, untold = FrechetAudioDistance(6), FrechetAudioDistance()
    for metric in (told, untold):
        feed_fad(metric, SETS)
    assert told.compute() == untold.compute()


def test_commands_are_imported_without_torch():
    code = """
        import sys
        import evaluation, experiments.commands.evaluate, experiments.commands.compare
        assert "torch" not in sys.modules
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env=environment)


def test_importing_the_package_is_cheap(monkeypatch):
    """Afresh but for torch and its like, whose import is most of what a process of its own would take."""
    heavy = {"laion_clap", "frechet_audio_distance", "hear21passt", "demucs", "gradio", "music21"}
    ours = {"datamodules", "evaluation", "experiments"}
    asked = set()

    class Watch:
        @staticmethod
        def find_spec(name, path=None, target=None):
            asked.add(name.partition(".")[0])
            if asked & heavy:
                raise ImportError(name)

    loaded = dict(sys.modules)
    monkeypatch.setattr(sys, "meta_path", [Watch, *sys.meta_path])
    try:
        for name in loaded:
            if name.partition(".")[0] in heavy | ours:
                del sys.modules[name]
        import_module("evaluation.report")
        import_module("evaluation.runner")
        assert ours - asked == {"experiments"}
        assert not asked & heavy
    finally:
        sys.modules.clear()
        sys.modules.update(loaded)
