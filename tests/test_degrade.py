"""Music made worse by a known amount: the amount is the one that was asked for."""

import json

import numpy as np
import pytest
import soundfile
import tiny
import torch

from datamodules.errors import InputError
from datamodules.manifest import read_manifest
from experiments.__main__ import run
from experiments.degrading import Degradation, degrade_tracks
from lightning_modules.codec.folder import save_codec

RATE = 16_000


@pytest.fixture
def manifest(tmp_path):
    names = [(f"t{n}", "test" if n % 2 else "train", 1.5, f"caption {n}") for n in range(8)]
    return tiny.write_manifest(tmp_path / "music", names, RATE)


def degraded(manifest, out, *flags):
    run("degrade", ["--manifest", str(manifest), "--out", str(out), *flags])
    return {track.id: track for track in read_manifest(out)}


def wave(track):
    return soundfile.read(track.path)[0]


def test_noise_lies_as_far_below_as_asked(manifest, tmp_path):
    made = degraded(manifest, tmp_path / "out", "--kind", "noise", "--level", "20")
    for track in read_manifest(manifest):
        clean, noisy = wave(track), wave(made[track.id])
        snr = 10 * np.log10((clean**2).mean() / ((noisy - clean) ** 2).mean())
        assert snr == pytest.approx(20, abs=0.2)
        assert made[track.id].facts["degraded"] == {"kind": "noise", "level": 20}
        assert made[track.id].caption == track.caption
    assert json.loads((tmp_path / "out" / "system.json").read_text()) == {"name": "noise 20"}


def spectrum(samples):
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    return np.fft.rfftfreq(len(samples), 1 / RATE), power


def write_tones(folder, *hertz):
    time = np.arange(2 * RATE) / RATE
    folder.mkdir()
    soundfile.write(folder / "a.wav", sum(0.3 * np.sin(2 * np.pi * one * time) for one in hertz), RATE)
    line = {"id": "a", "path": "a.wav", "duration": 2.0, "sample_rate": RATE, "caption": "tones"}
    (folder / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    return folder


def test_low_pass_takes_what_lies_above_and_nothing_below(tmp_path):
    folder = write_tones(tmp_path / "tones", 500, 3000)
    made = degraded(folder, tmp_path / "out", "--kind", "low-pass", "--level", "1500")["a"]
    hertz, after = spectrum(wave(made))
    before = spectrum(soundfile.read(folder / "a.wav")[0])[1]
    near = [np.abs(hertz - one) < 20 for one in (500, 3000)]
    kept, lost = (10 * np.log10(after[band].sum() / before[band].sum()) for band in near)
    assert kept == pytest.approx(0, abs=0.1)
    # Butterworth: 10 log10(1 + 2^16) dB an octave above
    assert lost == pytest.approx(-48.2, abs=1)


def test_transposed_by_a_semitone_at_the_same_length(tmp_path):
    folder = write_tones(tmp_path / "tones", 800)
    made = degraded(folder, tmp_path / "out", "--kind", "transpose", "--level", "1")["a"]
    hertz, power = spectrum(wave(made))
    assert hertz[power.argmax()] == pytest.approx(800 * 2 ** (1 / 12), rel=0.005)
    assert made.duration == pytest.approx(2.0, abs=1e-3)


def test_codec_with_fewer_codebooks(tmp_path):
    codec = tiny.codec()
    save_codec(tmp_path / "codec", codec)
    manifest = tiny.write_manifest(tmp_path / "music", [("a", "", 1.0, "a tone"), ("b", "", 0.7, "another")])
    made = degraded(manifest, tmp_path / "out", "--kind", "codec", "--level", "2", "--codec", str(tmp_path / "codec"))
    for name, track in {track.id: track for track in read_manifest(manifest)}.items():
        wav = torch.tensor(wave(track), dtype=torch.float32)[None, None]
        codes = codec.encode(wav)[0, :2]
        latents = sum(codec.quantizer.codebooks[k].entries[codes[k]] for k in range(2))  # [T, D]
        wanted = codec.decoder(latents.T[None])[0, 0, : wav.shape[-1]].clamp(-1, 1).detach()
        assert np.abs(wave(made[name]) - wanted.numpy()).max() < 1e-4
    with pytest.raises(InputError, match="1 to 4 codebooks, not 5"):
        degraded(manifest, tmp_path / "x", "--kind", "codec", "--level", "5", "--codec", str(tmp_path / "codec"))


def test_captions_are_others_and_greater_shares_hold_the_smaller(manifest, tmp_path):
    real = {track.id: track for track in read_manifest(manifest)}
    wrong = []
    for share in ("0.3", "0.7", "1"):
        made = degraded(manifest, tmp_path / share, "--kind", "captions", "--share", share)
        wrong.append({name for name in real if made[name].caption != real[name].caption})
        assert all(made[name].path.read_bytes() == real[name].path.read_bytes() for name in real)
        assert {made[name].caption for name in real} <= {track.caption for track in real.values()}
    assert wrong[0] <= wrong[1] < wrong[2] == set(real)


def test_what_is_not_drawn_is_copied(manifest, tmp_path):
    made = degraded(manifest, tmp_path / "out", "--kind", "noise", "--level", "0", "--share", "0.5", "--split", "test")
    real = {track.id: track for track in read_manifest(manifest, "test")}
    assert made.keys() == real.keys()
    for name, track in made.items():
        assert ("degraded" in track.facts) == (track.path.read_bytes() != real[name].path.read_bytes())


@pytest.mark.parametrize(
    ("kind", "level", "share", "said"),
    [
        ("hiss", 1, 1, "no kind 'hiss'"),
        ("noise", None, 1, "give --level"),
        ("captions", 3, 1, "no level"),
        ("noise", 3, 1.5, "from 0 to 1"),
        ("low-pass", 0, 1, "in Hz"),
    ],
)
def test_refusals(kind, level, share, said):
    with pytest.raises(InputError, match=said):
        Degradation(kind, level, share)


def test_wrong_captions_need_different_ones(tmp_path):
    manifest = read_manifest(tiny.write_manifest(tmp_path / "m", [("a", "", 1.0, "same"), ("b", "", 1.0, "same")]))
    with pytest.raises(InputError, match="same"):
        degrade_tracks(manifest, tmp_path / "out", Degradation("captions"))
