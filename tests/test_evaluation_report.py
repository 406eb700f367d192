"""The page: complete, self-contained, and drawn by a browser."""

import base64
import io
import json
import re

import pytest
import soundfile
import torch
from evaluation_clips import random_judge, sine, write_clips

from datamodules.errors import InputError
from evaluation.compare import differences, read_results
from evaluation.media import encode_audio
from evaluation.report import write_report
from evaluation.runner import evaluate
from evaluation.tables import METRICS

IDS = [f"clip{index}" for index in range(9)]


def system(name, better):
    codebooks = [
        {"codebook": k, "value": 3 + k - better, "low": 2.9 + k - better, "high": 3.1 + k - better,
         "unigram": 4 + k, "unigram_low": 3.9 + k, "unigram_high": 4.1 + k}
        for k in range(4)
    ]  # fmt: skip
    return {
        "name": name,
        "model": f"runs/demo/{name}",
        "parameters": {"lm": 1234567, "text_encoder": 4321, "codec": 98765},
        "speed": {"steps_per_second": 81.0, "audio_seconds_per_second": 1.5, "device": "cpu", "threads": 2},
        "training": {
            "steps": 250,
            "seconds": 61.0,
            "train_tokens": 10_000,
            "validation": {"n": 32, "cross_entropy": codebooks},
            "curve": [[0, 6.9, None], [100, 5.0, 5.2], [250, 4.0, 4.5]],
        },
        "codec": {"mel_distance": 0.4, "mel_distance_at_init": 2.0},
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    judge = random_judge(root / "judge")
    captions = {name: f"prompt <{name}> & co" for name in IDS}
    reference = write_clips(root / "reference", {name: sine(50 + 3 * k, 3.0) for k, name in enumerate(IDS)}, captions)
    paths = []
    generator = torch.Generator().manual_seed(0)
    for name, level in (("nano", 0.3), ("micro $x$", 0.01)):
        clips = {one: sine(50 + 3 * k, 1.5) for k, one in enumerate(IDS)}
        clips = {one: wav + level * torch.randn(wav.shape, generator=generator) for one, wav in clips.items()}
        folder = write_clips(root / name, clips, captions)
        if name == "nano":
            (folder / "clip3.wav").write_bytes(b"broken")
        (folder / "system.json").write_text(json.dumps(system(name, level)))
        evaluate(folder, reference, judge, root / f"{name}.json")
        paths.append(root / f"{name}.json")
    return paths


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    return write_report(results, tmp_path_factory.mktemp("page") / "deep" / "report.html", clips=8)


def section(text, name):
    return text.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def test_every_player_holds_real_audio(page):
    text = page.read_text(encoding="utf-8")
    players = re.findall(r'<audio controls[^>]* src="data:audio/ogg;base64,([^"]+)"', text)
    # eight prompts, three columns, perhaps without the broken clip
    assert section(text, "listen").count("<audio controls") in (23, 24)
    assert len(set(players)) == len(players), "a clip is embedded twice"
    for content in players:
        audio, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
        assert rate == 32_000
        assert len(audio) == pytest.approx(1.5 * rate, abs=2)
        assert abs(audio).max() > 0.1
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == len(players)
    assert all(base64.b64decode(content).startswith(b"\x89PNG") for content in pictures)


def test_the_page_needs_nothing_else(page):
    text = page.read_text(encoding="utf-8")
    without_namespaces = re.sub(r'xmlns(:xlink)?="[^"]+"', "", text)
    assert "http://" not in without_namespaces
    assert "https://" not in without_namespaces
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)
    assert "@import" not in text


def test_only_clear_differences_are_bold(page, results):
    row = page.read_text(encoding="utf-8").partition(" minus nano</th>")[2].partition("</tr>")[0]
    bold = re.findall(r'data-label="(\S+) [^"]*"( class="clear")?', row)
    found = {one.metric: one.clear for one in differences(read_results(results))}
    assert [(name, bool(mark)) for name, mark in bold] == [
        (one.name, found[one.key]) for one in METRICS if one.key in found
    ]
    assert len(set(found.values())) == 2


def test_the_page_says_what_there_is(page, results):
    text = page.read_text(encoding="utf-8")
    first = json.loads(results[0].read_text())
    judge = first["protocol"]["judges"]["fad"]
    for expected in (
        judge["checksum"][:12],
        f"{first['metrics']['kld']['value']:.3f}",
        "References, shuffled",
        "Codebook 3",
        "1,234,567",
        "Unigram",
        "reference_to_generated",
        "mgl evaluate",
        "not readable as audio",
        "micro $x$ minus nano",
        "prompt &lt;clip1&gt; &amp; co",
    ):
        assert expected in text
    assert "prompt <clip" not in text
    # Four metrics, each with a plot of its own and one over cost; curves, codebooks; three prompts' melodies.
    assert text.count("<svg") == 10 + 3 * 3
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_one_system_without_a_word_about_itself(results, tmp_path):
    data = json.loads(results[1].read_text())
    data["system"] = {"name": "stranger"}
    bare = results[1].with_name("bare.json")
    bare.write_text(json.dumps(data))
    text = write_report([bare], tmp_path / "r.html", clips=1).read_text(encoding="utf-8")
    assert "Nothing is known of the systems" in text
    assert "On 9 prompts, stranger scores FAD" in text
    assert section(text, "listen").count("<audio controls") == 2
    bare.unlink()


def test_results_from_before_protocols_are_still_read(results, tmp_path):
    data = json.loads(results[1].read_text())
    now = data["protocol"]
    data["protocol"] = {
        "judges": now["judges"],
        "reference": {"manifest": now["reference"]["manifest"], "sha256": now["reference"]["sha256"]},
        "seconds": now["seconds"],
        "kld": {"direction": "reference_to_generated", "epsilon": 1e-6},
        "loudness": "as the files are",
        **{name: now[name] for name in ("n", "tracks", "seed", "versions")},
    }
    old = results[1].with_name("old.json")
    old.write_text(json.dumps(data))
    text = write_report([old], tmp_path / "r.html", clips=1).read_text(encoding="utf-8")
    assert "--protocol" not in text
    assert "--judge " in text
    with pytest.raises(InputError, match="different protocols"):
        read_results([results[0], old])
    old.unlink()


def test_costs_stand_beside_scores_and_published_numbers_do_not(results, tmp_path):
    record = {
        "system": "nano",
        "parameters": {"lm": 2_500_000},
        "training": {"gpu": "h100", "gpus": 8, "layout": "DDP", "flops": 7e20, "memory": 2**31, "gpu_hours": 1234.4},
        "generation": {"steps_per_second": 50.0, "hours_per_hour": 2.5, "audio_seconds_per_second": 2.5,
                       "device": "cpu", "threads": 2},
        "held_out": {"n": 3, "cross_entropy": [{"codebook": 0, "value": 1.0}, {"codebook": 1, "value": 3.0}]},
    }  # fmt: skip
    big = {"system": "big", "parameters": {"lm": 3_000_000_000}, "training": None, "generation": None}
    page = write_report(results, tmp_path / "r.html", clips=1, costs=[record, big])
    text = page.read_text(encoding="utf-8")
    cost = text.partition('<section id="cost">')[2].partition("</section>")[0]
    cells = re.findall(r'data-label="([^"]+)">([^<]*)</td>', cost.partition("nano<")[2].partition("</tr>")[0])
    assert dict(cells) == {
        "Parameters": "2.5 M",
        "Steps a second": "50",
        "Hours of music an hour": "2.5",
        "Perplexity": "7.4",  # exp(2)
        "Memory of a GPU": "2.0 GiB",
        "Training FLOPs": "7.00e+20",
        "GPU-hours": "1,234",
    }
    assert "no clips: cost only" in cost.partition("big<")[2].partition("</tr>")[0]
    assert cost.count("<svg") == 4
    published = text.partition('<section id="published">')[2].partition("</section>")[0]
    for outside, inside in (("MusicLM", True), ("Noise2Music", True), ("nano", False), ("certain", True)):
        assert (outside in published) == inside
    assert "MusicLM" not in text.replace(published, "")
    rows = page.with_suffix(".csv").read_text().splitlines()
    assert 'cost,nano,,gpu_hours,1234.4,,,,"8 x h100, DDP"' in rows
    assert any(row.startswith("difference,micro $x$,nano,kld,") for row in rows)
    assert "| micro $x$ |" in page.with_suffix(".md").read_text()


def test_quality_is_drawn_over_speed_only_where_all_were_measured_in_one_place():
    from evaluation.costs import Cost, pareto_axis

    first = Cost("a", parameters=10, hours_per_hour=1.0, where="cpu, 1 threads")
    assert pareto_axis([first, Cost("b", 20, hours_per_hour=2.0, where="cpu, 1 threads")])[0] == "hours_per_hour"
    assert pareto_axis([first, Cost("b", 20, hours_per_hour=2.0, where="cuda, 1 threads")])[0] == "parameters"
    assert pareto_axis([first, Cost("b", 20)])[0] == "parameters"
    assert pareto_axis([first, Cost("b")]) is None


def test_fewer_clips_than_asked_are_shown_with_their_count(results, tmp_path):
    data = json.loads(results[1].read_text())
    data["system"]["clips"] = {"asked": 12, "made": 9, "unmatched": ["<x>"] * 25}
    fewer = results[1].with_name("fewer.json")
    fewer.write_text(json.dumps(data))
    page = write_report([fewer], tmp_path / "r.html", clips=1)
    text = page.read_text(encoding="utf-8")
    assert "9 of 12</td>" in text
    assert "mgl system-clips &#39;micro $x$=runs/demo/micro $x$&#39; --prompts" in text
    assert "25 files match no prompt: &lt;x&gt;" in text
    assert "and 5 more" in text
    assert "9 of 12 |" in page.with_suffix(".md").read_text()
    fewer.unlink()


def test_audio_that_went_away_is_said(results, tmp_path):
    data = json.loads(results[1].read_text())
    for clip in data["clips"]:
        clip["generated"] = "gone.wav"
    moved = results[1].with_name("moved.json")
    moved.write_text(json.dumps(data))
    text = write_report([moved], tmp_path / "r.html", clips=2).read_text(encoding="utf-8")
    assert section(text, "listen").count("there is no such audio file") == 2
    # Three prompts, whose reference is only heard beside a clip.
    assert section(text, "melodies").count("there is no such audio file") == 3
    moved.unlink()


def test_the_command_writes_the_page(results, tmp_path, capsys):
    from experiments.commands.compare import compare

    compare([str(path) for path in results], str(tmp_path / "page.html"), clips=1)
    assert (tmp_path / "page.html").stat().st_size > 50_000
    assert "page.html" in capsys.readouterr().out
    with pytest.raises(InputError, match="at least 1"):
        compare([str(results[0])], str(tmp_path / "page.html"), clips=0)


def test_long_audio_is_written_whole():
    wav = 0.1 * torch.randn(25 * 32_000, generator=torch.Generator().manual_seed(0))
    content = base64.b64decode(encode_audio(wav).split(",", 1)[1])
    assert soundfile.info(io.BytesIO(content)).duration == pytest.approx(25.0)


def test_the_summary_says_when_nothing_beats_chance(results):
    from evaluation.compare import Results, differences
    from evaluation.summary import summary_sentence

    systems = [Results(path, json.loads(path.read_text())) for path in results]
    for one in systems:
        one.data["context"]["shuffled"]["clap"] = {"value": 2.0, "low": 1.9, "high": 2.1}
        one.data["context"]["shuffled"]["chroma"] = {"value": -1.0, "low": -1.0, "high": -1.0}
    both = summary_sentence(systems, differences(systems))
    assert both.endswith("In CLAP no system is clearly above chance (references of other prompts).")
    assert "against nano: micro $x$ is better in KL" in both
    assert "In CLAP it is not clearly above chance" in summary_sentence(systems[:1], [])
    for one in systems:
        one.data["context"]["shuffled"]["clap"]["value"] = -1.0
    assert "chance" not in summary_sentence(systems, differences(systems))
