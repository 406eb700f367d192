"""From folders of clips to results.json."""

import json
import math

import judge_weights
import numpy as np
import pytest
import torch
from evaluation_clips import CAPTIONS, IDS, RATE, noisy, random_judge, sine, write_clips

from datamodules.audio_io import read_audio, write_audio
from datamodules.errors import InputError
from datamodules.manifest import read_manifest, write_manifest
from datamodules.sample_order import derived_seed
from evaluation import ears
from evaluation.compare import differences, read_results
from evaluation.fad import ReferenceGaussian, frechet_distance
from evaluation.fad_infinity import fad_infinity
from evaluation.judges import resolve_judge
from evaluation.judges.embedded import load_judge
from evaluation.kld import kl_divergence
from evaluation.runner import evaluate
from evaluation.tables import failures_text
from experiments.__main__ import main

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def reference(tmp_path):
    return write_clips(tmp_path / "reference", {name: sine(60 + 2 * k, 3.0) for k, name in enumerate(IDS)})


def test_results_have_the_promised_shape(tmp_path, judge, reference):
    generated = write_clips(tmp_path / "generated", noisy(0.05))
    (generated / "system.json").write_text(json.dumps({"name": "nano", "parameters": {"lm": 5}}))
    out = tmp_path / "deep" / "results.json"
    returned = evaluate(generated, reference, judge, out, seed=3)
    found = json.loads(out.read_text())
    assert found == json.loads(json.dumps(returned))
    assert found["system"] == {"name": "nano", "parameters": {"lm": 5}}
    assert found["n"] == 6
    assert found["failed"] == []
    assert list(found["metrics"]) == ["fad", "kld", "clap", "chroma"]
    for score in found["metrics"].values():
        assert score["low"] <= score["value"] <= score["high"]
    protocol = found["protocol"]
    for metric in ("fad", "kld", "clap"):
        assert protocol["judges"][metric]["checksum"] == load_judge(judge).checksum
        assert protocol["judges"][metric]["sample_rate"] == RATE
    assert protocol["kld"]["direction"] == "reference_to_generated"
    assert (protocol["n"], protocol["seed"]) == (6, 3)
    assert set(found["context"]) == {"reference", "shuffled", "noise"}
    for clip in found["clips"]:
        assert (out.parent / clip["generated"]).samefile(generated / f"{clip['id']}.wav")
        assert (out.parent / clip["reference"]).samefile(reference / f"{clip['id']}.wav")
        assert {"caption", "kld", "clap", "chroma", "fad_of_clip", "seconds"} <= set(clip)
    assert [clip["caption"] for clip in found["clips"]] == list(CAPTIONS)
    assert np.mean([clip["kld"] for clip in found["clips"]]) == pytest.approx(found["metrics"]["kld"]["value"])
    assert not list(out.parent.glob("*.partial"))


def test_numbers_equal_what_the_judge_says_clip_by_clip(tmp_path, judge, reference):
    generated = write_clips(tmp_path / "generated", noisy(0.05))
    found = evaluate(generated, reference, judge, tmp_path / "results.json")
    network = load_judge(judge)
    for clip in found["clips"]:
        sounds = []
        for folder in (generated, reference):
            wav = read_audio(folder / f"{clip['id']}.wav", sample_rate=RATE, duration=2.0)
            sounds.append(network.embed_audio(wav[None], torch.tensor([wav.shape[-1]])))
        assert clip["kld"] == pytest.approx(float(kl_divergence(sounds[0].logits, sounds[1].logits)), abs=1e-5)
        text = network.embed_text([clip["caption"]])
        cosine = torch.nn.functional.cosine_similarity(sounds[0].clips(), text)
        assert clip["clap"] == pytest.approx(float(cosine), abs=1e-5)


def test_a_copy_of_the_references_is_perfect_and_noise_is_worse(tmp_path, judge, reference):
    scores = []
    for level in (0.0, 0.02, 0.5):
        folder = write_clips(tmp_path / f"g{level}", noisy(level))
        scores.append(evaluate(folder, reference, judge, tmp_path / f"{level}.json")["metrics"])
    for metric, sign in (("fad", 1), ("kld", 1), ("chroma", -1)):
        values = [sign * score[metric]["value"] for score in scores]
        assert values[0] <= values[1] <= values[2]
    assert scores[0]["fad"]["value"] < scores[1]["fad"]["value"] < scores[2]["fad"]["value"]
    assert scores[0]["fad"]["value"] < 1e-6
    assert scores[0]["chroma"]["value"] == 1


def test_each_metric_may_have_a_judge_of_its_own(tmp_path, judge, reference):
    """The paper's: VGGish for FAD, PaSST for KL, CLAP for the captions, of three rates."""
    named = {
        "fad": f"vggish:{judge_weights.vggish_file(tmp_path / 'vggish.pth')}",
        "kld": f"passt:{judge_weights.passt_file(tmp_path / 'passt.pt')}",
        "clap": f"clap:{judge_weights.clap_folder(tmp_path / 'clap')}",
    }
    generated = write_clips(tmp_path / "generated", noisy(0.05))
    found = evaluate(generated, reference, named, tmp_path / "results.json")
    assert [one["name"] for one in found["protocol"]["judges"].values()] == ["vggish", "passt", "clap:clap"]
    assert all(score["value"] is not None for score in found["metrics"].values())
    judges = {metric: resolve_judge(name) for metric, name in named.items()}
    for clip in found["clips"][:2]:
        heard = {}
        for metric in ("kld", "clap"):
            rate = judges[metric].sample_rate
            waves = [
                read_audio(f / f"{clip['id']}.wav", sample_rate=rate, duration=2.0) for f in (generated, reference)
            ]
            heard[metric] = [judges[metric].embed_audio(wav[None], torch.tensor([wav.shape[-1]])) for wav in waves]
        made, real = (one.logits for one in heard["kld"])
        assert clip["kld"] == pytest.approx(float(kl_divergence(made, real)), abs=1e-4)
        text = judges["clap"].embed_text([clip["caption"]])
        cosine = torch.nn.functional.cosine_similarity(heard["clap"][0].clips(), text)
        assert clip["clap"] == pytest.approx(float(cosine), abs=1e-4)
    embedded = evaluate(generated, reference, judge, tmp_path / "embedded.json")
    assert embedded["metrics"]["chroma"] == found["metrics"]["chroma"]
    assert embedded["metrics"]["fad"]["value"] != found["metrics"]["fad"]["value"]
    with pytest.raises(InputError, match="vggish gives embeddings, and kld needs logits"):
        evaluate(generated, reference, named["fad"], tmp_path / "no.json")
    with pytest.raises(InputError, match="'chroma' is unknown; name one judge, or one each for fad, kld and clap"):
        evaluate(generated, reference, {"chroma": str(judge)}, tmp_path / "no.json")


def test_nothing_is_heard_twice(tmp_path, judge, reference, cache, monkeypatch):
    generated = write_clips(tmp_path / "generated", noisy(0.05))
    heard = []

    def listening(self, waves, hear=ears.JudgeEar.hear):
        heard.append(len(waves))
        return hear(self, waves)

    monkeypatch.setattr(ears.JudgeEar, "hear", listening)
    before = {file: file.read_bytes() for folder in (generated, reference) for file in folder.iterdir()}
    first = evaluate(generated, reference, judge, tmp_path / "a.json")
    noises = len({derived_seed(name) % 16 for name in IDS})  # of which there are 16 kinds
    assert heard == [12 + noises]  # clips and references
    assert evaluate(generated, reference, judge, tmp_path / "b.json") == first
    assert heard == [12 + noises]
    assert before == {file: file.read_bytes() for folder in (generated, reference) for file in folder.iterdir()}
    # Another clip under an old name, another judge, another seed of the noise, a file that was cut short.
    (generated / "clip1.wav").write_bytes((generated / "clip2.wav").read_bytes())
    assert evaluate(generated, reference, judge, tmp_path / "c.json")["clips"][1] != first["clips"][1]
    assert heard == [12 + noises]  # the bytes were heard under the other name
    evaluate(generated, reference, random_judge(tmp_path / "other", seed=1), tmp_path / "d.json")
    assert heard == [12 + noises, 11 + noises]  # two clips are one
    evaluate(generated, reference, judge, tmp_path / "e.json", seed=1)
    assert heard == [12 + noises, 11 + noises, noises]
    for file in cache.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    again = evaluate(generated, reference, judge, tmp_path / "f.json")
    assert heard == [12 + noises, 11 + noises, noises, 11 + noises]
    assert again["clips"] == json.loads((tmp_path / "c.json").read_text())["clips"]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, judge, reference, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MGL_CACHE", str(tmp_path / "file"))
    generated = write_clips(tmp_path / "generated", noisy(0.05))
    assert evaluate(generated, reference, judge, tmp_path / "results.json")["n"] == 6


def test_pairs_are_made_by_id(tmp_path, judge, reference):
    clips = noisy(0.0)
    forward = write_clips(tmp_path / "forward", clips)
    captions = dict(zip(IDS, CAPTIONS, strict=True))
    backward = write_clips(tmp_path / "backward", dict(reversed(clips.items())), captions)
    results = [evaluate(folder, reference, judge, tmp_path / f"{folder.name}.json") for folder in (forward, backward)]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["clips"][0]["id"] == results[1]["clips"][0]["id"] == "clip0"
    assert results[1]["metrics"]["chroma"]["value"] == 1


def test_clips_that_cannot_be_heard_are_listed(tmp_path, judge, reference):
    clips = noisy(0.0)
    clips["stranger"] = sine(60)
    clips["clip1"] = clips["clip1"][:, :100]
    generated = write_clips(tmp_path / "generated", clips)
    (generated / "clip2.wav").unlink()
    (generated / "clip3.wav").write_bytes(b"not audio")
    import soundfile

    soundfile.write(generated / "clip4.wav", np.full(RATE, np.nan, dtype="float32"), RATE, subtype="FLOAT")
    found = evaluate(generated, reference, judge, tmp_path / "results.json")
    reasons = {one["id"]: one["reason"] for one in found["failed"]}
    assert sorted(reasons) == ["clip1", "clip2", "clip3", "clip4", "stranger"]
    assert "too short" in reasons["clip1"]
    assert "no such audio file" in reasons["clip2"]
    assert "not readable as audio" in reasons["clip3"]
    assert "not finite" in reasons["clip4"]
    assert "no reference" in reasons["stranger"]
    assert found["n"] == 2
    assert found["metrics"]["fad"]["value"] is not None
    assert found["metrics"]["fad"]["low"] is None
    assert "at least 4 tracks" in found["metrics"]["kld"]["interval"]


def test_fad_is_extrapolated_where_there_are_windows_enough(tmp_path, reference, capsys):
    judge = random_judge(tmp_path / "judge", window_frames=16, hop_frames=4)
    clips = {f"{name}-{k}": wav for name, wav in noisy(0.1).items() for k in range(2)}
    real = write_clips(tmp_path / "real", {name: noisy(0.0)[name[:5]] for name in clips})
    found = evaluate(write_clips(tmp_path / "made", clips), real, judge, tmp_path / "results.json", seed=1)
    fad, network = found["metrics"]["fad"], load_judge(judge)
    heard = {}
    for side in ("made", "real"):
        waves = [read_audio(tmp_path / side / f"{name}.wav", sample_rate=RATE)[0] for name in clips]
        sounds = network.embed_audio(torch.stack(waves)[:, None], torch.tensor([len(wave) for wave in waves]))
        heard[side] = [window.double().numpy() for window in sounds.windows()]
    windows = np.concatenate(heard["real"])
    gaussian = ReferenceGaussian(windows.mean(0), np.cov(windows, rowvar=False))
    owners = [name for name, own in zip(clips, heard["made"], strict=True) for _ in own]
    wanted = fad_infinity(gaussian, np.concatenate(heard["made"]), owners, seed=1)
    assert fad["infinity"]["value"] == pytest.approx(wanted.value, rel=1e-4, abs=1e-6)
    assert fad["infinity"]["low"] <= fad["infinity"]["value"] <= fad["infinity"]["high"]
    for clip, own in zip(found["clips"], heard["made"], strict=True):
        covariances = np.cov(windows, rowvar=False), np.cov(own, rowvar=False)
        alone = frechet_distance(windows.mean(0), covariances[0], own.mean(0), covariances[1])
        assert clip["fad_of_clip"] == pytest.approx(alone, rel=1e-4)
    (line,) = [line for line in failures_text(found) if "extrapolated" in line]
    assert f"R2 {wanted.r2:.2f}" in line


def test_few_windows_are_warned_of(tmp_path, judge, reference):
    found = evaluate(write_clips(tmp_path / "generated", noisy(0.05)), reference, judge, tmp_path / "results.json")
    fad = found["metrics"]["fad"]
    assert "too high" in fad["note"]
    assert fad["infinity"]["value"] is None
    assert "at least 32 embeddings" in fad["infinity"]["interval"]


def test_the_command_fails_with_a_clip_that_failed_unless_that_is_allowed(tmp_path, judge, reference, capsys):
    generated = write_clips(tmp_path / "generated", noisy(0.05))
    out = tmp_path / "results.json"
    given = ["evaluate", "--generated", str(generated), "--reference", str(reference), "--out", str(out)]
    main([*given, "--judge", f"{{fad: {judge}, kld: {judge}, clap: {judge}}}"])
    assert json.loads(out.read_text())["protocol"]["judges"]["kld"]["source"] == str(judge)
    (generated / "clip2.wav").write_bytes(b"not audio")
    out.unlink()
    with pytest.raises(SystemExit) as stopped:
        main([*given, "--judge", str(judge)])
    assert stopped.value.code == 1
    assert "1 of 6 clips could not be scored" in capsys.readouterr().err
    assert json.loads(out.read_text())["n"] == 5
    main([*given, "--judge", str(judge), "--allow_failed", "true"])


def test_one_clip_has_no_fad_but_the_rest(tmp_path, judge, reference):
    generated = write_clips(tmp_path / "generated", {"clip0": sine(60)})
    found = evaluate(generated, reference, judge, tmp_path / "results.json")
    fad = found["metrics"]["fad"]
    assert (fad["value"], fad["low"], fad["high"]) == (None, None, None)
    assert "at least 2" in fad["interval"]
    assert found["metrics"]["chroma"]["value"] == 1
    assert found["not_generated"] == 5


def test_clips_without_captions_have_no_clap_score(tmp_path, judge):
    empty = dict.fromkeys(IDS, "")
    clips = noisy(0.0)
    reference = write_clips(tmp_path / "reference", clips, empty)
    found = evaluate(write_clips(tmp_path / "a", clips, empty), reference, judge, tmp_path / "results.json")
    assert found["metrics"]["clap"]["value"] is None
    assert "caption" in found["metrics"]["clap"]["interval"]
    assert found["metrics"]["kld"]["value"] is not None
    some = write_clips(tmp_path / "b", clips, {**empty, "clip0": "flute", "clip1": "drums"})
    assert evaluate(some, reference, judge, tmp_path / "results.json")["metrics"]["clap"]["note"] == "2 of 6 clips"


def test_what_cannot_be_evaluated_is_refused(tmp_path, judge, reference):
    out = tmp_path / "results.json"
    other = write_clips(tmp_path / "other", {"x": sine(60), "y": sine(62)})
    with pytest.raises(InputError, match=r"no id .*\(2 clips.*\(6"):
        evaluate(other, reference, judge, out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no such manifest"):
        evaluate(tmp_path / "empty", reference, judge, out)
    (tmp_path / "empty" / "manifest.jsonl").touch()
    with pytest.raises(InputError, match="no tracks"):
        evaluate(tmp_path / "empty", reference, judge, out)
    with pytest.raises(InputError, match=r"no config\.yaml"):
        evaluate(reference, reference, tmp_path / "nothing", out)
    broken = write_clips(tmp_path / "broken", {"clip0": sine(60)})
    (broken / "clip0.wav").write_bytes(b"")
    with pytest.raises(InputError, match="none of 1 pairs"):
        evaluate(broken, reference, judge, out)
    (other / "system.json").write_text("[1]")
    with pytest.raises(InputError, match="JSON object"):
        evaluate(other, other, judge, out)
    assert not out.exists()


def test_systems_are_compared_on_the_same_clips(tmp_path, judge, reference):
    paths = []
    for name, level in (("bad", 0.5), ("good", 0.01)):
        folder = write_clips(tmp_path / name, noisy(level))
        evaluate(folder, reference, judge, tmp_path / f"{name}.json")
        paths.append(tmp_path / f"{name}.json")
    found = {one.metric: one for one in differences(read_results(paths))}
    assert found["fad"].first == "good"
    assert found["fad"].difference.value < 0
    assert found["chroma"].difference.value >= 0
    assert found["kld"].n == 6


def test_different_protocols_are_refused(tmp_path, judge, reference):
    folder = write_clips(tmp_path / "generated", noisy(0.1))
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    evaluate(folder, reference, judge, paths[0])
    evaluate(folder, reference, random_judge(tmp_path / "else", seed=1), paths[1])
    with pytest.raises(InputError, match=r"judges\.clap\.checksum"):
        read_results(paths)
    with pytest.raises(InputError, match="two systems"):
        read_results([paths[0], paths[0]])
    with pytest.raises(InputError, match="no such results"):
        read_results([tmp_path / "c.json"])
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(InputError, match="missing"):
        read_results([tmp_path / "c.json"])
    with pytest.raises(InputError, match="nothing"):
        read_results([])


def test_the_same_seed_gives_the_same_file(tmp_path, judge, reference):
    folder = write_clips(tmp_path / "generated", noisy(0.1))
    for name in "ab":
        evaluate(folder, reference, judge, tmp_path / f"{name}.json", seed=5)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_other_sample_rates_are_resampled(tmp_path, judge, reference):
    folder = tmp_path / "generated"
    folder.mkdir()
    tracks = []
    for track in read_manifest(reference):
        path = folder / f"{track.id}.wav"
        pitch = 60 + 2 * int(track.id[-1])
        write_audio(path, sine(pitch, 2.0, rate=44_100), 44_100)
        tracks.append(type(track)(track.id, path, 2.0, 44_100, track.caption))
    write_manifest(folder / "manifest.jsonl", tracks)
    found = evaluate(folder, reference, judge, tmp_path / "results.json")
    assert found["metrics"]["chroma"]["value"] > 0.9
    assert math.isclose(found["clips"][0]["seconds"], 2.0, abs_tol=0.01)


def test_the_command_prints_what_ran_and_what_did_not(tmp_path, judge, reference, capsys):
    from experiments.commands.evaluate import evaluate as command

    generated = write_clips(tmp_path / "generated", {"clip0": sine(60), "stranger": sine(61)})
    command(str(generated), str(reference), str(judge), str(tmp_path / "results.json"), allow_failed=True)
    printed = capsys.readouterr().out
    assert "FAD: not computed: sets of clips are compared" in printed
    assert "KL: no interval: an interval needs at least 4 tracks, not 1" in printed
    assert "stranger: left out: no reference has this id" in printed
    assert "5 references have no generated clip" in printed
    assert "White noise" in printed


def test_clips_of_one_track_are_one_draw(tmp_path, judge):
    clips = noisy(0.1)
    folders = {}
    for name, tracks in (("cut", ["a", "a", "b", "b", "c", "c"]), ("apart", IDS)):
        folders[name] = write_clips(tmp_path / name, clips)
        lines = [json.loads(line) for line in (folders[name] / "manifest.jsonl").read_text().splitlines()]
        lines = [json.dumps({**line, "track": track}) for line, track in zip(lines, tracks, strict=True)]
        (folders[name] / "manifest.jsonl").write_text("\n".join(lines))
    cut = evaluate(folders["apart"], folders["cut"], judge, tmp_path / "cut.json")
    assert cut["protocol"]["tracks"] == 3
    assert "at least 4 tracks, not 3" in cut["metrics"]["clap"]["interval"]
    assert [clip["track"] for clip in cut["clips"]] == ["a", "a", "b", "b", "c", "c"]
    apart = evaluate(folders["apart"], folders["apart"], judge, tmp_path / "apart.json")
    assert apart["metrics"]["clap"]["low"] is not None


def test_shuffled_references_never_come_from_their_own_track():
    from evaluation.scores import _others

    tracks = ["a", "b", "a", "c", "a", "c"]
    others = _others([f"{track}{place}" for place, track in enumerate(tracks)], tracks, ["c", "a", "b"])
    assert all(other[0] == {"c": "a", "a": "b", "b": "c"}[track] for other, track in zip(others, tracks, strict=True))
