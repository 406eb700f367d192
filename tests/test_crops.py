"""Waveform crops, and evaluation sets cut from held-out tracks."""

import numpy as np
import pytest
import soundfile
import tiny
import torch

from datamodules.audio_io import read_audio
from datamodules.crops import AudioCropDataModule
from datamodules.errors import InputError
from datamodules.eval_sets import held_out_set
from datamodules.manifest import read_manifest

RATE = 1000
TRACKS = [
    ("long", "train", 4.0, "a long one"),
    ("short", "train", 0.25, "a short one"),
    ("held", "valid", 2.0, "held out"),
    ("test", "test", 2.5, "for the test"),
]


@pytest.fixture
def manifest(tmp_path):
    return tiny.write_manifest(tmp_path / "corpus", TRACKS, RATE)


def module(manifest, **options):
    defaults = {"seconds": 0.5, "sample_rate": RATE, "batch_size": 4, "workers": 0, "valid_items": 3}
    data = AudioCropDataModule(str(manifest), **{**defaults, **options})
    data.trainer = tiny.trainer()
    return data


def test_a_crop_is_the_range_that_its_number_says(manifest):
    crops = module(manifest).samples("train", seed=3)
    tracks = {track.id: soundfile.read(track.path, dtype="float32")[0] for track in read_manifest(manifest)}
    starts = []
    for number in range(30):
        crop = crops[number]
        assert torch.equal(crop.audio, crops[number].audio)
        draw = crops.order.draw(number)
        whole = tracks[crop.track.id]
        first = round(draw.position * max(0, len(whole) - 500))
        # The start is rounded to a sample once by us and once here.
        wanted = [whole[start : start + 500] for start in (first - 1, first, first + 1) if start >= 0]
        assert any(len(w) == crop.audio.shape[1] and np.array_equal(crop.audio[0], w) for w in wanted)
        starts.append(first)
    assert len(set(starts)) > 15
    assert {crops[n].track.id for n in range(200)} == {"long", "short"}


def test_batches_are_padded_and_know_their_lengths(manifest):
    batch = next(iter(module(manifest, batch_size=40).train_dataloader()))
    assert batch.audio.shape == (40, 1, 500)
    assert set(zip(batch.tracks, batch.lengths.tolist(), strict=True)) == {("long", 500), ("short", 250)}
    for row, length in zip(batch.audio, batch.lengths, strict=True):
        assert (row[:, length:] == 0).all()
        assert row[:, :length].std() > 0.2
    assert batch.numbers.tolist() == list(range(40))
    assert batch.captions == [{"long": "a long one", "short": "a short one"}[track] for track in batch.tracks]


def test_resampled_crops_have_their_length(manifest):
    batch = next(iter(module(manifest, sample_rate=1600, channels=2, batch_size=20).train_dataloader()))
    assert batch.audio.shape == (20, 2, 800)
    assert set(batch.lengths.tolist()) == {800, 400}
    assert torch.equal(batch.audio[:, 0], batch.audio[:, 1])


def test_validation_never_changes(manifest):
    def validation(seed):
        return torch.cat([batch.audio for batch in module(manifest, seed=seed).val_dataloader()])

    assert validation(0).shape == (3, 1, 500)
    assert torch.equal(validation(0), validation(1))


def test_seeds_differ(manifest):
    one, other = (next(iter(module(manifest, seed=seed).train_dataloader())).audio for seed in (0, 1))
    assert not torch.equal(one, other)


def test_bad_settings_are_refused(manifest, tmp_path):
    with pytest.raises(InputError, match="positive"):
        module(manifest, seconds=0)
    with pytest.raises(InputError, match="no such manifest"):
        module(tmp_path / "nowhere").train_dataloader()
    with pytest.raises(InputError, match="split 'valid'"):
        module(tiny.write_manifest(tmp_path / "other", TRACKS[:2], RATE)).val_dataloader()


def test_reference_clips_are_cut_evenly_and_never_overlap(manifest, tmp_path):
    clips = held_out_set(manifest, tmp_path / "refs", split="test", seconds=0.7, per_track=9, sample_rate=RATE)
    assert [clip.id for clip in clips] == ["test-0", "test-1", "test-2"]  # 2.5 s hold three of 0.7 s
    starts = [clip.facts["start"] for clip in clips]
    gap = (2.5 - 3 * 0.7) / 3
    assert starts == pytest.approx([gap / 2 + i * (0.7 + gap) for i in range(3)], abs=1e-3)
    again = read_manifest(tmp_path / "refs")
    assert [(c.id, c.caption, c.duration, c.facts["track"]) for c in again] == [
        (f"test-{i}", "for the test", 0.7, "test") for i in range(3)
    ]
    source = soundfile.read(manifest / "test.wav", dtype="float32")[0]
    for clip, start in zip(again, starts, strict=True):
        wav = read_audio(clip.path, sample_rate=RATE)[0].numpy()
        assert len(wav) == 700
        first = round(start * RATE)
        assert min(np.abs(wav - source[first + lag : first + lag + 700]).max() for lag in (-1, 0, 1)) < 1e-4


def test_no_clip_fits_is_an_error(manifest, tmp_path):
    with pytest.raises(InputError, match="shorter clips"):
        held_out_set(manifest, tmp_path / "refs", split="test", seconds=5, per_track=1)
    with pytest.raises(InputError, match="split 'nope'"):
        held_out_set(manifest, tmp_path / "refs", split="nope", seconds=1, per_track=1)
