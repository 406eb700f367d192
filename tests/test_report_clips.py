"""Which clips a page shows: the best and the worst by one rule, each once, and as many as there is room for."""

import base64
import json
import re
from html import unescape
from itertools import pairwise

import pytest
import torch
from evaluation_clips import random_judge, sine, write_clips

from datamodules.audio_io import write_audio
from evaluation import media
from evaluation.compare import read_results
from evaluation.report import write_report
from evaluation.report_clips import shared_ids
from evaluation.report_extremes import beaten_shares, find_extremes
from evaluation.report_room import find_room
from evaluation.runner import evaluate
from evaluation.tables import number

IDS = [f"clip{index}" for index in range(10)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    judge = random_judge(root / "judge")
    reference = write_clips(root / "reference", {name: sine(50 + 3 * k) for k, name in enumerate(IDS)})
    generator = torch.Generator().manual_seed(0)
    paths = []
    for name, level in (("a", 0.02), ("b", 0.05)):
        clips = {
            one: sine(50 + 3 * k) + level * k * torch.randn(32_000, generator=generator) for k, one in enumerate(IDS)
        }
        paths.append(root / f"{name}.json")
        evaluate(write_clips(root / name, clips), reference, judge, paths[-1])
    return paths


def section(path, name):
    return path.read_text(encoding="utf-8").partition(f'<section id="{name}">')[2].partition("</section>")[0]


def shares_by_duels(clips):
    """The same rule, in a loop over pairs."""
    found = {}
    for name, clip in clips.items():
        means = []
        for key, sign in (("kld", -1), ("clap", 1), ("chroma", 1)):
            others = [other for id_, other in clips.items() if id_ != name and other.get(key) is not None]
            if clip.get(key) is not None and others:
                wins = [1.0 if sign * clip[key] > sign * one[key] else 0.5 * (clip[key] == one[key]) for one in others]
                means.append(sum(wins) / len(wins))
        if means:
            found[name] = sum(means) / len(means)
    return found


def test_a_clip_is_ranked_by_those_it_beats():
    generator = torch.Generator().manual_seed(0)
    clips = {}
    for index in range(40):
        values = torch.randint(0, 9, (3,), generator=generator).tolist()
        clips[f"c{index:02d}"] = dict(zip(("kld", "clap", "chroma"), values, strict=True))
    for index in (3, 8, 20):
        clips[f"c{index:02d}"]["clap"] = None
    clips["c09"] = {"fad_of_clip": 1.0}
    clips["c10"] = {"kld": 0}
    assert beaten_shares(clips) == pytest.approx(shares_by_duels(clips))
    ends = find_extremes(clips, 3)
    shares = shares_by_duels(clips)
    ordered = sorted(shares.values())
    assert [shares[name] for name in ends.best] == pytest.approx(ordered[:-4:-1])
    assert [shares[name] for name in ends.worst] == pytest.approx(ordered[:3])


def test_no_clip_is_best_and_worst():
    clips = {f"c{index}": {"kld": float(index)} for index in range(5)}
    assert find_extremes(clips, 3) == (["c0", "c1"], ["c4", "c3"])
    assert find_extremes({"c": {"kld": 1.0}}, 3) == ([], [])
    assert find_extremes({"c": {}, "d": {}}, 3) == ([], [])


def test_extremes_are_shown_once_and_those_of_the_grid_linked(results, tmp_path):
    page = write_report(results, tmp_path / "r.html", clips=4)
    text = page.read_text(encoding="utf-8")
    grid = shared_ids(read_results(results))[:4]
    shown, linked = section(page, "extremes"), 0
    articles = re.findall(r"<article.*?</article>", shown, re.DOTALL)
    wanted = []
    for one in read_results(results):
        ends = find_extremes(one.clips, 3)
        wanted += [(one, name) for name in (*ends.best, *ends.worst)]
    assert len(articles) == len(wanted) == 12
    for article, (one, name) in zip(articles, wanted, strict=True):
        assert f"<small>{name}," in article
        assert f"<dt>CLAP</dt><dd>{number(one.clips[name]['clap'])}</dd>" in article
        if name in grid:
            place = re.search(r'href="#([^"]+)"', article)[1]
            take = re.search(rf'<div class="take" id="{place}">.*?</div>', text, re.DOTALL)[0]
            assert f">{'</span>'}{one.name}</h4>" in take
            assert "<audio" not in article
            linked += 1
        else:
            assert article.count("<audio") == article.count("<img") == 1
    assert 0 < linked < 12, "one of the two kinds is not tried"


def test_one_clip_has_nothing_to_be_ordered_by(results, tmp_path):
    data = json.loads(results[0].read_text())
    data["clips"] = data["clips"][:1]
    alone = results[0].with_name("alone.json")
    alone.write_text(json.dumps(data))
    said = section(write_report([alone], tmp_path / "r.html"), "extremes")
    assert "a: fewer than two of its clips have a score of their own" in said
    alone.unlink()


@pytest.mark.parametrize(("largest", "all_playable"), [(2_000_000, True), (900_000, False), (450_000, False)])
def test_a_page_is_never_larger_than_it_may_be(results, tmp_path, largest, all_playable):
    page = write_report(results, tmp_path / "r.html", clips=10, largest=largest)
    assert page.stat().st_size < largest
    listen = section(page, "listen")
    prompts = re.findall(r"<article.*?</article>", listen, re.DOTALL)
    assert len(prompts) == 10
    playable = [article.count("<audio") for article in prompts]
    assert all(article.count("<dt>KL</dt>") == 2 for article in prompts)
    assert playable == sorted(playable, reverse=True)
    assert set(playable) <= {3, 0}
    assert (min(playable) == 3) == all_playable
    assert (f"{largest / 1e6:g}&nbsp;MB. To hear more" in listen) != all_playable
    if playable[0] and not all_playable:
        assert f"Only the first {playable.count(3)} of these prompts have players" in unescape(listen)


def test_long_loud_noise_fits_too(results, tmp_path):
    write_audio(tmp_path / "noise.wav", torch.randn(1, 12 * 32_000, generator=torch.Generator().manual_seed(0)), 32_000)
    noise = {"generated": "noise.wav", "reference": "noise.wav", "seconds": 12.0}
    paths = []
    for one in read_results(results):
        one.data["clips"] = [{**clip, **noise, "chroma": None} for clip in one.data["clips"]]
        paths.append(tmp_path / f"{one.name}.json")
        paths[-1].write_text(json.dumps(one.data))
    page = write_report(paths, tmp_path / "r.html", clips=10, largest=2_000_000)
    assert 1_400_000 < page.stat().st_size < 2_000_000


def test_sound_becomes_plainer_before_prompts_lose_their_players(results):
    systems = read_results(results)
    ids = shared_ids(systems)
    found = [find_room(systems, ids, room) for room in range(200_000, 2_600_000, 20_000)]
    for less, more in pairwise(found):
        counts = [len(one.extremes[0].best) for one in (less, more)]
        assert counts[0] <= counts[1]
        if counts[0] == counts[1]:
            assert less.prompts <= more.prompts
            assert less.quality.compression >= more.quality.compression
    assert all(one.quality == media.QUALITIES[-1] for one in found if one.prompts < len(ids))
    assert {one.quality for one in found if one.prompts == len(ids)} == set(media.QUALITIES)


@pytest.mark.parametrize("quality", media.QUALITIES)
def test_no_sound_takes_more_than_was_reckoned(quality):
    seconds = 4
    time = torch.arange(seconds * media.SAMPLE_RATE) / media.SAMPLE_RATE
    square = sum(torch.sin(2 * torch.pi * pitch * time).sign() for pitch in (110, 277, 415, 622)) / 4
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    head = len(base64.b64decode(media.encode_audio(noise[:1], quality).partition(",")[2]))
    assert head < 5_000
    for wav in (square, noise, 0.7 * square + 0.05 * noise):
        content = base64.b64decode(media.encode_audio(wav, quality).partition(",")[2])
        assert 0.6 < (len(content) - head) / seconds / quality.bytes_per_second < 1
