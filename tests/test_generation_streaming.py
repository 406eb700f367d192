"""Audio while it is drawn: the same as all at once, without seams, and soon."""

from itertools import pairwise

import pytest
import tiny
import torch

from datamodules.audio_io import read_audio
from datamodules.corpus import build_corpus
from datamodules.errors import InputError
from datamodules.manifest import read_manifest
from lightning_modules.checkpoints import load_model
from lightning_modules.codec.stereo import StereoCodec
from lightning_modules.generation.model import MusicModel
from lightning_modules.generation.streaming import Overlapping, audio_chunks
from lightning_modules.lm.patterns import PATTERNS

TOLERANCE = 1e-5  # of full scale, -100 dB: sums are added up in another order


def streamed(codec, codes, length, chunk, ahead, pieces=1):
    """[K, T] decoded as if ``pieces`` frames were drawn at a time."""
    return list(audio_chunks(codec, codes.split(pieces, 1), codes.shape[1], length, chunk, ahead))


SHAPES = [
    {},
    {"lstm_layers": 0},
    {"causal": True, "pad_mode": "constant"},
    {"pad_mode": "reflect", "lstm_layers": 2},
    {"channels": 2, "residual_units": 2},
    {"kernel": 5, "last_kernel": 3, "residual_kernel": 5, "conv_shortcut": True},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("chunk", "ahead", "pieces"), [(0.1, 0.08, 1), (0.01, 0.2, 1), (0.13, 0.1, 7), (9.0, 0.08, 3)])
def test_chunks_are_what_one_pass_decodes(shape, chunk, ahead, pieces):
    codec = tiny.codec(**shape)
    codes = tiny.codes(1, 75)
    (whole,) = codec.decode(codes)
    length = whole.shape[1] - 3
    parts = streamed(codec, codes[0], length, chunk, ahead, pieces)
    assert [part.shape[1] for part in parts[:-1]] == [round(chunk * tiny.RATE)] * (len(parts) - 1)
    joined = torch.cat(parts, 1)
    assert joined.shape == (codec.channels, length)
    torch.testing.assert_close(joined, whole[:, :length], atol=TOLERANCE, rtol=0)


def test_stereo_by_two_passes():
    codec = StereoCodec(tiny.codec())
    codes = tiny.codes(1, 50, codebooks=8)
    (whole,) = codec.decode(codes)
    parts = streamed(codec, codes[0], whole.shape[1], 0.1, 0.1)
    assert len(parts) == 5
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=TOLERANCE, rtol=0)


def test_a_codec_of_which_nothing_is_known_is_decoded_with_context():
    codec = tiny.codec(lstm_layers=0)
    codes = tiny.codes(1, 50)
    decode = Overlapping(codec, 8)
    parts = [decode(codes[..., start : start + 10], start == 40) for start in range(0, 50, 10)]
    assert [part.shape[2] for part in parts] == [8 * n for n in (2, 10, 10, 10, 18)]
    torch.testing.assert_close(torch.cat(parts, 2), codec.decode(codes), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_stream_is_the_sample_that_generate_makes(pattern):
    model = MusicModel(tiny.language_model(pattern), tiny.conditioners(), tiny.codec(), "", {})
    options = {"seed": 5, "ids": ["a"], "top_k": 8}
    (whole,) = model.generate(["piano"], 0.333, **options)
    chunks = list(model.stream("piano", 0.333, chunk=0.1, ahead=0.08, **options))
    assert [chunk.shape for chunk in chunks] == [(1, 80)] * 3 + [(1, 26)]
    torch.testing.assert_close(torch.cat(chunks, 1), whole, atol=TOLERANCE, rtol=0)
    chunks[0] *= 0.5  # no tensor of inference mode


def test_streams_of_windows_and_of_what_is_continued(model):
    audio = torch.from_numpy(tiny.sine(0.3, tiny.RATE)).T.float()
    for options in ({"window": 0.2}, {"continuation": audio}, {"window": 0.2, "continuation": audio}):
        (whole,) = model.generate(["piano"], 0.7, **options)
        joined = torch.cat(list(model.stream("piano", 0.7, chunk=0.1, **options)), 1)
        torch.testing.assert_close(joined, whole, atol=TOLERANCE, rtol=0)
    assert joined.shape == (1, 560)


def test_the_first_sound_comes_after_what_it_needs_and_no_later():
    model = MusicModel(tiny.language_model(), tiny.conditioners(), tiny.codec(), "", {})
    steps = []
    stream = model.stream("piano", 3.0, progress=lambda done, total: steps.append((done, total)))
    assert not steps  # nothing is drawn before it is asked for
    next(stream)
    # A chunk of 1 s and 0.3 s ahead of it at 100 frames a second, and the pattern's delay of 3.
    assert steps[-1] == (133, 303)
    next(stream)
    assert steps[-1] == (233, 303)
    assert sum(chunk.shape[1] for chunk in stream) == 800


def test_what_cannot_be_streamed_is_refused_at_once(model):
    for options, said in (
        ({"chunk": 0.005}, r"a chunk of 0.005 s is shorter than one frame \(0.01 s\)"),
        ({"ahead": -1.0}, "ahead must be seconds"),
        ({"ahead": 0.01}, r"ahead is 0.01 s, and this codec hears 0.0\d s beyond .* there would be clicks"),
        ({"duration": 0.0}, "shorter than one frame"),
        ({"guidance": {"melody": 2.0}}, "guidance names melody"),
    ):
        with pytest.raises(InputError, match=said):
            model.stream("piano", **options)
    with pytest.raises(InputError, match="of one prompt"):
        model.stream(["piano"])


def jumps(wav, hop, borders):
    """The largest second difference at borders of chunks, as a share of the 99.9th percentile elsewhere."""
    second = wav[0].diff(n=2).abs()
    near = torch.zeros(len(second), dtype=torch.bool)
    for border in borders:
        near[border - 3 : border + 3] = True
    return float(second[near].max() / second[~near].quantile(0.999))


def test_no_clicks_in_real_music(tmp_path):
    """The shipped codec on a piece of the corpus: streamed it clicks nowhere; in chunks by themselves it does."""
    codec = load_model("embedded").codec
    (piece,) = read_manifest(build_corpus(tmp_path / "corpus", pieces=1, seed=8, workers=1))
    wav = read_audio(piece.path, sample_rate=32_000, start=1.0, duration=6.0)
    codes = codec.encode(wav[None])
    (whole,) = codec.decode(codes)
    chunks = streamed(codec, codes[0], whole.shape[1], 0.5, 0.1)
    joined = torch.cat(chunks, 1)
    assert (joined - whole).abs().max() < TOLERANCE
    apart = torch.cat([codec.decode(part)[0] for part in codes.split(25, 2)], 1)
    borders = [16_000 * number for number in range(1, len(chunks))]
    assert (apart - whole).abs().max() > 0.01
    assert jumps(joined, codec.hop, borders) < 1 < jumps(apart, codec.hop, borders)
    assert all(one.shape[1] == 16_000 for one, _ in pairwise(chunks))
