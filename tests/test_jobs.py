"""Generation jobs: many prompts into a folder that evaluation reads."""

import json

import pytest
import soundfile
import tiny

from datamodules.errors import InputError
from datamodules.manifest import read_manifest
from experiments.jobs import Options, generate_clips
from experiments.jobs.job import batches
from experiments.jobs.requests import make_requests
from experiments.prompts import Prompt

PROMPTS = [
    Prompt("b", "drums", 0.1, 1),
    Prompt("a", "piano", 0.05, 1),
    Prompt("d", "", 0.1, 2),
    Prompt("c", "a flute", 0.1, 1),
]


def samples(folder):
    return {path.stem: soundfile.read(path)[0].tolist() for path in folder.glob("*.wav")}


def test_clips_and_manifest(tmp_path, model, model_folder):
    generate_clips(model, PROMPTS, tmp_path, Options(batch_size=2), str(model_folder))
    tracks = read_manifest(tmp_path)
    assert [track.id for track in tracks] == ["b", "a", "d", "c"]
    for track, prompt in zip(tracks, PROMPTS, strict=True):
        info = soundfile.info(track.path)
        assert (info.frames, info.samplerate) == (round(prompt.duration * tiny.RATE), tiny.RATE)
        assert (track.caption, track.duration, track.sample_rate) == (prompt.caption, prompt.duration, tiny.RATE)
        assert (track.facts["seed"], track.facts["model"]) == (prompt.seed, model.checksum)
        assert track.facts["guidance"] == 3.0
    system = json.loads((tmp_path / "system.json").read_text())
    assert system["checksum"] == model.checksum
    assert system["parameters"]["lm"] == sum(p.numel() for p in model.lm.parameters())
    assert system["speed"]["audio_seconds_per_second"] > 0
    assert "training" not in system


def test_clips_do_not_depend_on_the_batch(tmp_path, model):
    results = []
    for size, order in ((1, PROMPTS), (16, PROMPTS), (2, PROMPTS[::-1])):
        folder = tmp_path / f"{len(results)}"
        folder.mkdir()
        generate_clips(model, order, folder, Options(batch_size=size), "m")
        results.append(samples(folder))
    step = 1 / 2**15  # the samples of 16-bit files may round differently
    for other in results[1:]:
        assert other.keys() == results[0].keys()
        for name, wav in other.items():
            assert wav == pytest.approx(results[0][name], abs=1.5 * step)


def test_batches_begin_with_the_longest(model):
    requests = make_requests(model, PROMPTS, Options())
    assert [[request.prompt.id for request in batch] for batch in batches(requests, 3)] == [["b", "d", "c"], ["a"]]


def test_a_clip_shorter_than_a_frame_is_refused_before_any_work(tmp_path, model):
    with pytest.raises(InputError, match="shorter than one frame"):
        generate_clips(model, [*PROMPTS, Prompt("e", "", 0.009, 0)], tmp_path, Options(), "m")
    assert not list(tmp_path.glob("*.wav"))


def test_records_of_training_travel_along(tmp_path, model, model_folder):
    (model_folder / "training.json").write_text(json.dumps({"steps": 3}))
    (model_folder / "held_out.json").write_text(json.dumps({"n": 4}))
    generate_clips(model, PROMPTS[:1], tmp_path, Options(), str(model_folder))
    system = json.loads((tmp_path / "system.json").read_text())
    assert system["training"] == {"steps": 3, "validation": {"n": 4}}
    assert system["name"] == model_folder.parent.name  # "model" says nothing; its run's folder does
