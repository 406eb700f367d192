"""Waveform crops."""

import json

import numpy as np
import pytest
import soundfile
import tiny
import torch

from datamodules.captions import CaptionConfig
from datamodules.crops import AudioCropDataModule
from datamodules.errors import InputError
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


def break_track(manifest, name):
    (manifest / f"{name}.wav").write_text("damaged since the manifest was made")


def test_what_fails_in_mid_run_is_replaced_by_a_fixed_draw(manifest, caplog):
    whole = module(manifest).samples("train", seed=3)
    before = [whole[number] for number in range(200)]
    break_track(manifest, "short")
    data = module(manifest, max_failures=0.9, batch_size=200)
    crops = data.samples("train", seed=3)
    for number, crop in enumerate(before):
        now = crops[number]
        assert torch.equal(now.audio, crops[number].audio)
        if crop.track.id == "short":
            assert now.track.id == "long"
            assert {failure.track for failure in now.failures} == {"short"}
            assert now.start == crops.order.draw(number, len(now.failures)).position * 3.5
        else:
            assert torch.equal(now.audio, crop.audio)
            assert not now.failures
    batch = next(iter(data.train_dataloader()))
    assert data.on_before_batch_transfer(batch, 0) is batch
    assert data.failures.tracks["short"] == len(batch.failures) > 0
    assert caplog.text.count("left out short") == 1


def test_too_many_failures_end_the_run_with_the_list(manifest):
    break_track(manifest, "short")
    data = module(manifest, batch_size=200, max_failures=0.01)
    batch = next(iter(data.train_dataloader()))
    with pytest.raises(InputError, match=r"draws could not be read.*short \("):
        data.on_before_batch_transfer(batch, 0)
    break_track(manifest, "long")
    with pytest.raises(InputError, match="10 draws in a row"):
        data.samples("train", seed=0)[0]


def test_a_track_shorter_than_its_line_says_is_padded_or_replaced(manifest):
    soundfile.write(manifest / "long.wav", tiny.sine(1.2, RATE), RATE)  # the manifest says 4 s
    crops = module(manifest).samples("train", seed=0)
    for number in range(40):
        crop = crops[number]
        assert 0 < crop.audio.shape[1] <= 500
        assert all("nothing can be read" in failure.reason for failure in crop.failures)
    assert any(crops[number].failures for number in range(40))


def test_sources_weigh_as_the_config_says(tmp_path):
    folder = tiny.write_manifest(tmp_path / "c", [(f"t{n}", "train", 0.6, "") for n in range(4)], RATE)
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line["source"] = "big" if number < 3 else "small"
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    crops = module(folder, source_weights={"small": 6.0}).samples("train", 0)
    drawn = [crops.order.draw(number).track for number in range(6000)]
    assert drawn.count(3) / 6000 == pytest.approx(6 / 9, abs=0.03)
    with pytest.raises(InputError, match=r"no source 'tiny'.*'big', 'small'"):
        module(folder, source_weights={"tiny": 1.0}).samples("train", 0)
    with pytest.raises(InputError, match="weight 0"):
        module(folder, source_weights={"big": 0.0, "small": 0.0}).samples("train", 0)


def test_captions_are_augmented_in_training_alone(manifest):
    data = module(manifest, captions=CaptionConfig(drop_word=0.5), batch_size=60)
    batch = next(iter(data.train_dataloader()))
    plain = {"long": "a long one", "short": "a short one"}
    assert any(caption != plain[track] for caption, track in zip(batch.captions, batch.tracks, strict=True))
    assert set(next(iter(data.val_dataloader())).captions) == {"held out"}


def test_crops_from_behind_a_url(manifest, monkeypatch, tmp_path):
    monkeypatch.setenv("MGL_CACHE", str(tmp_path / "cache"))
    local, remote = module(manifest).samples("train", 1), module(f"file://{manifest}").samples("train", 1)
    assert not remote.tracks.local
    for one, other in zip(local.__getitems__([0, 1, 2]), remote.__getitems__([0, 1, 2]), strict=True):
        assert torch.equal(one.audio, other.audio)
