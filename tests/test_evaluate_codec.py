"""``mgl evaluate-codec``: codecs whose answers are known, a manifest from end to end, and the page."""

import io
import json
import math
import re
import shutil
import subprocess
import sys
from base64 import b64decode

import pytest
import soundfile
import tiny
import torch

from datamodules.errors import InputError
from datamodules.manifest import read_manifest
from experiments.__main__ import main
from experiments.codecs.evaluation import CodecEvaluation, chosen_tracks
from experiments.commands.evaluate_codec import evaluate_codec
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.measures import ReconstructionMeasures
from lightning_modules.codec.visqol import Visqol

TRACKS = [("a", "train", 5.0, ""), ("b", "test", 6.0, ""), ("c", "test", 9.0, ""), ("d", "test", 4.0, "")]


def noise(*shape, seed=0, level=0.1):
    return level * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Known(Codec):
    """Codes of its own choice, and a reconstruction that is a function of the original."""

    def __init__(self, answer, rate=8000, channels=1):
        super().__init__(sample_rate=rate, channels=channels, hop=80, codebooks=2, entries=8)
        self.answer = answer

    def _encode(self, wav):
        self.wav = wav
        frames = -(-wav.shape[-1] // self.hop)
        return torch.stack([torch.arange(frames) % 8, torch.arange(frames) % 2])[None]

    def _decode(self, codes):
        missing = codes.shape[-1] * self.hop - self.wav.shape[-1]
        return torch.nn.functional.pad(self.answer(self.wav), (0, missing))


# ---- codecs whose answers are known -------------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [1, 2])
def test_a_perfect_codec_has_perfect_figures(channels):
    evaluation = CodecEvaluation(Known(lambda wav: wav, channels=channels), examples=2)
    for number in range(5):
        evaluation.add(f"clip {number}", noise(channels, 4000 + number, seed=number))
    results = evaluation.results("no reason")
    assert results["n"] == 5
    assert results["hours"] == pytest.approx((5 * 4000 + 10) / 8000 / 3600)
    wanted = {"si_sdr": 100, "mel_distance": 0, "stft_distance": 0}
    for name, value in wanted.items():
        assert results["metrics"][name] == {"value": value, "low": value, "high": value, "n": 5}
    assert results["metrics"]["visqol"] == {"value": None, "low": None, "high": None, "n": 0, "reason": "no reason"}
    assert results["bitrate"]["nominal"] == pytest.approx(2 * 3 * 100 / 1000)
    first, second = results["codebooks"]
    assert first["use"] == 1
    assert first["bits"] == pytest.approx(3, abs=0.01)
    assert second == pytest.approx({"use": 0.25, "perplexity": 2, "bits": 1}, abs=0.01)
    assert results["bitrate"]["entropy"] == pytest.approx((3 + 1) * 100 / 1000, abs=1e-3)
    assert len(evaluation.excerpts) == 2


def test_a_silent_codec_has_finite_and_bad_figures():
    evaluation = CodecEvaluation(Known(torch.zeros_like), visqol=Visqol(None, "3.8.0"))
    evaluation.add("one", noise(1, 20_000))
    results = evaluation.results()
    values = {name: score["value"] for name, score in results["metrics"].items()}
    assert values["si_sdr"] == -100
    assert values["mel_distance"] > 2
    assert values["stft_distance"] > 5
    assert values["visqol"] == 1
    json.dumps(results, allow_nan=False)


def test_the_worst_clips_are_kept_where_they_are_worst():
    def answer(wav):  # the louder, the wronger, from the tenth second on
        return torch.where(torch.arange(wav.shape[-1]) >= 10 * 8000, 1.0 + 5 * wav.std(), 1.0) * wav

    evaluation = CodecEvaluation(Known(answer), examples=2)
    for level in (0.1, 0.9, 0.5):
        evaluation.add(f"{level}", noise(1, 20 * 8000, level=level), start=100.0)
    assert [one.clip["id"] for one in evaluation.excerpts] == ["0.9", "0.5"]
    one = evaluation.excerpts[0]
    assert one.clip["worst_at"] == pytest.approx(110, abs=0.2)
    assert one.original.shape == one.reconstruction.shape
    assert one.original.shape[1] == pytest.approx(10 * 8000, abs=1000)
    assert one.reconstruction.norm() / one.original.norm() == pytest.approx(1 + 5 * 0.9, rel=0.02)


def test_a_codec_that_breaks_is_no_figure():
    evaluation = CodecEvaluation(Known(lambda wav: wav * math.nan))
    with pytest.raises(InputError, match="not finite"):
        evaluation.add("one", noise(1, 20_000))
    assert evaluation.clips == []
    assert evaluation.codes.counts.sum() == 0


# ---- the command --------------------------------------------------------------------------------------------------
@pytest.fixture
def manifest(tmp_path):
    return tiny.write_manifest(tmp_path / "data", TRACKS)


def test_tracks_are_chosen_evenly(manifest):
    tracks = read_manifest(manifest)
    assert [track.id for track in chosen_tracks(tracks, "test", None)] == ["b", "c", "d"]
    assert [track.id for track in chosen_tracks(tracks, "", None)] == ["a", "b", "c", "d"]
    assert [track.id for track in chosen_tracks(tracks, "", 2)] == ["b", "d"]
    assert [track.id for track in chosen_tracks(tracks, "test", 1)] == ["c"]
    assert [track.id for track in chosen_tracks(tracks, "test", 9)] == ["b", "c", "d"]
    with pytest.raises(InputError, match="no track is in split 'valid'; it has test, train, and --split '' takes all"):
        chosen_tracks(tracks, "valid", None)


@pytest.mark.parametrize("wrong", [{"clips": 0}, {"seconds": 0.0}, {"seconds": math.nan}, {"examples": -1}])
def test_settings_without_sense_are_refused(codec_folder, manifest, tmp_path, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        evaluate_codec(str(codec_folder), str(manifest), str(tmp_path / "out"), **wrong)
    assert not (tmp_path / "out").exists()


def test_nothing_that_can_be_measured_is_an_error(codec_folder, manifest, tmp_path):
    with pytest.raises(InputError, match=r"none of 3 tracks .* b: 80 samples are shorter"):
        evaluate_codec(str(codec_folder), str(manifest), str(tmp_path / "out"), seconds=0.1)


@pytest.fixture
def evaluated(codec_folder, manifest, tmp_path, monkeypatch, capsys):
    """A run by the command line in which one track cannot be read; the folder and what was said."""
    monkeypatch.setitem(sys.modules, "visqol", None)
    (manifest / "d.wav").write_bytes(b"no audio")
    out = tmp_path / "out"
    main(["evaluate-codec", "--codec", str(codec_folder), "--manifest", str(manifest), "--out", str(out)])
    return out, capsys.readouterr().out


def test_the_command_writes_what_it_says(evaluated):
    out, said = evaluated
    results = json.loads((out / "results.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert results["n"] == 2
    assert results["hours"] == pytest.approx(15 / 3600)
    assert [failure["id"] for failure in results["failed"]] == ["d"]
    assert "not readable as audio" in results["failed"][0]["reason"]
    assert [(clip["id"], clip["seconds"]) for clip in results["clips"]] == [("b", 6.0), ("c", 9.0)]
    assert results["codes"] == 1500
    assert len(results["codebooks"]) == tiny.CODEBOOKS
    assert results["metrics"]["mel_distance"]["value"] > 0
    assert results["metrics"]["mel_distance"]["low"] is None
    assert results["metrics"]["visqol"]["value"] is None
    assert min(results["speed"]["encode"], results["speed"]["decode"]) > 0
    assert results["codec"]["architecture"] == "encodec"
    assert results["protocol"]["split"] == "test"
    lines = said.splitlines()
    assert "ViSQOL: not computed, visqol-python is not installed (pip install visqol-python)" in lines
    assert "2 clips of split 'test', 0.00 h, whole tracks; 1 left out" in lines
    assert lines[-2].startswith("left out d: ")


def test_the_same_figures_by_hand(evaluated, codec, manifest):
    results = json.loads((evaluated[0] / "results.json").read_text(encoding="utf-8"))
    wav = torch.from_numpy(soundfile.read(manifest / "c.wav", dtype="float32")[0])[None]
    codes = codec.encode(wav[None])
    score = ReconstructionMeasures(tiny.RATE)(codec.decode(codes)[0, :, : wav.shape[1]], wav)
    row = results["clips"][1]
    assert [row["si_sdr"], row["mel_distance"], row["stft_distance"]] == pytest.approx(score[:3], rel=1e-4)


def test_a_stretch_is_taken_from_the_middle(codec_folder, manifest, tmp_path):
    evaluate_codec(str(codec_folder), str(manifest), str(tmp_path / "out"), seconds=5.0, visqol=False)
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [(clip["start"], clip["seconds"]) for clip in results["clips"]] == [(0.5, 5.0), (2.0, 5.0), (0.0, 4.0)]
    assert results["metrics"]["visqol"]["reason"] == "--visqol false"


def test_the_page_holds_the_sound_itself(evaluated):
    text = (evaluated[0] / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    players = re.findall(r'src="data:audio/flac;base64,([^"]+)"', text)
    assert len(players) == 4
    lengths = [soundfile.info(io.BytesIO(b64decode(player))).duration for player in players]
    assert lengths[0::2] == lengths[1::2]
    assert sorted(lengths[0::2]) == [6.0, 9.0]
    assert text.count("data:image/png") == 6
    assert "too few" not in text
    assert "not readable as audio" in text


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_draws_it(tmp_path, width):
    from experiments.codecs.page import write_page
    from experiments.codecs.results import versions

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    evaluation = CodecEvaluation(Known(lambda wav: 0.5 * wav))
    for number in range(4):
        evaluation.add(f"a long name/of a folder/and a track {number}", noise(1, 16_000, seed=number))
    codec = {"folder": "runs/codec", "architecture": "encodec", "stereo": False, "checksum": "c" * 64}
    codec |= {"sample_rate": 8000, "frame_rate": 100.0, "codebooks": 2, "entries": 8, "kbit_per_second": 0.6}
    about = {"split": "test", "heard": "whole tracks", "versions": versions(None)}
    results = {"codec": codec, "protocol": about, "failed": [], **evaluation.results("it is not installed")}
    write_page(tmp_path / "index.html", results, evaluation.excerpts, 8000)
    script = (
        "<script>onload=()=>{const d=document.documentElement;const bad=[...document.querySelectorAll('body *')]"
        ".filter(e=>!e.closest('.scroll')&&e.getBoundingClientRect().right>innerWidth+1).length;"
        "const sound=[...document.querySelectorAll('audio')].map(a=>new Promise(r=>{"
        "a.onloadedmetadata=()=>r(a.duration);a.onerror=()=>r('broken');a.load()}));"
        "Promise.all(sound).then(all=>document.title=`overflow "
        "${d.scrollWidth>innerWidth} ${bad} images ${[...document.images].every(i=>i.naturalWidth>0)} sound ${all}`)}"
        "</script></body>"
    )
    probe = tmp_path / "probe.html"
    probe.write_text((tmp_path / "index.html").read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    flags = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},3000"]
    for _ in range(4):  # virtual time may run out before a busy machine has decoded the sounds
        done = subprocess.run(
            [*flags, "--virtual-time-budget=20000", "--dump-dom", f"file://{probe}"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        title = re.search(r"<title>([^<]*)</title>", done.stdout).group(1)
        if title.startswith("overflow"):
            break
    assert title == "overflow false 0 images true sound " + ",".join(["2"] * 8)
