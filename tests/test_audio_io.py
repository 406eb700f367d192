"""Reading ranges of audio files, and writing them."""

from io import BytesIO

import numpy as np
import pytest
import soundfile
import tiny
import torch

from datamodules.audio_io import audio_length, read_audio, to_channels, write_audio
from datamodules.errors import InputError

RATE = 8000


def noise(seconds, rate=RATE, channels=1):
    return np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * rate), channels))


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_ranges_equal_slices_of_the_whole(tmp_path, kind, channels):
    # In the last page of some Vorbis files libsndfile 1.2.2 seeks some 60 samples too far, one sample rate or other.
    rate, path = 32_000, tmp_path / f"a.{kind}"
    soundfile.write(path, noise(3.0, rate, channels), rate)
    whole = soundfile.read(path, dtype="float32", always_2d=True)[0].T
    assert audio_length(path) == (whole.shape[1], rate)
    for start, duration in ((0.0, 1.0), (0.1234, 0.5), (1.77, 0.9), (2.5, None), (2.9, 1.0), (3.5, 1.0)):
        first = round(start * rate)
        last = whole.shape[1] if duration is None else first + round(duration * rate)
        part = read_audio(path, sample_rate=rate, channels=channels, start=start, duration=duration)
        assert part.dtype == torch.float32
        np.testing.assert_allclose(part.numpy(), whole[:, first:last], atol=1e-6)


def test_opus_is_read(tmp_path):
    path = tmp_path / "a.opus"
    soundfile.write(path, tiny.sine(1.0, 48_000, 440), 48_000, format="OGG", subtype="OPUS")
    wav = read_audio(path, sample_rate=32_000)
    assert wav.shape == (1, 32_000)
    assert wav.std() > 0.2


@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 32_000), (8000, 32_000), (48_000, 16_000)])
def test_resampling_keeps_length_pitch_and_level(tmp_path, rate, wanted):
    path = tmp_path / "a.wav"
    soundfile.write(path, tiny.sine(1.0, rate, 1000), rate, subtype="FLOAT")
    wav = read_audio(path, sample_rate=wanted)[0].numpy()
    assert len(wav) == wanted
    spectrum = np.abs(np.fft.rfft(wav))
    assert spectrum.argmax() == 1000
    assert wav[1000:-1000].std() == pytest.approx(0.4 / 2**0.5, rel=0.01)


def test_channels(tmp_path):
    stereo = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert torch.equal(to_channels(stereo, 1), torch.tensor([[2.0, 4.0]]))
    assert torch.equal(to_channels(stereo[:1], 2), stereo[:1].repeat(2, 1))
    assert to_channels(stereo, 2) is stereo
    with pytest.raises(InputError, match="3 channels"):
        to_channels(torch.zeros(3, 5), 2)
    soundfile.write(tmp_path / "a.wav", np.array([[0.2, 0.4]] * 9), RATE, subtype="FLOAT")
    torch.testing.assert_close(read_audio(tmp_path / "a.wav", sample_rate=RATE), torch.full((1, 9), 0.3))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path, bad):
    samples = noise(0.1)
    samples[5] = bad
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(InputError, match="not finite"):
        read_audio(tmp_path / "a.wav", sample_rate=RATE)


def test_what_is_no_audio_is_refused(tmp_path):
    (tmp_path / "a.wav").write_text("this is no audio")
    (tmp_path / "empty.flac").touch()
    for name in ("a.wav", "empty.flac", "missing.wav", "."):
        with pytest.raises(InputError, match="audio"):
            read_audio(tmp_path / name, sample_rate=RATE)
        with pytest.raises(InputError, match="audio"):
            audio_length(tmp_path / name)


@pytest.mark.parametrize("rate", [0, 4_000_000_000])
def test_a_damaged_header_does_not_fill_the_memory(tmp_path, rate):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(0.5), RATE)
    data = bytearray(path.read_bytes())
    assert int.from_bytes(data[24:28], "little") == RATE
    data[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.wav: (its header is damaged|not readable as audio)"):
        read_audio(path, sample_rate=RATE)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_what_is_written_is_read(tmp_path, kind):
    wav = torch.from_numpy(noise(0.5, channels=2).T.copy()).float()
    wav[0, 3], wav[1, 4] = 2.0, -2.0  # clipped
    write_audio(tmp_path / f"a.{kind}", wav, RATE)
    again = read_audio(tmp_path / f"a.{kind}", sample_rate=RATE, channels=2)
    torch.testing.assert_close(again, wav.clamp(-1, 1), atol=2 / 2**15, rtol=0)


def test_an_open_file_gets_what_a_path_gets(tmp_path):
    wav = torch.from_numpy(noise(0.5, channels=2).T.copy()).float()
    for kind in ("wav", "flac"):
        out = BytesIO()
        write_audio(out, wav, RATE, kind)
        write_audio(tmp_path / f"a.{kind}", wav, RATE)
        assert out.getvalue() == (tmp_path / f"a.{kind}").read_bytes()


def test_long_files_are_written_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.audio_io._WRITE_BLOCK_SECONDS", 1)
    wav = torch.from_numpy(noise(2.5).T.copy()).float()
    write_audio(tmp_path / "a.wav", wav, RATE)
    torch.testing.assert_close(read_audio(tmp_path / "a.wav", sample_rate=RATE), wav, atol=2 / 2**15, rtol=0)
