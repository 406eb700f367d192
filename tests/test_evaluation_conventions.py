"""What audiocraft and stable-audio-metrics compute, written out as loops over the same judges, beside the protocols."""

import math
from pathlib import Path

import judge_weights
import numpy as np
import pytest
import torch
from evaluation_clips import random_judge, sine
from torchaudio.functional import resample

from datamodules.audio_io import read_audio, write_audio
from datamodules.errors import InputError
from datamodules.features.chroma import ChromaExtractor
from datamodules.ingest.loudness import LoudnessMeter
from datamodules.manifest import Track, write_manifest
from evaluation.clip_scores import clip_values
from evaluation.fad import frechet_distance
from evaluation.judges import resolve_judge
from evaluation.judges.embedded import load_judge
from evaluation.levels import at_loudness, at_peak, noise_at_level, read_at_level
from evaluation.listening import HeardPair, Sound
from evaluation.pairing import Pair
from evaluation.protocol import Choices, CLAPChoices, Level
from evaluation.runner import evaluate

RATE = 32_000
# Of several segments, of one that ends a little before or after 0.15 s, and of less than a window.
SECONDS = {"a": 20.2, "b": 20.1, "c": 3.0, "d": 0.9}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MGL_CACHE", str(tmp_path / "cache"))


def kl(p, q, epsilon=1e-6):
    return sum(a * (math.log(a) - math.log(b + epsilon)) for a, b in zip(p, q, strict=True) if a > 0)


def softmax(logits):
    powers = [math.exp(value) for value in logits]
    return [power / sum(powers) for power in powers]


def clips(folder, seconds, pitch, level, steps, silent=0.0):
    """Clips that climb so many steps, one every half second, again and again, with some noise, after some silence."""
    folder.mkdir()
    tracks, generator = [], torch.Generator().manual_seed(round(pitch))
    for place, (name, length) in enumerate(seconds.items()):
        notes = [sine(pitch + place + k % steps, 0.5, level, RATE)[0] for k in range(math.ceil(2 * length))]
        wav = torch.cat(notes)[: round(length * RATE)]
        wav += 0.1 * level * torch.randn(len(wav), generator=generator)
        wav[: round(silent * RATE)] = 0
        write_audio(folder / f"{name}.wav", wav[None], RATE)
        tracks.append(Track(name, folder / f"{name}.wav", length, RATE, f"caption {name}"))
    write_manifest(folder / "manifest.jsonl", tracks)
    return folder


def measured(wav, rate=RATE):
    meter = LoudnessMeter(rate, len(wav))
    meter.update(wav.numpy().T)
    return meter.loudness()


def as_audiocraft_writes(wav):
    """normalize_audio(strategy="loudness", loudness_headroom_db=14), measured by another meter."""
    return (wav * 10 ** ((-14 - measured(wav)) / 20)).clamp(-1, 1)


def heard(judge, wav):
    return judge.embed_audio(wav[None, None], torch.tensor([len(wav)]))


def test_musicgen_paper_is_what_audiocraft_computes(tmp_path):
    judge_folder = random_judge(tmp_path / "judge")
    network = load_judge(judge_folder)
    vggish = f"vggish:{judge_weights.vggish_file(tmp_path / 'vggish.pth')}"
    seconds = {name: length for name, length in SECONDS.items() if length > 1}  # VGGish hears whole seconds
    made, real = (
        clips(tmp_path / "made", seconds, 57, 0.1, 7),
        clips(tmp_path / "real", seconds, 60, 0.4, 5, silent=2.6),
    )
    judges = {"fad": vggish, "kld": str(judge_folder), "clap": str(judge_folder)}
    found = evaluate(made, real, judges, tmp_path / "results.json", protocol="musicgen-paper")

    divergences, per_clip, cosines, agree = [], {}, [], []
    windows = {"made": [], "real": []}
    for name in sorted(seconds):
        y_pred, y = (read_audio(folder / f"{name}.wav", sample_rate=RATE) for folder in (made, real))
        y_pred = as_audiocraft_writes(y_pred)
        # KL: torch.split at 20 s, what has no more than 0.15 s dropped, softmax of every segment
        probabilities = []
        for wav in (y_pred, y):
            at_16k = resample(wav, RATE, network.sample_rate)[0]
            segments = [some for some in torch.split(at_16k, 20 * 16_000) if len(some) > 0.15 * 16_000]
            probabilities.append([softmax(heard(network, some).logits[0].tolist()) for some in segments])
        mine = [kl(p, q) for q, p in zip(*probabilities, strict=True)]
        divergences += mine
        per_clip[name] = np.mean(mine)
        # CLAP: of each window that could have been the random one
        sound, text = heard(network, resample(y_pred, RATE, 16_000)[0]), network.embed_text([f"caption {name}"])[0]
        cosines.append(np.mean([float(torch.cosine_similarity(one, text, dim=0)) for one in sound.windows()[0]]))
        # chroma: argmax of every frame, silent or not
        classes = []
        for wav in (y_pred, y):
            chroma, _ = ChromaExtractor(RATE)(wav)
            classes.append(chroma[0].argmax(-1).tolist()[: math.ceil(wav.shape[-1] / 4096)])
        agree += [a == b for a, b in zip(*classes, strict=True)]
        # FAD: Google's windows and normalisation of what was written in 16 bits
        for side, wav in (("made", y_pred), ("real", y)):
            samples = resample(wav, RATE, 16_000)[0]
            samples = samples / max(0.1 * samples.abs().max(), samples.max())
            for start in range(0, len(samples) - 16_000 + 1, 8000):
                windows[side].append(samples[start : start + 16_000])
    assert len(divergences) == 2 + 1 + 1  # the second segment of b is 0.1 s
    assert found["metrics"]["kld"]["value"] == pytest.approx(np.mean(divergences), rel=1e-3)
    assert {clip["id"]: clip["kld"] for clip in found["clips"]} == pytest.approx(per_clip, rel=1e-3)
    assert [clip["votes"]["kld"] for clip in found["clips"]] == [2, 1, 1]
    assert found["metrics"]["clap"]["value"] == pytest.approx(np.mean(cosines), abs=1e-4)
    assert found["metrics"]["chroma"]["value"] == pytest.approx(np.mean(agree), abs=3e-3)
    assert 0.05 < np.mean(agree) < 0.95
    judge = resolve_judge(vggish)
    gaussians = []
    for side in ("real", "made"):
        pieces = torch.stack(windows[side])[:, None]
        embeddings = judge.embed_audio(pieces, torch.full((len(pieces),), 16_000)).embeddings[:, 0].double().numpy()
        gaussians += [embeddings.mean(0), np.cov(embeddings, rowvar=False)]
    assert found["metrics"]["fad"]["windows"] == {
        side: len(windows[key]) for side, key in (("reference", "real"), ("generated", "made"))
    }
    assert found["metrics"]["fad"]["value"] == pytest.approx(frechet_distance(*gaussians), rel=2e-3)


def test_stable_audio_metrics_is_what_it_computes(tmp_path):
    folder = random_judge(tmp_path / "judge", sample_rate=RATE, n_fft=2048, frame_hop=640)
    network = load_judge(folder)
    seconds = SECONDS | {"e": 12.4}
    made = clips(tmp_path / "made", seconds, 50, 0.1, 7)
    real = clips(tmp_path / "real", {name: length + 1 for name, length in seconds.items()}, 53, 0.4, 7)
    judges = {"kld": str(folder), "clap": str(folder)}
    found = evaluate(made, real, judges, tmp_path / "results.json", protocol="stable-audio-metrics")
    wanted, counts = {}, []
    for name in seconds:
        probabilities = []
        for side in (made, real):
            audio = read_audio(side / f"{name}.wav", sample_rate=RATE)[0].numpy()
            audio = audio * 10 ** (-1 / 20) / np.abs(audio).max()
            logits = []
            for start in range(0, max(5 * RATE, len(audio) - 5 * RATE), 5 * RATE):
                window = audio[start : start + 10 * RATE]
                if len(window) < 10 * RATE and len(window) > 0.15 * 10 * RATE:
                    window = np.concatenate([window, np.zeros(10 * RATE - len(window), dtype=np.float32)])
                logits.append(heard(network, torch.from_numpy(window.astype(np.float32))).logits[0].numpy())
            counts.append(len(logits))
            probabilities.append(softmax(np.mean(logits, axis=0).tolist()))
        wanted[name] = kl(*probabilities)
    assert counts == [4, 4, 4, 4, 1, 1, 1, 1, 2, 2]
    assert {clip["id"]: clip["kld"] for clip in found["clips"]} == pytest.approx(wanted, rel=1e-3, abs=1e-6)
    assert found["metrics"]["kld"]["value"] == pytest.approx(np.mean(list(wanted.values())), rel=1e-3)
    assert all("votes" not in clip for clip in found["clips"])


# ---- levels --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("rate", "channels"), [(32_000, 1), (44_100, 2), (16_000, 1)])
def test_loudness_is_what_another_meter_measures(rate, channels):
    wav = 0.02 * torch.randn(channels, 3 * rate, generator=torch.Generator().manual_seed(0))
    wav[0] += 0.05 * torch.sin(torch.arange(3 * rate) * 0.05)
    loud = at_loudness(wav, rate, -30.0)
    assert measured(loud, rate) == pytest.approx(-30, abs=0.02)
    assert (loud / wav).std() < 1e-4
    assert at_loudness(wav, rate, -3.0).abs().max() == 1  # clipped, not squeezed


def test_what_has_no_loudness():
    quiet = torch.full((1, 100), 1e-3)
    assert torch.equal(at_loudness(quiet, 16_000, -14.0), quiet)
    with pytest.raises(InputError, match=r"it lasts 0\.100 s, and loudness needs 0\.4 s"):
        at_loudness(torch.ones(1, 1600), 16_000, -14.0)
    with pytest.raises(InputError, match="cannot be measured"):
        at_loudness(0.1 * torch.sin(torch.arange(160_000) * 2 * math.pi / 16_000)[None], 16_000, -14.0)


def test_peaks():
    wav = torch.tensor([0.1, -0.4, 0.2])
    torch.testing.assert_close(at_peak(wav, Level(peak=-6)), wav / 0.4 * 10**-0.3)
    torch.testing.assert_close(at_peak(wav, Level(peak=0, peak_of="positive")), wav / 0.2)
    for alone in (torch.zeros(3), torch.zeros(0)):
        assert torch.equal(at_peak(alone, Level(peak=0)), alone)
    assert torch.equal(at_peak(wav, Level()), wav)
    assert noise_at_level(torch.randn(16_000), 16_000, Level(loudness=-30, peak=-1)).abs().max() == pytest.approx(
        10**-0.05
    )


def test_levels_of_files(tmp_path):
    """Loudness in the file's own channels and rate, then mono and resampled, then the peak."""
    wav = torch.cat([sine(60, 2.0, 0.2, 44_100), sine(72, 2.0, 0.01, 44_100)])
    write_audio(tmp_path / "a.wav", wav, 44_100)
    stored = read_audio(tmp_path / "a.wav", sample_rate=44_100, channels=2, duration=1.0)
    wanted = resample(at_loudness(stored, 44_100, -20.0).mean(0), 44_100, 16_000)
    found = read_at_level(tmp_path / "a.wav", 16_000, Level(loudness=-20), 1.0)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    peaked = read_at_level(tmp_path / "a.wav", 16_000, Level(loudness=-20, peak=-1), 1.0)
    assert float(peaked.abs().max()) == pytest.approx(10**-0.05)
    plain = read_at_level(tmp_path / "a.wav", 16_000, Level())
    assert torch.equal(plain, read_audio(tmp_path / "a.wav", sample_rate=16_000)[0])
    write_audio(tmp_path / "b.wav", wav[:, :4000], 44_100)
    with pytest.raises(InputError, match=r"b\.wav: it lasts 0\.091 s"):
        read_at_level(tmp_path / "b.wav", 16_000, Level(loudness=-20))


@pytest.mark.parametrize("average", ["embeddings", "cosines"])
def test_clap_averages_embeddings_or_cosines(average):
    generator = torch.Generator().manual_seed(0)
    windows, text = torch.randn(4, 8, generator=generator), torch.randn(8, generator=generator)
    clap = CLAPChoices("clap", Level(), Level(), average, ())
    sound = Sound(None, windows, None, None, 1.0)
    pair = HeardPair(Pair("a", "flute", Path(), Path(), "a"), sound, sound, sound, text, ("", ""))
    found = clip_values(Choices("whole", None, None, clap, None), [pair], [sound], [sound])["clap"].values
    own = [windows.mean(0)] if average == "embeddings" else list(windows)
    wanted = np.mean([float(one @ text / one.norm() / text.norm()) for one in own])
    assert found == [pytest.approx(wanted, rel=1e-5)]
