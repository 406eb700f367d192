"""What every codec keeps to: EnCodec, stereo by two passes, DAC; and that nothing behind it needs to know which."""

import pytest
import tiny
import torch

from datamodules.errors import InputError
from lightning_modules.checkpoints import load_model, save_model
from lightning_modules.codec.dac import DAC
from lightning_modules.codec.folder import codec_checksum, load_codec, save_codec
from lightning_modules.codec.stereo import StereoCodec

DAC_SHAPE = {
    "encoder_hidden_size": 4, "downsampling_ratios": [2, 5], "decoder_hidden_size": 16, "n_codebooks": 3,
    "codebook_size": 16, "codebook_dim": 4, "sampling_rate": 800,
}  # fmt: skip


def dac(codebooks=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DAC(DAC_SHAPE, codebooks).eval()


CODECS = {
    "EnCodec": tiny.codec,
    "EnCodec of two channels": lambda: tiny.codec(channels=2),
    "stereo": lambda: StereoCodec(tiny.codec()),
    "DAC": dac,
    "two codebooks of a DAC": lambda: dac(2),
    "stereo DAC": lambda: StereoCodec(dac()),
}


@pytest.fixture(params=CODECS.values(), ids=CODECS)
def any_codec(request):
    return request.param()


def test_frames_are_samples_over_hop_rounded_up(any_codec):
    codec = any_codec
    assert codec.frame_rate == codec.sample_rate / codec.hop
    for samples in (codec.hop, codec.hop + 1, 5 * codec.hop - 1, 403):
        codes = codec.encode(torch.randn(2, codec.channels, samples) * 0.3)
        frames = -(-samples // codec.hop)
        assert codes.shape == (2, codec.codebooks, frames)
        assert codes.dtype == torch.int64
        assert 0 <= codes.min() <= codes.max() < codec.entries
        wav = codec.decode(codes)
        assert wav.shape == (2, codec.channels, frames * codec.hop)
        assert wav.dtype == torch.float32
        assert torch.isfinite(wav).all()


def test_what_does_not_fit_is_refused(any_codec):
    codec = any_codec
    for shape in ((1, codec.channels + 1, 800), (800,), (0, codec.channels, 800)):
        with pytest.raises(InputError, match="wants audio"):
            codec.encode(torch.zeros(shape))
    with pytest.raises(InputError, match="at least a frame"):
        codec.encode(torch.zeros(1, codec.channels, codec.hop - 1))
    with pytest.raises(InputError, match="800 Hz, got 44100 Hz"):
        codec.encode(torch.zeros(1, codec.channels, 800), sample_rate=44100)
    with pytest.raises(InputError, match="not finite"):
        codec.encode(torch.full((1, codec.channels, 800), float("nan")))
    with pytest.raises(InputError, match="wants codes"):
        codec.decode(torch.zeros(1, codec.codebooks + 1, 5, dtype=torch.int64))
    with pytest.raises(InputError, match=r"0\.\.15"):
        codec.decode(torch.full((1, codec.codebooks, 5), 16))


def test_every_codec_survives_its_folder(tmp_path, any_codec):
    save_codec(tmp_path, any_codec)
    again = load_codec(tmp_path)
    assert type(again) is type(any_codec)
    assert again.checksum == any_codec.checksum == codec_checksum(tmp_path)
    wav = torch.randn(2, again.channels, 333) * 0.3
    codes = any_codec.encode(wav)
    assert torch.equal(again.encode(wav), codes)
    assert torch.equal(again.decode(codes), any_codec.decode(codes))


def test_equal_weights_that_mean_something_else_have_another_checksum(tmp_path):
    codec = tiny.codec()
    padded = tiny.codec(pad_mode="constant")
    padded.load_state_dict(codec.state_dict())
    checksums = []
    for name, one in {"mono": codec, "stereo": StereoCodec(codec), "padded": padded}.items():
        save_codec(tmp_path / name, one)
        checksums.append(one.checksum)
    assert len(set(checksums)) == 3
    save_codec(tmp_path / "again", codec, {"licence": "none"})
    assert codec.checksum == checksums[0]  # what is said about a codec changes no code


def test_stereo_takes_the_sides_in_turn():
    mono = tiny.codec()
    codec = StereoCodec(mono)
    wav = torch.randn(3, 2, 400) * 0.3
    codes = codec.encode(wav)
    left, right = mono.encode(wav[:, :1]), mono.encode(wav[:, 1:])
    for k in range(mono.codebooks):
        assert torch.equal(codes[:, 2 * k], left[:, k])
        assert torch.equal(codes[:, 2 * k + 1], right[:, k])
    sides = [mono.decode(side)[:, 0] for side in (left, right)]
    torch.testing.assert_close(codec.decode(codes), torch.stack(sides, 1))
    with pytest.raises(InputError, match="2 channels"):
        StereoCodec(codec)


@torch.no_grad()
def test_dac_is_transformers(tmp_path):
    codec = dac(2)
    wav = torch.randn(2, 1, 397) * 0.3
    whole = torch.nn.functional.pad(wav, (0, 3))
    theirs = codec.model.encode(whole, n_quantizers=2).audio_codes
    assert torch.equal(codec.encode(wav), theirs)
    decoded = codec.model.decode(audio_codes=theirs).audio_values
    torch.testing.assert_close(codec.decode(theirs)[:, 0, : decoded.shape[-1]], decoded)
    for shape, codebooks in (({**DAC_SHAPE, "sampling_rate": "x"}, 2), (DAC_SHAPE, 4), (DAC_SHAPE, 0)):
        with pytest.raises(InputError, match=r"DAC"):
            DAC(shape, codebooks)


@pytest.mark.parametrize("name", ["stereo", "two codebooks of a DAC"])
def test_a_language_model_generates_with_any_codec(tmp_path, name):
    codec = CODECS[name]()
    save_codec(tmp_path / "codec", codec)
    lm = tiny.language_model(codebooks=codec.codebooks, entries=codec.entries)
    save_model(tmp_path / "m", lm, tiny.TEXT, tiny.conditioners(), tmp_path / "codec")
    (clip,) = load_model(tmp_path / "m").generate(["piano"], duration=0.25)
    assert clip.shape == (codec.channels, 200)
    assert torch.isfinite(clip).all()
