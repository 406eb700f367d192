"""Several codecs, and baselines beside them, in one evaluation: table, differences, page, and what is refused."""

import io
import json
import os
import re
from base64 import b64decode

import pytest
import soundfile
import tiny
import torch
from scipy.signal import resample_poly
from test_codec_baselines import RATE, music, passed

from datamodules.errors import InputError
from experiments.__main__ import main, run
from experiments.codecs.comparison import CodecComparison, perplexity_text, signed
from experiments.codecs.evaluation import CodecEvaluation
from lightning_modules.codec.baselines import is_baseline
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.folder import save_codec
from lightning_modules.codec.measures import si_sdr_of_clip


# ---- the comparison -----------------------------------------------------------------------------------------------
class Known(Codec):
    """A reconstruction that is a function of the original; 2 codes of 3 bits a frame of 80 samples."""

    def __init__(self, answer):
        super().__init__(sample_rate=RATE, channels=1, hop=80, codebooks=2, entries=8)
        self.answer = answer

    def _encode(self, wav):
        self.wav = wav
        return torch.zeros(1, 2, -(-wav.shape[-1] // self.hop), dtype=torch.int64)

    def _decode(self, codes):
        missing = codes.shape[-1] * self.hop - self.wav.shape[-1]
        return torch.nn.functional.pad(self.answer(self.wav), (0, missing))


def compared(monkeypatch, first, second, clips):
    monkeypatch.setattr("experiments.codecs.comparison.described", lambda name, codec: {"folder": name})
    systems = {name: CodecEvaluation(Known(answer), examples=0) for name, answer in (("a", first), ("b", second))}
    comparison = CodecComparison(systems, examples=2)
    for number, wav in enumerate(clips):
        try:
            comparison.add(f"{number}", wav, start=5.0)
        except InputError as error:
            print(error)
    return comparison


def test_differences_are_of_the_same_clips(monkeypatch):
    clips = [music(0.5 + number / 16, seed=number) for number in range(6)]
    results = compared(monkeypatch, lambda wav: wav, lambda wav: 10 * wav, clips).results()
    (difference,) = results["differences"]
    assert (difference["name"], difference["minus"]) == ("b", "a")
    # Ten times as loud is one decade, in every clip: an interval of no width, but for bands below the floor.
    mel = difference["metrics"]["mel_distance"]
    assert mel["value"] == pytest.approx(1, abs=0.01)
    assert mel["high"] - mel["low"] < 0.01
    assert mel["n"] == 6
    assert difference["metrics"]["si_sdr"]["value"] == pytest.approx(0, abs=1e-6)
    assert difference["metrics"]["visqol"]["value"] is None
    for one in results["systems"]:
        rate = one["bitrate"]["measured"]
        frames = sum(-(-wav.shape[1] // 80) for wav in clips)
        assert rate["value"] == pytest.approx(6 * frames / sum(wav.shape[1] for wav in clips) * RATE / 1000)
        assert rate["low"] <= rate["value"] <= rate["high"]


def test_a_clip_that_one_codec_breaks_on_counts_for_none(monkeypatch, capsys):
    def breaks(wav):
        return wav if wav.shape[-1] < 6000 else wav / 0

    comparison = compared(monkeypatch, lambda wav: wav, breaks, [music(0.5), music(1), music(0.6)])
    assert capsys.readouterr().out == "b: the codec gave samples that are not finite\n"
    results = comparison.results()
    assert [[clip["id"] for clip in one["clips"]] for one in results["systems"]] == [["0", "2"], ["0", "2"]]
    assert [one["codes"] for one in results["systems"]] == [50 + 60] * 2


def test_excerpts_are_the_same_stretch_of_every_version(monkeypatch):
    def late(wav):  # wrong from the tenth second on, and the more the longer the clip
        return torch.where(torch.arange(wav.shape[-1]) >= 10 * RATE, wav.shape[-1] / RATE, 1.0) * wav

    comparison = compared(monkeypatch, late, lambda wav: 2 * wav, [music(s, seed=s) for s in (15, 20, 18)])
    assert [one.clips[0]["id"] for one in comparison.excerpts] == ["1", "2"]
    one = comparison.excerpts[0]
    assert one.start == pytest.approx(15, abs=0.2)
    torch.testing.assert_close(one.reconstructions[1], 2 * one.original)
    inside = one.original[:, 2000:]
    torch.testing.assert_close(one.reconstructions[0][:, 2000:], 20 * inside)


def test_words():
    assert perplexity_text({"codebooks": [{"perplexity": 10.2}, {"perplexity": 1300.0}]}) == "655 (10 to 1,300)"
    assert perplexity_text({}) == "\N{EN DASH}"
    assert signed({"value": 0.5, "low": -0.25, "high": 0.0}) == "+0.500 [\N{MINUS SIGN}0.250, 0.000]"
    assert signed({"value": -1.0, "low": None, "high": None}) == "\N{MINUS SIGN}1.000"


# ---- the command --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """Two codecs at 8 kHz, one at 16, and five tracks, one of which is no audio."""
    folder = tmp_path_factory.mktemp("there")
    save_codec(folder / "one", tiny.codec(sample_rate=RATE))
    save_codec(folder / "two", tiny.codec(sample_rate=RATE, entries=32))
    save_codec(folder / "other", tiny.codec(sample_rate=16_000))
    tracks = [(f"t{number}", "test", 3.0 + number, "") for number in range(6)]
    tiny.write_manifest(folder / "data", tracks, RATE)
    for number in range(5):
        soundfile.write(folder / "data" / f"t{number}.wav", music(3 + number, seed=number).T.numpy(), RATE)
    (folder / "data" / "t5.wav").write_bytes(b"no audio")
    return folder


def command(there, out, *codecs, **flags):
    words = [word for codec in codecs for word in ("--codec", codec)]
    words += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    run("evaluate-codec", [*words, "--manifest", str(there / "data"), "--out", str(out), "--visqol", "false"])
    return json.loads((out / "results.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def evaluated(there, tmp_path_factory):
    out = tmp_path_factory.mktemp("table")
    names = [str(there / "one"), str(there / "two"), "opus@8", "vorbis"]
    return names, out, command(there, out, *names, examples=2)


def test_one_command_compares_codecs_and_baselines(evaluated):
    names, _, results = evaluated
    assert list(results) == ["protocol", "failed", "systems", "differences"]
    assert [one["name"] for one in results["systems"]] == names
    assert [one["name"] for one in results["differences"]] == names[1:]
    assert [failure["id"] for failure in results["failed"]] == ["t5"]
    for one in results["systems"]:
        assert [clip["id"] for clip in one["clips"]] == [f"t{number}" for number in range(5)]
        for metric in ("si_sdr", "mel_distance", "stft_distance"):
            score = one["metrics"][metric]
            assert score["low"] < score["value"] < score["high"]
    assert [len(one["codebooks"]) for one in results["systems"][:2]] == [4, 4]
    assert [one["codec"]["sample_rate"] for one in results["systems"]] == [RATE] * 4


def test_measured_bitrates_are_those_of_written_files(evaluated, tmp_path):
    _, _, results = evaluated
    clips = [music(3 + number, seed=number)[0].numpy() for number in range(5)]
    seconds = sum(len(clip) for clip in clips) / RATE
    settings = [
        ("OPUS", 48_000, 1 - 2 / 250, [resample_poly(clip, 6, 1) for clip in clips]),
        ("VORBIS", RATE, 1.0, clips),
    ]
    for (subtype, rate, level, waves), one in zip(settings, results["systems"][2:], strict=True):
        size = 0
        for number, wave in enumerate(waves):
            file = tmp_path / f"{subtype}{number}.ogg"
            soundfile.write(file, wave, rate, format="OGG", subtype=subtype, compression_level=level)
            size += os.stat(file).st_size
        assert one["bitrate"]["measured"]["value"] == pytest.approx(8 * size / seconds / 1000, rel=0.01)
        by_clip = sum(clip["kbit_per_second"] * clip["seconds"] for clip in one["clips"]) / seconds
        assert by_clip == pytest.approx(one["bitrate"]["measured"]["value"], rel=1e-6)
    frames = sum(len(clip) for clip in clips) / 8
    assert results["systems"][0]["bitrate"]["measured"]["value"] == pytest.approx(4 * 4 * frames / seconds / 1000)


def test_alone_a_codec_has_the_same_figures(there, evaluated, tmp_path):
    names, _, together = evaluated
    alone = command(there, tmp_path, names[1])
    wanted = ["codec", "protocol", "failed", "n", "hours", "metrics", "codes", "codebooks", "bitrate", "speed", "clips"]
    assert list(alone) == wanted
    assert list(alone["bitrate"]) == ["nominal", "entropy", "unit"]
    other = together["systems"][1]
    for key in ("codec", "n", "hours", "metrics", "codes", "codebooks"):
        assert other[key] == alone[key], key
    assert alone["protocol"] == together["protocol"]
    assert alone["clips"] == [{k: v for k, v in clip.items() if k != "kbit_per_second"} for clip in other["clips"]]


def test_baselines_figures_by_hand(there, evaluated):
    _, _, results = evaluated
    wav = torch.from_numpy(soundfile.read(there / "data" / "t2.wav", dtype="float32")[0])[None]
    for name, one in zip(("opus@8", "vorbis"), results["systems"][2:], strict=True):
        made, _ = passed(name, wav, RATE)
        assert one["clips"][2]["si_sdr"] == pytest.approx(si_sdr_of_clip(made, wav), abs=1e-3)


def test_the_page_has_every_version_of_every_example(evaluated):
    names, out, results = evaluated
    text = (out / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    players = re.findall(r'src="data:audio/flac;base64,([^"]+)"', text)
    assert len(players) == text.count("data:image/png") == 2 * (1 + len(names))
    lengths = [soundfile.info(io.BytesIO(b64decode(player))).frames for player in players]
    assert lengths[:5] == [lengths[0]] * 5
    means = [sum(one["clips"][n]["mel_distance"] for one in results["systems"]) for n in range(5)]
    worst = sorted(range(5), key=lambda n: -means[n])[:2]
    assert re.findall(r"<h3>(t\d)<", text) == [f"t{n}" for n in worst]
    heads = re.findall(r"<h4>([^<]*)</h4>", text)
    assert [head.partition(",")[0] for head in heads] == ["Original", *names] * 2
    assert "libsndfile" in text
    assert "not readable as audio" in text


def test_what_is_said(there, tmp_path, capsys):
    command(there, tmp_path, str(there / "one"), "opus", clips=2)
    said = capsys.readouterr().out
    assert "2 clips of split 'test'" in said
    assert re.search(r"^ ?opus +\d+\.\d\d", said, re.MULTILINE)
    assert re.search(r"^opus minus .*one, clip by clip: SI-SDR .*; Mel distance [+−]", said, re.MULTILINE)
    assert max(map(len, said.split("opus minus")[0].splitlines())) <= 80


@pytest.mark.parametrize(
    ("codecs", "message"),
    [
        (["opus", "vorbis"], "opus, vorbis: clips are taken at a neural codec's sample rate; add the folder of one"),
        (["one", "other"], r"one has 8,000 Hz and 1 channel and .*other 16,000 Hz and 1 channel; evaluate them apart"),
        (["one", "opus@6", "opus@6"], "--codec opus@6 is given twice; give it once"),
        (["one", "opus@1"], "opus@1: libsndfile's Opus has 6 to 256 kbit/s for 1 channel"),
        (["nowhere"], "nowhere"),
    ],
)
def test_lists_that_cannot_be_compared(there, tmp_path, codecs, message):
    names = [codec if is_baseline(codec) else str(there / codec) for codec in codecs]
    with pytest.raises(InputError, match=message):
        command(there, tmp_path / "out", *names)
    assert not (tmp_path / "out").exists()


def test_no_codec_is_said_in_a_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate-codec", "--manifest", "data", "--out", "x"])
    assert stop.value.code == 2
    assert "codec" in capsys.readouterr().err
