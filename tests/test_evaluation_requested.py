"""What runs on request: KAD, retrieval, statistics in the references' place, and PaSST of twenty seconds."""

import importlib
import json
from contextlib import redirect_stdout
from io import StringIO

import judge_weights
import numpy as np
import pytest
import torch
import yaml
from evaluation_clips import CAPTIONS, RATE, random_judge, sine, write_clips

from datamodules.audio_io import read_audio
from datamodules.errors import InputError
from evaluation.compare import differences, read_results
from evaluation.fad import ReferenceGaussian, frechet_distance
from evaluation.judges import resolve_judge
from evaluation.judges.embedded import load_judge
from evaluation.protocol import PROTOCOLS
from evaluation.report import write_report
from evaluation.retrieval import retrieval_hits, retrieval_recall
from evaluation.runner import evaluate
from evaluation.statistics_files import write_statistics
from evaluation.tables import METRICS, failures_text, scores_table
from experiments.__main__ import main

IDS = [f"clip{index}" for index in range(6)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MGL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def judge(tmp_path):
    return random_judge(tmp_path / "judge", window_frames=16, hop_frames=8)


def folder(path, level, captions=CAPTIONS):
    generator = torch.Generator().manual_seed(1)
    clips = {name: sine(60 + 2 * k) for k, name in enumerate(IDS)}
    clips = {name: wav + level * torch.randn(wav.shape, generator=generator) for name, wav in clips.items()}
    return write_clips(path, clips, dict(zip(IDS, captions, strict=True)))


def windows(judge, path):
    network = load_judge(judge)
    waves = [read_audio(path / f"{name}.wav", sample_rate=RATE)[0] for name in IDS]
    heard = network.embed_audio(torch.stack(waves)[:, None], torch.tensor([len(wave) for wave in waves]))
    return [some.double().numpy() for some in heard.windows()]


def slow_kad(real, made, bandwidth):
    def k(a, b):
        return np.exp(-((a - b) ** 2).sum() / (2 * bandwidth**2))

    n, m = len(real), len(made)
    inside = sum(k(real[i], real[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    outside = sum(k(made[i], made[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return 100 * (inside + outside - 2 * np.mean([k(a, b) for a in real for b in made]))


def slow_hits(audio, text, captions, k):
    """By sorting, one query after the other."""
    unit = [[row / np.linalg.norm(row) for row in side.tolist()] for side in (audio, text)]
    candidates = list(dict.fromkeys(captions))
    vectors = [unit[1][captions.index(caption)] for caption in candidates]
    to_text, to_audio = [], []
    for row, caption in enumerate(captions):
        order = sorted(range(len(candidates)), key=lambda c: -np.dot(unit[0][row], vectors[c]))
        to_text.append(caption in [candidates[place] for place in order[:k]])
        order = sorted(range(len(audio)), key=lambda n: -np.dot(unit[0][n], vectors[candidates.index(caption)]))
        to_audio.append(caption in [captions[place] for place in order[:k]])
    return to_text, to_audio


# ---- KAD and retrieval ---------------------------------------------------------------------------------------------
def test_kad_and_retrieval_are_what_loops_find(tmp_path, judge):
    captions = ["a", "b", "a", "c", "d", ""]
    real, made = folder(tmp_path / "real", 0.0, captions), folder(tmp_path / "made", 0.05, captions)
    found = evaluate(made, real, judge, tmp_path / "results.json", protocol="embedded")
    recalls = [f"{direction}_{k}" for direction in ("audio_to_text", "text_to_audio") for k in (1, 5, 10)]
    assert list(found["metrics"]) == ["fad", "kad", "kld", "clap", "chroma", *recalls]
    ours, theirs = (np.concatenate(windows(judge, path)) for path in (real, made))
    distances = [np.linalg.norm(a - b) for place, a in enumerate(ours) for b in ours[:place]]
    kad, bandwidth = found["metrics"]["kad"], sorted(distances)[(len(distances) - 1) // 2]
    assert kad["bandwidth"] == pytest.approx(bandwidth, rel=1e-4)
    assert kad["value"] == pytest.approx(slow_kad(ours, theirs, bandwidth), rel=1e-3)
    assert kad["low"] <= kad["value"] <= kad["high"]
    assert len(kad["without"]) == 6
    audio = torch.stack([torch.from_numpy(some.mean(0)) for some in windows(judge, made)])[:5]
    text = load_judge(judge).embed_text(captions[:5])
    hits = dict(zip(("audio_to_text_1", "text_to_audio_1"), slow_hits(audio, text, captions[:5], 1), strict=True))
    for key, some in hits.items():
        score = found["metrics"][key]
        assert [clip[key] for clip in found["clips"]] == [*map(float, some), None]
        assert score["value"] == pytest.approx(np.mean(some))
        assert score["low"] <= score["value"] <= score["high"]
        assert score["note"] == "5 of 6 clips"
    assert found["metrics"]["audio_to_text_5"]["interval"] == "the 5 nearest of 4 are always all of them"
    assert found["metrics"]["text_to_audio_10"]["interval"] == "the 10 nearest of 5 are always all of them"
    for row in ("shuffled", "noise", "reference"):
        assert "audio_to_text_1" in found["context"][row]
    assert abs(found["context"]["reference"]["kad"]["value"]) < found["context"]["noise"]["kad"]["value"]


def test_what_was_requested_is_shown_everywhere(tmp_path, judge, capsys):
    real = folder(tmp_path / "real", 0.0)
    paths = []
    for name, level in (("bad", 0.5), ("good", 0.01)):
        evaluate(folder(tmp_path / name, level), real, judge, tmp_path / f"{name}.json", protocol="embedded")
        paths.append(tmp_path / f"{name}.json")
    results = read_results(paths)
    found = {one.metric: one for one in differences(results)}
    assert list(found) == [metric.key for metric in METRICS]
    assert found["kad"].difference.value < 0
    assert found["audio_to_text_1"].n == 6
    page = write_report(paths, tmp_path / "report.html", clips=2).read_text(encoding="utf-8")
    for text in ("KAD", "Caption R@1", "Clip R@10", "--protocol embedded"):
        assert text in page
    tables = scores_table([one.data for one in results]).renderables
    assert [len(table.columns) - 2 for table in tables] == [4, 4, 3]
    without = evaluate(folder(tmp_path / "plain", 0.1), real, judge, tmp_path / "plain.json")
    (table,) = scores_table([without]).renderables
    assert len(table.columns) == 2 + 4
    assert not any("KAD" in line or "R@" in line for line in failures_text(without))
    (tmp_path / "good" / "clip3.wav").unlink()
    evaluate(tmp_path / "good", real, judge, paths[1], protocol="embedded")
    found = {one.metric: one.reason for one in differences(read_results(paths))}
    assert found["kad"] == found["fad"] == found["text_to_audio_5"] == "needs the same clips"


def test_few_tracks_have_no_interval(tmp_path, judge):
    names = IDS[:2]
    clips = {name: sine(60 + 5 * k) for k, name in enumerate(names)}
    real = write_clips(tmp_path / "real", clips)
    found = evaluate(real, real, judge, tmp_path / "results.json", protocol="embedded")
    assert found["metrics"]["kad"]["low"] is None
    assert "at least 4 tracks, not 2" in found["metrics"]["kad"]["interval"]
    assert "at least 4 tracks, not 2" in found["metrics"]["text_to_audio_1"]["interval"]
    one = write_clips(tmp_path / "one", {"clip0": sine(60)})
    found = evaluate(one, one, judge, tmp_path / "results.json", protocol="embedded")
    assert "at least 2 are needed" in found["metrics"]["kad"]["interval"]
    same = write_clips(tmp_path / "same", dict.fromkeys(IDS, torch.zeros(1, 2 * RATE)))
    found = evaluate(same, same, judge, tmp_path / "results.json", protocol="embedded")
    assert "bandwidth above 0" in found["metrics"]["kad"]["interval"]


def test_retrieval_counts_ties_against_the_clip():
    alike = torch.ones(4, 3)
    for hits in retrieval_hits(alike, alike, list("abcd"), 3):
        assert not hits.any()
    for hits in retrieval_hits(alike, alike, list("abcd"), 4):
        assert hits.all()
    for hits in retrieval_hits(alike, alike, list("aaaa"), 1):
        assert hits.all()
    generator = torch.Generator().manual_seed(0)
    audio, text = torch.randn(30, 8, generator=generator), torch.randn(30, 8, generator=generator)
    captions = [f"caption {row % 11}" for row in range(30)]
    for k in (1, 5):
        hits = retrieval_hits(audio, text, captions, k)
        assert [one.tolist() for one in hits] == [*map(list, slow_hits(audio, text, captions, k))]
        assert retrieval_recall(audio, text, captions, k=k) == pytest.approx(float(hits[0].double().mean()))


# ---- statistics ----------------------------------------------------------------------------------------------------
def test_fad_is_taken_to_statistics(tmp_path, judge):
    real, made, other = (
        folder(tmp_path / name, level) for name, level in (("real", 0.0), ("made", 0.1), ("other", 0.3))
    )
    mine, theirs = (np.concatenate(windows(judge, path)) for path in (made, other))
    gaussian = theirs.mean(0), np.cov(theirs, rowvar=False)
    write_statistics(tmp_path / "other.npz", *gaussian, len(theirs), load_judge(judge), "noisy sines")
    np.savez(tmp_path / "fadtk.npz", **{"embedded.mu": gaussian[0], "embedded.cov": gaussian[1]})
    wanted = frechet_distance(*gaussian, mine.mean(0), np.cov(mine, rowvar=False))
    for given in ("other.npz", "fadtk.npz:embedded"):
        given = str(tmp_path / given)
        found = evaluate(made, real, judge, tmp_path / "results.json", reference_statistics=given)
        fad = found["metrics"]["fad"]
        assert fad["value"] == pytest.approx(wanted, rel=1e-4)
        assert fad["low"] <= fad["value"] <= fad["high"]
        assert fad["infinity"]["value"] is not None
        own = windows(judge, made)[2]
        assert found["clips"][2]["fad_of_clip"] == pytest.approx(ReferenceGaussian(*gaussian).distance(own), rel=1e-3)
        said = found["protocol"]["statistics"]
        assert said["source"] == given
        assert len(said["sha256"]) == 64
        row = found["context"]["reference"]
        assert row["fad"]["value"] != pytest.approx(wanted)
        assert "FAD to the statistics" in row["meaning"]
    plain = evaluate(made, real, judge, tmp_path / "plain.json")
    assert plain["metrics"]["kld"] == found["metrics"]["kld"]
    assert plain["metrics"]["fad"]["value"] != pytest.approx(wanted)
    data = json.loads((tmp_path / "plain.json").read_text()) | {"system": {"name": "plain"}}
    (tmp_path / "plain.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"different protocols: statistics"):
        read_results([tmp_path / "results.json", tmp_path / "plain.json"])
    page = write_report([tmp_path / "results.json"], tmp_path / "report.html", clips=1).read_text(encoding="utf-8")
    assert f"--reference_statistics {given}" in page


def test_statistics_of_another_network_are_refused(tmp_path, judge):
    real = folder(tmp_path / "real", 0.0)
    out = tmp_path / "results.json"
    write_statistics(
        tmp_path / "own.npz", np.zeros(16), np.eye(16), 9, load_judge(random_judge(tmp_path / "else", seed=1)), "sines"
    )
    shapes = {
        "embedded.mu": np.zeros(3),
        "embedded.cov": np.eye(3),
        "vggish.mu": np.zeros(16),
        "vggish.cov": np.eye(16),
    }
    np.savez(tmp_path / "fadtk.npz", **shapes)
    for given, said in (
        ("own.npz", "checksum of judge 'embedded' was"),
        ("fadtk.npz:embedded", r"have 3 dimensions, those of judge embedded 16"),
        ("fadtk.npz:vggish", "vggish is no embedded, the judge of FAD"),
        ("fadtk.npz:clap", "no statistics of model 'clap'; it has embedded, vggish"),
        ("fadtk.npz", "it is fadtk's, with embedded, vggish"),
        ("gone.npz", "there is no such file"),
    ):
        with pytest.raises(InputError, match=said):
            evaluate(real, real, judge, out, reference_statistics=str(tmp_path / given))
    assert not out.exists()


def test_the_command_takes_statistics(tmp_path, judge, capsys):
    real = folder(tmp_path / "real", 0.1)
    write_statistics(tmp_path / "s.npz", np.zeros(16), np.eye(16), 9, load_judge(judge), "nothing")
    given = ["evaluate", "--generated", str(real), "--reference", str(real), "--out", str(tmp_path / "r.json")]
    main([*given, "--judge", str(judge), "--reference_statistics", str(tmp_path / "s.npz")])
    assert json.loads((tmp_path / "r.json").read_text())["protocol"]["statistics"]["of"] == "nothing"
    assert "9 embeddings of 16 dimensions make FAD far too high" in capsys.readouterr().out


# ---- PaSST ---------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore")
def test_passt_of_twenty_seconds_hears_them_at_once(tmp_path):
    package = importlib.import_module("hear21passt.models.passt")
    shape = {"embed_dim": 64, "depth": 1, "num_heads": 1, "num_classes": 20, "distilled": True}
    with torch.random.fork_rng(), redirect_stdout(StringIO()):
        torch.manual_seed(0)
        network = judge_weights.alive(package.PaSST(img_size=(128, 2000), stride=(10, 10), **shape))
    torch.save(network.state_dict(), tmp_path / "passt.pt")
    mel = importlib.import_module("hear21passt.models.preprocess").AugmentMelSTFT(
        n_mels=128, sr=32_000, win_length=800, hopsize=320, n_fft=1024, freqm=48, timem=192, htk=False, fmin=0.0,
        fmax=None, norm=1, fmin_aug_range=10, fmax_aug_range=2000,
    )  # fmt: skip
    for kind in ("passt", "passt-20s"):
        judge = resolve_judge(f"{kind}:{tmp_path / 'passt.pt'}")
        assert (judge.name, judge.window, judge.hop) == ("passt", 20, 20)
    clip = 0.1 * torch.randn(1, 1, 25 * 32_000, generator=torch.Generator().manual_seed(0))
    heard = judge.embed_audio(clip, torch.tensor([clip.shape[-1]]))
    assert heard.window_logits.shape == (1, 2, 20)
    with torch.no_grad():
        wanted, _ = network(mel.eval()(clip[0, :, : 20 * 32_000])[:, None])
    torch.testing.assert_close(heard.window_logits[0, :1], wanted, atol=1e-4, rtol=1e-4)


def test_every_window_has_its_own_class_scores(judge):
    network = load_judge(judge)
    clips = [0.1 * torch.randn(length, generator=torch.Generator().manual_seed(length)) for length in (16_000, 30_000)]
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)[:, None]
    heard = network.embed_audio(padded, torch.tensor([16_000, 30_000]))
    assert heard.window_logits.shape[:2] == heard.mask.shape
    assert not heard.window_logits[~heard.mask].any()
    for row, clip in enumerate(clips):
        alone = network.embed_audio(clip[None, None], torch.tensor([len(clip)]))
        torch.testing.assert_close(heard.window_logits[row][heard.mask[row]], alone.window_logits[0])
        torch.testing.assert_close(heard.logits[row], alone.window_logits[0].mean(0))


def test_files_of_the_package_are_installed_with_it():
    setup = (PROTOCOLS.parents[1] / "setup.cfg").read_text()
    assert "protocols/*.yaml" in setup
    assert all(isinstance(yaml.safe_load(path.read_text()), dict) for path in PROTOCOLS.iterdir())
