"""Protocols: what the files say, what is refused, and that two of them never share a column."""

import json
from dataclasses import asdict

import pytest
import torch
import yaml
from evaluation_clips import RATE, sine, write_clips

from datamodules.audio_io import write_audio
from datamodules.errors import InputError
from datamodules.eval_sets.record import SetRecord
from datamodules.sample_order import derived_seed
from evaluation import ears
from evaluation.compare import differences, read_results
from evaluation.protocol import PROTOCOLS, Level, load_protocol
from evaluation.report import write_report
from evaluation.runner import evaluate
from evaluation.tables import failures_text
from experiments.__main__ import main

IDS = [f"clip{index}" for index in range(6)]


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def reference(tmp_path):
    return write_clips(tmp_path / "reference", {name: sine(60 + 2 * k) for k, name in enumerate(IDS)})


@pytest.fixture
def generated(tmp_path):
    generator = torch.Generator().manual_seed(1)
    clips = {
        name: sine(60 + 2 * k) + 0.05 * torch.randn(1, 2 * RATE, generator=generator) for k, name in enumerate(IDS)
    }
    return write_clips(tmp_path / "generated", clips)


def changed(path, base="default", **changes):
    """A copy of a protocol with other values: {"kld.average": ...}; a key that is None in the copy becomes null."""
    content = yaml.safe_load((PROTOCOLS / f"{base}.yaml").read_text())
    for key, value in changes.items():
        *outer, last = key.split("__")
        place = content
        for name in outer:
            place = place[name]
        place[last] = value
    path.write_text(yaml.safe_dump(content))
    return path


# ---- files ---------------------------------------------------------------------------------------------------------
def test_every_choice_of_the_package_is_in_its_file():
    paper, stable = load_protocol("musicgen-paper").choices, load_protocol("stable-audio-metrics").choices
    assert paper.heard == "shorter"
    assert paper.kld.generated == paper.clap.generated == paper.chroma.generated == Level(loudness=-14)
    assert paper.kld.reference == paper.chroma.reference == Level()
    assert paper.fad.reference == Level(peak=0, peak_of="positive")
    assert asdict(paper.kld.segments) == {"window": 20, "hop": 20, "shortest": 0.15, "pad_from": None}
    assert (paper.kld.average, paper.kld.direction) == ("softmax_per_segment", "reference_to_generated")
    assert (paper.chroma.silent, paper.chroma.average, paper.chroma.source) == ("class 0", "frame", "full mix")
    assert load_protocol("musicgen-paper").judges == {"fad": "vggish", "kld": "passt-20s", "clap": "clap"}
    assert stable.fad is stable.chroma is None
    assert stable.kld.generated == stable.kld.reference == stable.clap.generated == Level(peak=-1)
    assert asdict(stable.kld.segments) == {"window": 10, "hop": 5, "shortest": 0, "pad_from": 1.5}
    assert (stable.kld.average, stable.kld.direction) == ("logits_mean", "generated_to_reference")
    assert (
        set(load_protocol("default").judges.values()) == set(load_protocol("embedded").judges.values()) == {"embedded"}
    )
    assert not load_protocol("default").choices.fad.kad
    assert load_protocol("embedded").choices.clap.retrieval == (1, 5, 10)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kld__average": "max"}, r"kld\.average is 'max'; use logits_mean or softmax_per_segment"),
        ({"kld__epsilon": "1e-6"}, r"kld\.epsilon is '1e-6'; give a number \(1\.0e-6"),
        ({"kld__epsilon": 0}, r"kld: epsilon is 0\.0"),
        ({"kld__temperature": 2}, r"kld\.temperature is unknown; there are judge"),
        ({"music": 1}, r"music is unknown; there are heard"),
        ({"fad__kad": 1}, r"fad\.kad is 1; give a true or false"),
        ({"fad__judge": 3}, r"fad\.judge is 3; give a word"),
        ({"fad__generated": {"loud": 1}}, r"fad\.generated\.loud is unknown; there are loudness"),
        ({"fad__generated": {"peak": 3}}, r"fad\.generated: peak is 3\.0 dB, above full scale"),
        ({"fad__generated": -14}, r"fad\.generated is -14; give loudness, peak"),
        ({"fad__segments": {"window": 1, "hop": 1}}, r"fad\.segments\.shortest is missing"),
        (
            {"fad__segments": {"window": 1, "hop": 2, "shortest": 0, "pad_from": None}},
            r"fad\.segments: .*hop <= window",
        ),
        ({"fad__segments": {"window": 1, "hop": 1, "shortest": 3, "pad_from": None}}, r"fad\.segments: shortest and"),
        ({"clap__retrieval": 5}, r"clap\.retrieval is 5; give a list"),
        ({"clap__retrieval": [5, 1]}, r"clap: retrieval is \[5, 1\]; give rising numbers of \[1, 5, 10\]"),
        ({"clap__retrieval": [2]}, r"clap: retrieval is \[2\]"),
        ({"clap__retrieval": [True]}, r"clap\.retrieval is True; give a whole number"),
        ({"chroma__sample_rate": 0}, r"chroma: sample_rate is 0"),
        ({"chroma__silent": None}, r"chroma\.silent is None; use left out or class 0"),
        (dict.fromkeys(("fad", "kld", "clap", "chroma")), "every metric is left out"),
        ({"heard": float("nan")}, "heard is nan"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, changes, said):
    path = changed(tmp_path / "mine.yaml", **changes)
    with pytest.raises(InputError, match=rf"mine\.yaml: {said}") as refused:
        load_protocol(path)
    assert "\n" not in str(refused.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no protocol 'paper'; use default, embedded, musicgen-paper, stable-audio"):
        load_protocol("paper")
    with pytest.raises(InputError, match=r"gone\.yaml: there is no such protocol"):
        load_protocol(tmp_path / "gone.yaml")
    for content, said in (("a: [", "not YAML"), ("- 1", r"the file is \[1\]; give heard"), ("", "the file is None")):
        (tmp_path / "odd.yaml").write_text(content)
        with pytest.raises(InputError, match=said):
            load_protocol(tmp_path / "odd.yaml")
    (tmp_path / "short.yaml").write_text("heard: whole\n")
    with pytest.raises(InputError, match=r"short\.yaml: fad is missing"):
        load_protocol(tmp_path / "short.yaml")


# ---- results -------------------------------------------------------------------------------------------------------
def test_results_hold_the_whole_protocol(tmp_path, judge, reference, generated):
    (reference / "set.json").write_text(SetRecord("held-out", 2.0, RATE, 6, 6, None, 0, "abc").to_json())
    (generated / "clip1.wav").write_bytes((generated / "clip0.wav").read_bytes())
    (generated / "clip5.wav").write_bytes(b"broken")
    path = changed(tmp_path / "mine.yaml", kld__generated={"peak": -1})
    found = evaluate(generated, reference, judge, tmp_path / "results.json", protocol=path)
    protocol = json.loads((tmp_path / "results.json").read_text())["protocol"]
    assert (protocol["name"], protocol["source"]) == ("mine", str(path))
    assert protocol["kld"]["generated"] == {"loudness": None, "peak": -1.0, "peak_of": "magnitude"}
    assert protocol["kld"]["reference"] is None
    assert protocol["kld"]["epsilon"] == 1e-6
    assert protocol["reference"]["set"] == {"kind": "held-out", "checksum": "abc"}
    assert protocol["repeated"] == {"generated": 1, "reference": 0}
    assert (protocol["n"], protocol["failed"], protocol["statistics"]) == (5, 1, None)
    assert "1 generated files are the same as another id's; they count as clips of their own" in failures_text(found)
    assert "judge" not in protocol["kld"]


def test_what_a_protocol_leaves_out_is_said(tmp_path, judge, reference, generated):
    path = changed(tmp_path / "few.yaml", fad=None, clap=None)
    found = evaluate(generated, reference, judge, tmp_path / "results.json", protocol=path)
    assert list(found["metrics"]) == ["fad", "kld", "clap", "chroma"]
    assert found["metrics"]["fad"]["value"] is None
    assert found["metrics"]["kld"]["low"] <= found["metrics"]["kld"]["value"] <= found["metrics"]["kld"]["high"]
    assert "CLAP: not computed: the protocol few leaves it out" in failures_text(found)
    assert list(found["protocol"]["judges"]) == ["kld"]
    page = write_report([tmp_path / "results.json"], tmp_path / "report.html", clips=1).read_text(encoding="utf-8")
    assert f"--protocol {path} --judge {judge} --seed 0" in page
    assert "FAD: not computed: the protocol few leaves it out" in page
    with pytest.raises(InputError, match="the protocol leaves clap out"):
        evaluate(generated, reference, {"clap": str(judge)}, tmp_path / "no.json", protocol=path)
    with pytest.raises(InputError, match="the protocol few leaves FAD out"):
        evaluate(
            generated,
            reference,
            judge,
            tmp_path / "no.json",
            protocol=path,
            reference_statistics=str(tmp_path / "s.npz"),
        )
    only = changed(tmp_path / "only.yaml", fad=None, clap=None, kld=None)
    found = evaluate(generated, reference, None, tmp_path / "only.json", protocol=only)
    assert found["protocol"]["judges"] == {}
    write_report([tmp_path / "only.json"], tmp_path / "report.html", clips=1)


def test_different_protocols_never_share_a_column(tmp_path, judge, reference, generated):
    other = write_clips(tmp_path / "other", {name: sine(61 + 2 * k) for k, name in enumerate(IDS)})
    mine = changed(tmp_path / "mine.yaml")
    louder = changed(tmp_path / "louder.yaml", kld__generated={"loudness": -14})
    paths = [tmp_path / f"{name}.json" for name in "abc"]
    evaluate(generated, reference, judge, paths[0])
    evaluate(other, reference, judge, paths[1], protocol=mine)
    evaluate(other, reference, judge, paths[2], protocol=louder)
    assert all(one.difference is not None for one in differences(read_results(paths[:2])))  # a copy is the same
    with pytest.raises(InputError, match=r"\(default and louder\): kld\.generated\.loudness is None and -14\.0"):
        read_results([paths[0], paths[2]])


def test_the_command_takes_a_protocol(tmp_path, judge, reference, generated, capsys):
    out = tmp_path / "results.json"
    given = ["evaluate", "--generated", str(generated), "--reference", str(reference), "--out", str(out)]
    main(
        [
            *given,
            "--judge",
            str(judge),
            "--protocol",
            "stable-audio-metrics",
            "--judge",
            f"{{kld: {judge}, clap: {judge}}}",
        ]
    )
    printed = capsys.readouterr().out
    assert "protocol stable-audio-metrics" in printed
    assert "FAD: not computed: the protocol stable-audio-metrics leaves it out" in printed
    assert json.loads(out.read_text())["protocol"]["heard"] == "whole"


# ---- listening -----------------------------------------------------------------------------------------------------
def test_another_loudness_is_heard_anew(tmp_path, judge, reference, generated, monkeypatch):
    heard = []

    def listening(self, waves, hear=ears.JudgeEar.hear):
        heard.append(len(waves))
        return hear(self, waves)

    monkeypatch.setattr(ears.JudgeEar, "hear", listening)
    first = evaluate(generated, reference, judge, tmp_path / "a.json")
    noises = len({derived_seed(f"clip{number}") % 16 for number in range(6)})  # of which there are 16 kinds
    assert heard == [12 + noises]
    path = changed(tmp_path / "loud.yaml", kld__generated={"loudness": -14})
    loud = evaluate(generated, reference, judge, tmp_path / "b.json", protocol=path)
    assert heard == [12 + noises, 6 + noises]  # clips and noise; the references are as loud as before
    assert loud["metrics"]["kld"] != first["metrics"]["kld"]
    assert [loud["metrics"][name] for name in ("fad", "clap")] == [first["metrics"][name] for name in ("fad", "clap")]
    assert evaluate(generated, reference, judge, tmp_path / "c.json", protocol=path)["clips"] == loud["clips"]
    assert heard == [12 + noises, 6 + noises]
    segments = {"window": 1, "hop": 1, "shortest": 0, "pad_from": None}
    evaluate(generated, reference, judge, tmp_path / "d.json", protocol=changed(path, kld__segments=segments))
    assert heard == [12 + noises, 6 + noises, 12 + noises]


@pytest.mark.parametrize(
    ("heard", "seconds"),
    [("generated", [2, 2, 2, 3, 2, 3]), ("shorter", [2, 2, 2, 2, 2, 2]), ("whole", [2, 4, 2, 3, 2, 3])],
)
def test_how_much_of_a_pair_is_heard(tmp_path, judge, heard, seconds):
    """Of clips of 2 s and 3 s, references of 4 s and 2 s, and noise."""
    made = write_clips(tmp_path / "made", {"clip0": sine(60, 2.0), "clip1": sine(60, 3.0)})
    real = write_clips(tmp_path / "real", {"clip0": sine(64, 4.0), "clip1": sine(64, 2.0)})
    listened = []

    class Counting(ears.JudgeEar):
        def hear(self, waves):
            listened.extend(round(len(wave) / RATE) for wave in waves)
            return super().hear(waves)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluation.listening.JudgeEar", Counting)
        path = changed(tmp_path / "mine.yaml", heard=heard)
        found = evaluate(made, real, judge, tmp_path / "results.json", protocol=path)
    assert listened == seconds
    assert [clip["seconds"] for clip in found["clips"]] == [2.0, 2.0 if heard == "shorter" else 3.0]


def test_segments_too_short_for_a_judge_are_refused(tmp_path, judge, reference, generated):
    segments = {"window": 0.05, "hop": 0.05, "shortest": 0, "pad_from": None}
    path = changed(tmp_path / "mine.yaml", kld__segments=segments)
    with pytest.raises(InputError, match=r"judge embedded hears no less than 0\.064 s"):
        evaluate(generated, reference, judge, tmp_path / "results.json", protocol=path)
    path = changed(path, kld__segments={"window": 3, "hop": 3, "shortest": 2.5, "pad_from": None})
    with pytest.raises(InputError, match=r"none of 6 .* lasts 2\.000 s, too short for embedded \(at least 2\.500 s\)"):
        evaluate(generated, reference, judge, tmp_path / "results.json", protocol=path)


def test_chroma_of_stems_hears_what_is_left(tmp_path, judge, monkeypatch):
    """A separator that keeps low notes: bass and drums stand above."""
    seen = []

    def load(name, sample_rate):
        def separate(wav, lengths):
            seen.append((tuple(wav.shape), sample_rate))
            return torch.stack([sine(60, wav.shape[-1] / 32_000, rate=32_000)] * len(wav))

        assert name == "htdemucs"
        return separate

    monkeypatch.setattr(ears, "load_separator", load)
    names = ("clip0", "clip1")
    made = write_clips(tmp_path / "made", {name: sine(66) for name in names})
    real = write_clips(tmp_path / "real", {name: sine(61) for name in names})
    path = changed(tmp_path / "stems.yaml", chroma__source="stems")
    found = evaluate(made, real, judge, tmp_path / "a.json", protocol=path)
    assert found["metrics"]["chroma"]["value"] == 1
    assert seen == [((4, 1, 64_000), 32_000)]  # one clip, one reference, two pieces of noise
    assert evaluate(made, real, judge, tmp_path / "b.json")["metrics"]["chroma"]["value"] == 0
    write_audio(made / "clip0.wav", sine(61), RATE)
    assert evaluate(made, real, judge, tmp_path / "b.json")["metrics"]["chroma"]["value"] == 0.5
