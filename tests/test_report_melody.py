"""The figure of melodies: what is drawn is what was scored, and what a clip was made from is what its manifest says."""

import json
import re
from hashlib import sha256

import pytest
import torch
from evaluation_clips import random_judge, sine, write_clips

from datamodules.errors import InputError
from evaluation import report_melody
from evaluation.compare import read_results
from evaluation.report import write_report
from evaluation.report_chromagram import chromagram
from evaluation.report_melody import melody_rows
from evaluation.runner import evaluate

IDS = ["a", "deep/b", "c", "d", "e"]


def tune(*pitches):
    return torch.cat([sine(pitch, 1.0) for pitch in pitches], -1)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("melody")
    judge = random_judge(root / "judge")
    tunes = {name: tune(60 + k, 64 + k, 67 + k) for k, name in enumerate(IDS)}
    (root / "reference" / "deep").mkdir(parents=True)
    reference = write_clips(root / "reference", tunes, dict.fromkeys(IDS, "a <tune>"))
    paths = []
    for system, wrong in (("follows", 0), ("half", 1)):
        (root / system / "deep").mkdir(parents=True)
        clips = {name: tune(60 + k, 64 + wrong + k, 67 + wrong + k) for k, name in enumerate(IDS)}
        folder = write_clips(root / system, clips, dict.fromkeys(IDS, "a <tune>"))
        paths.append(root / f"{system}.json")
        evaluate(folder, reference, judge, paths[-1])
    return paths


def say(folder, facts):
    """Adds fields to the lines of a manifest."""
    path = folder / "manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, **facts.get(line["id"], {})}) + "\n" for line in lines))


def test_what_is_drawn_is_what_was_scored(results, monkeypatch):
    drawn = []

    def draw(made, real, step, index, said):
        drawn.append((made, real, step, index))
        return "<svg/>"

    monkeypatch.setattr(report_melody, "chromagram", draw)
    systems = read_results(results)
    rows = melody_rows(systems, IDS)
    assert [row["id"] for row in rows] == IDS[:3]
    panels = [one for one in drawn if one[1] is not None]
    assert len(panels) == 6
    for place, (made, real, step, index) in enumerate(panels):
        score = systems[index].clips[IDS[place // 2]]["chroma"]
        agree = [bool(x.any()) and int(x.argmax()) == int(y.argmax()) for x, y in zip(made, real, strict=True)]
        heard = real.any(-1).tolist()
        assert sum(a for a, h in zip(agree, heard, strict=True) if h) / sum(heard) == pytest.approx(score)
        assert rows[place // 2]["panels"][index]["cosine"] == f"{score:.3f}"
        assert len(made) * step == pytest.approx(3.0, abs=step)
    assert systems[0].clips["a"]["chroma"] == pytest.approx(1.0)
    assert 0.2 < systems[1].clips["a"]["chroma"] < 0.5


def test_a_manifest_says_what_a_clip_was_made_from(results):
    root = results[0].parent
    digest = sha256((root / "reference" / "deep" / "b.wav").read_bytes()).hexdigest()
    made = {"request": "0", "melody": "somewhere"}
    say(root / "follows", {
        "a": {"request": "0"}, "deep/b": made | {"melody_sha256": digest}, "c": made | {"melody_sha256": "0" * 64}
    })  # fmt: skip
    page = write_report(results, root / "page.html", clips=1)
    text = page.read_text(encoding="utf-8").partition('<section id="melodies">')[2].partition("</section>")[0]
    assert "a &lt;tune&gt;" in text
    assert text.count("<svg") == 9
    said = {}
    for article in re.findall(r"<article.*?</article>", text, re.DOTALL):
        name = re.search(r"<small>(.*?)</small>", article)[1]
        said[name] = re.findall(r"<strong>(\w+)</strong> [\d.]+, ([^<]+)</figcaption>", article)
    rows = {row["id"]: [panel["given"] for panel in row["panels"]] for row in melody_rows(read_results(results), IDS)}
    unknown = "melody given or not: not recorded"
    assert rows == {
        "a": ["text only", unknown],
        "deep/b": ["text + chroma", unknown],
        "c": ["text + chroma of another file", unknown],
    }
    for name, found in said.items():
        given = next(iter(melody_rows(read_results(results), [name])))["panels"]
        assert found == [("follows", given[0]["given"]), ("half", unknown)]
    (root / "follows" / "manifest.jsonl").unlink()
    (row,) = melody_rows(read_results(results), ["a"])
    assert row["panels"][0]["given"] == unknown


def test_prompts_that_more_systems_scored_come_first(results, tmp_path):
    systems = read_results(results)
    systems[1].data["clips"] = [
        {**clip, "chroma": None if clip["id"] == "a" else clip["chroma"]}
        for clip in systems[1].data["clips"]
        if clip["id"] != "c"
    ]
    assert [row["id"] for row in melody_rows(systems, IDS, 4)] == ["deep/b", "d", "e", "a"]
    (row,) = melody_rows(systems, ["c"])
    assert row["panels"][1] == {"missing": "no clip of this prompt"}
    for one in systems:
        for clip in one.data["clips"]:
            clip["chroma"] = None
    assert melody_rows(systems, IDS) == []
    systems[0].data["protocol"]["chroma"] = None
    assert melody_rows(systems, IDS) == []


def test_chroma_that_cannot_be_heard_here_is_said(results, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise InputError("no <Demucs> here")

    monkeypatch.setattr(report_melody, "Listener", refuse)
    text = write_report(results, tmp_path / "r.html", clips=1).read_text(encoding="utf-8")
    assert "The chromagrams are not drawn: no &lt;Demucs&gt; here" in text


def test_bars_cover_the_frames():
    frames = 24
    chroma = torch.zeros(frames, 12)
    chroma[:6, 0] = chroma[6:12, 11] = chroma[18:, 4] = 1  # and silence between
    reference = torch.zeros(frames, 12)
    reference[:, 0] = 1
    drawn = chromagram(chroma, reference, 0.5, 1, "a <b>")
    paths = re.findall(r'<path d="([^"]*)" fill="(var[^"]+)"/>', drawn)
    assert [colour for _, colour in paths] == ["var(--line)", "var(--muted)", "var(--series-1)"]
    widths = [[float(one) for one in re.findall(r"h([\d.]+)v", path)] for path, _ in paths]
    ((whole,), others, (agreeing,)) = widths
    assert agreeing == pytest.approx(whole / 4, abs=0.1)
    assert sorted(others) == pytest.approx([whole / 4] * 2, abs=0.1)
    tops = [float(one) for one in re.findall(r"M[\d.]+ ([\d.]+)h", paths[1][0])]
    assert tops[0] > tops[1], "class 11 lies above class 4"
    assert "a &lt;b&gt;" in drawn
    assert re.findall(r'text-anchor="middle">([\d.]+)<', drawn) == ["0", "2", "4", "6", "8", "10"]
