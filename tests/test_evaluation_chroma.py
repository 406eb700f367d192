"""Chroma against transformers, against tones whose pitch is known, and against padding."""

import pytest
import torch

from datamodules.features.chroma import ChromaExtractor, chroma_one_hot

RATE = 32_000


def tone(hz, seconds):
    return torch.sin(2 * torch.pi * hz * torch.arange(round(seconds * RATE)) / RATE)


def note(pitch, seconds, partials=4):
    hz = 440 * 2 ** ((pitch - 69) / 12)
    return sum(tone(hz * k, seconds) / k**2 for k in range(1, partials + 1))


@pytest.mark.parametrize("octave", [3, 4, 5])
def test_the_twelve_notes_fall_into_their_classes(octave):
    wav = torch.stack([note(12 * (octave + 1) + pitch_class, 2.0) for pitch_class in range(12)])
    chroma, mask = ChromaExtractor()(wav)
    assert mask.all()
    assert torch.equal(chroma.argmax(-1), torch.arange(12)[:, None].expand(-1, chroma.shape[1]))
    assert chroma.amax(-1).eq(1).all()


def test_a_scale_of_c_major_in_time():
    degrees = [0, 2, 4, 5, 7, 9, 11, 12]
    wav = torch.cat([note(60 + degree, 1.024) for degree in degrees])
    chroma, _ = ChromaExtractor()(wav[None])
    heard = chroma_one_hot(chroma)[0].argmax(-1)
    # 8 frames a note; those in its middle see nothing of its neighbours
    assert [int(heard[8 * place + 4]) for place in range(8)] == [degree % 12 for degree in degrees]


@pytest.mark.parametrize("samples", [3 * RATE, 100_001, 9_000])
def test_one_hot_equals_transformers(samples):
    transformers = pytest.importorskip("transformers")
    wav = torch.randn(2, samples, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    wav = wav / wav.abs().amax(-1, keepdim=True)
    theirs = transformers.MusicgenMelodyFeatureExtractor()._torch_extract_fbank_features(wav.clone())
    chroma, _ = ChromaExtractor()(wav)
    ours = chroma_one_hot(chroma)
    frames = min(ours.shape[1], -(-samples // 4096))  # ours are zero beyond the clip's own frames
    assert (ours[:, :frames] == theirs[:, :frames]).all(-1).float().mean() > 0.97


def test_padding_never_counts():
    extractor = ChromaExtractor()
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(length, generator=generator) for length in (50_000, 9_000, 131_072)]
    lengths = torch.tensor([len(clip) for clip in clips])
    for padding in (0.0, 7.0):
        batch = torch.full((3, 140_000), padding)
        for row, clip in zip(batch, clips, strict=True):
            row[: len(clip)] = clip
        together, mask = extractor(batch, lengths)
        assert mask.sum(-1).tolist() == extractor.frames(lengths).tolist() == [13, 3, 32]
        for row, clip in enumerate(clips):
            alone, _ = extractor(clip[None])
            count = int(mask[row].sum())
            torch.testing.assert_close(together[row, :count], alone[0, :count], atol=1e-5, rtol=1e-5)
            assert (together[row, count:] == 0).all()


def test_thirty_seconds_have_235_frames_and_channels_are_mixed():
    wav = torch.randn(1, 2, 30 * RATE)
    chroma, mask = ChromaExtractor()(wav)
    assert int(mask.sum()) == 235
    torch.testing.assert_close(chroma, ChromaExtractor()(wav.mean(1))[0])


def test_silence():
    wav = torch.cat([torch.zeros(2 * RATE), note(69, 2.0)])
    chroma, _ = ChromaExtractor()(wav[None])
    assert chroma.isfinite().all()
    first = chroma_one_hot(chroma)[0, 0]
    assert int(first.argmax()) == 0
    assert first.sum() == 1
    assert chroma_one_hot(chroma, silent_class=None)[0, 0].sum() == 0
    assert int(chroma_one_hot(chroma, silent_class=None)[0, -1].argmax()) == 9
