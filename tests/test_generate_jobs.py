"""Jobs of many clips: finished ones are left alone, and no fault costs more than the batch at work."""

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny
import torch
from torchaudio.functional import loudness

from datamodules import whole_files
from datamodules.errors import InputError
from datamodules.manifest import read_manifest
from experiments.__main__ import main
from experiments.jobs import Options, generate_clips
from experiments.jobs.job import Job
from experiments.jobs.predicting import _gathered
from experiments.jobs.requests import FULL_MIX, make_requests, settle_stems
from experiments.jobs.sound import encode, level
from experiments.prompts import Prompt
from lightning_modules.conditioning.melody import MelodyConfig, MelodyEncoder
from lightning_modules.generation.model import MusicModel

README = Path(__file__).parents[1] / "README.md"
PROMPTS = [Prompt(f"p{n}", f"piano {n}", 0.05 + 0.05 * (n % 2), 0) for n in range(7)]


class Counted:
    """A model that tells what it was asked for, and has room for so many seconds at once, the longest counting."""

    def __init__(self, model, room=1000.0):
        self.model, self.room, self.asked = model, room, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, prompts, **options):
        if len(prompts) * max(options["duration"]) > self.room + 1e-9:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.asked.append(options["ids"])
        return self.model.generate(prompts, **options)

    def made(self, prompts, folder, resume=True, **options):
        """Ids that were generated."""
        self.asked.clear()
        folder.mkdir(exist_ok=True)
        generate_clips(self, prompts, folder, Options(**{"batch_size": 3, **options}), "m", resume=resume)
        return sorted(name for ids in self.asked for name in ids)


def content(folder):
    """Clips and manifest; ``system.json`` holds times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "system.json"}


# ---- what is finished ---------------------------------------------------------------------------------------------
def test_only_what_has_changed_is_made_anew(tmp_path, model):
    counted, out = Counted(model), tmp_path / "out"
    assert len(counted.made(PROMPTS, out)) == 7
    straight = content(out)
    assert set(straight) == {"manifest.jsonl", *(f"p{n}.wav" for n in range(7))}
    speed = json.loads((out / "system.json").read_text())["speed"]
    assert counted.made(PROMPTS, out, batch_size=2) == []
    assert content(out) == straight
    assert json.loads((out / "system.json").read_text())["speed"] == speed
    changed = [replace(PROMPTS[0], caption="drums"), replace(PROMPTS[1], seed=1), replace(PROMPTS[2], duration=0.06)]
    assert counted.made([*changed, *PROMPTS[3:]], out) == ["p0", "p1", "p2"]
    assert counted.made(PROMPTS, out) == ["p0", "p1", "p2"]
    assert content(out) == straight
    # Removed, and exchanged for another of the same size.
    (out / "p3.wav").unlink()
    shutil.copy(out / "p6.wav", out / "p4.wav")
    assert counted.made(PROMPTS, out) == ["p3", "p4"]
    assert content(out) == straight
    # Clips of another list stay, and are known when they are asked for again.
    assert counted.made([Prompt("other", "", 0.05, 0)], out) == ["other"]
    assert [track.id for track in read_manifest(out)] == ["other"]
    assert counted.made(PROMPTS[:5], out) == []
    assert counted.made([*PROMPTS, Prompt("other", "", 0.05, 0)], out) == []
    assert not (out / "clips.jsonl").exists()
    # A model in training has no checksum to go by.
    assert len(counted.made(PROMPTS, out, resume=False)) == 7


def test_every_setting_of_a_clip_counts_and_no_other(tmp_path, model):
    def keys(**options):
        return [request.key for request in make_requests(model, PROMPTS[:1], Options(**options))]

    changes = {
        "guidance": 2.0, "negative": "noise", "top_k": 3, "temperature": 0.5, "top_p": 0.9, "precision": "bf16",
        "format": "flac", "loudness": -14.0, "stride": 5.0,
    }  # fmt: skip
    assert set(changes) == set(Options().settings())
    different = [keys(), *(keys(**{name: value}) for name, value in changes.items())]
    assert len({key for (key,) in different}) == len(different)
    assert keys(batch_size=5) == keys()
    before = keys()
    for thing in (model, model.codec):
        checksum, thing.checksum = thing.checksum, "another"
        assert keys() != before
        thing.checksum = checksum
    assert keys() == before
    with torch.no_grad():
        next(model.conditioners.text.parameters()).add_(1)
    assert keys() != before


def test_a_journal_cut_short_costs_one_clip(tmp_path, model):
    counted, out = Counted(model), tmp_path / "out"
    counted.made(PROMPTS, out)
    straight = content(out)
    # As a kill leaves it: no manifest, the last line of the journal torn, a file that was not finished.
    lines = [
        {"name": f"{track.id}.wav", "request": track.facts["request"], "sha256": track.facts["sha256"],
         "seconds": track.duration, "sample_rate": track.sample_rate, "facts": {}, "spent": 1.0, "steps": 2.0}
        for track in read_manifest(out)
    ]  # fmt: skip
    text = "\n".join(json.dumps(line) for line in lines)
    (out / "manifest.jsonl").unlink()
    (out / "clips.0.jsonl").write_text(text[:-5])
    (out / "p6.wav.partial").touch()
    assert counted.made(PROMPTS, out) == ["p6"]
    assert content(out) == straight


# ---- what does not fit --------------------------------------------------------------------------------------------
def test_a_batch_is_halved_until_it_fits(tmp_path, model, capsys):
    straight, halved = tmp_path / "straight", tmp_path / "halved"
    prompts = [*PROMPTS, *(Prompt(f"q{n}", "drums", 0.1, 0) for n in range(5))]
    Counted(model).made(prompts, straight)
    counted = Counted(model, room=0.2)
    counted.made(prompts, halved, batch_size=4)
    said = capsys.readouterr().err
    assert content(halved) == content(straight)
    # Eight of 0.1 s, and four of 0.05 s: as long as two of the others.
    assert [len(ids) for ids in counted.asked] == [2, 2, 2, 2, 4]
    assert "out of memory with 4 clips of 0.1 s at once; 2 at once from here on" in said
    assert said.count("out of memory") == 1
    with pytest.raises(InputError, match=r"one clip of 0\.1 s alone; take shorter clips"):
        Counted(model, room=0.0).made(PROMPTS, tmp_path / "none")


def test_a_full_disk_keeps_what_is_finished(tmp_path, model_folder, model, monkeypatch, capsys):
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"id": p.id, "caption": p.caption}) for p in PROMPTS))
    words = ["generate", "--model", str(model_folder), "--prompts", str(tmp_path / "p.jsonl"), "--duration", "0.05"]
    words += ["--batch_size", "2", "--device", "cpu", "--out"]
    fsync, count = os.fsync, iter(range(100))

    def full(number):
        if next(count) >= 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(number)

    monkeypatch.setattr(whole_files.os, "fsync", full)
    with pytest.raises(SystemExit) as stopped:
        main([*words, str(tmp_path / "out")])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "No space left on device; 5 of 7 clips are finished and stay; make room and give the same command" in said
    assert not list((tmp_path / "out").glob("*.partial"))
    monkeypatch.setattr(whole_files.os, "fsync", fsync)
    main([*words, str(tmp_path / "out")])
    assert capsys.readouterr().out == f"clips: 7 in {tmp_path / 'out'} (5 were finished before)\n"
    main([*words, str(tmp_path / "straight")])
    assert content(tmp_path / "out") == content(tmp_path / "straight")


def test_a_limit_on_the_size_of_files_is_told_from_a_full_disk(tmp_path, model, monkeypatch):
    count = iter(range(100))

    def limited(number):
        if next(count) >= 2:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(whole_files.os, "fsync", limited)
    with pytest.raises(
        InputError, match=r"out: File too large; 2 of 7 clips are finished and stay; raise the limit .*"
    ):
        Counted(model).made(PROMPTS, tmp_path / "out")
    monkeypatch.undo()
    assert len(Counted(model).made(PROMPTS, tmp_path / "out")) == 5


# ---- melodies -----------------------------------------------------------------------------------------------------
def melody_model(codec, stems=""):
    conditioners = tiny.conditioners()
    conditioners.melody = MelodyEncoder(MelodyConfig(frames=9, stems=stems))
    lm = tiny.language_model(cross=(), prefix=("melody", "text"))
    return MusicModel(lm, conditioners, codec, "c" * 64, {})


def sound(path, seconds=30.0, rate=tiny.RATE, channels=1, **options):
    soundfile.write(path, tiny.sine(seconds, rate, channels=channels), rate, **options)
    return path


def test_melodies_of_no_use_are_named_and_the_others_made(tmp_path, codec, monkeypatch):
    model = Counted(melody_model(codec))
    good = sound(tmp_path / "good.flac", rate=8000)
    short = sound(tmp_path / "short.wav", 0.05)
    silent, broken = tmp_path / "silent.wav", tmp_path / "nan.wav"
    soundfile.write(silent, np.zeros(24_000), tiny.RATE)
    soundfile.write(broken, np.full(24_000, np.nan), tiny.RATE, subtype="FLOAT")
    files = [good, silent, None, broken, short, good]
    prompts = [replace(prompt, melody=file, duration=0.05) for prompt, file in zip(PROMPTS, files, strict=False)]
    with pytest.raises(InputError, match=r"^3 of 6 prompts could not be generated.*'p1': .*silent.wav: .*silent") as no:
        model.made(prompts, tmp_path / "out", batch_size=4)
    assert "nan.wav" in str(no.value)
    assert "short.wav" in str(no.value)
    monkeypatch.setattr("experiments.jobs.job._LISTED", 1)
    monkeypatch.setattr("experiments.jobs.job._NAMED", 2)
    with pytest.raises(InputError, match=r"'p1': .*; likewise 'p\d' and 1 more$"):
        model.made(prompts, tmp_path / "out")
    tracks = {track.id: track for track in read_manifest(tmp_path / "out")}
    assert sorted(tracks) == ["p0", "p2", "p5"]
    assert tracks["p0"].facts["melody"] == str(good)
    assert tracks["p0"].facts["melody_sha256"] == tiny.sha256(good)
    assert tracks["p0"].facts["melody_stems"] == FULL_MIX
    assert "melody" not in tracks["p2"].facts
    # The same command goes on with those that are mended, and another content is another melody.
    sound(silent)
    with pytest.raises(InputError, match=r"^2 of 6"):
        model.made(prompts, tmp_path / "out")
    assert [name for ids in model.asked for name in ids if name in tracks] == []
    sound(good, 40.0, 4000)
    with pytest.raises(InputError, match=r"^2 of 6"):
        model.made(prompts, tmp_path / "out")
    assert {"p0", "p5"} <= {name for ids in model.asked for name in ids}
    with pytest.raises(InputError, match=r"prompt 'p1': .*nan.wav: holds samples that are not finite"):
        model.made([replace(prompts[1], melody=broken)], tmp_path / "none")


def test_melodies_of_every_kind_and_continuations(tmp_path, codec):
    kinds = {
        "24bit.wav": {"rate": 44_100, "channels": 2, "subtype": "PCM_24"},
        "surround.flac": {"rate": 8000, "channels": 6},
        "float.wav": {"rate": 11_025, "subtype": "FLOAT"},
        "vorbis.ogg": {"rate": 16_000},
        "opus.opus": {"rate": 48_000, "format": "OGG", "subtype": "OPUS"},
        "layer3.mp3": {"rate": 22_050, "channels": 2},
        "8 bit, \u97f3.wav": {"rate": 96_000, "subtype": "PCM_U8"},
        "a FLAC.mp3": {"rate": 22_050, "format": "FLAC"},
    }
    files = [sound(tmp_path / name, **kind) for name, kind in kinds.items()]
    prompts = [replace(PROMPTS[0], id=f"p{n}", melody=file) for n, file in enumerate(files)]
    start = sound(tmp_path / "start.wav", 0.1)
    prompts.append(replace(PROMPTS[0], id="begun", continuation=start, duration=0.3))
    model, out = Counted(melody_model(codec)), tmp_path / "out"
    assert len(model.made(prompts, out)) == 9
    facts = {track.id: track.facts for track in read_manifest(out)}
    assert [facts[f"p{n}"]["melody_sha256"] for n in range(8)] == [tiny.sha256(file) for file in files]
    assert (facts["begun"]["continuation"], facts["begun"]["continuation_sha256"]) == (str(start), tiny.sha256(start))
    begun, _ = soundfile.read(out / "begun.wav")
    assert len(begun) == round(0.3 * tiny.RATE)
    wav = torch.from_numpy(soundfile.read(start, dtype="float32")[0])[None, None]
    (expected,), said = level(codec.decode(codec.encode(wav))[0].detach(), tiny.RATE, None)
    assert not said
    # Where the codec does not yet hear what was drawn.
    assert np.abs(begun[:40] - expected[:40].numpy()).max() < 1e-3
    # Moved elsewhere it is the same file, changed it is another.
    start = start.rename(tmp_path / "moved.wav")
    prompts[-1] = replace(prompts[-1], continuation=start)
    assert model.made(prompts, out) == []
    sound(start, 0.12)
    assert model.made(prompts, out) == ["begun"]


def test_a_melody_is_parted_into_stems_once_for_all_prompts(tmp_path, codec, monkeypatch):
    parted, summed = [], []

    def separate(wav):
        parted.append(wav.shape[-1])
        return wav

    def summing(path):
        summed.append(path.name)
        return tiny.sha256(path)

    monkeypatch.setattr("datamodules.features.stems.load_separator", lambda name, sample_rate: separate)
    monkeypatch.setattr("experiments.jobs.requests.file_sha256", summing)
    files = [sound(tmp_path / "one.wav", 30.0), sound(tmp_path / "two.flac", 40.0)]
    prompts = [replace(prompt, melody=files[n % 2]) for n, prompt in enumerate(PROMPTS)]
    model = Counted(melody_model(codec, stems="htdemucs"))
    model.made(prompts, tmp_path / "out", batch_size=1)
    assert len(model.asked) == 7
    assert sorted(parted) == [30 * tiny.RATE, 40 * tiny.RATE]
    assert sorted(summed) == ["one.wav", "two.flac"]
    Counted(melody_model(codec, stems="htdemucs")).made(prompts, tmp_path / "together", batch_size=7)
    assert content(tmp_path / "together") == content(tmp_path / "out")
    # What has changed is another melody; and no more are kept than there is room for.
    parted.clear()
    sound(files[0], 50.0)
    model.made(prompts[:1], tmp_path / "out")
    assert parted == [50 * tiny.RATE]
    monkeypatch.setattr("lightning_modules.generation.melodies._KEPT", 1)
    Counted(melody_model(codec, stems="htdemucs")).made(prompts[:4], tmp_path / "few", batch_size=1)
    assert parted[1:] == [40 * tiny.RATE, 50 * tiny.RATE]  # the longer clips, of one melody, come first
    turns = [replace(prompt, duration=0.1) for prompt in prompts[:4]]
    Counted(melody_model(codec, stems="htdemucs")).made(turns, tmp_path / "turns", batch_size=1)
    assert parted[3:] == 2 * [50 * tiny.RATE, 40 * tiny.RATE]


def test_a_melody_that_cannot_be_is_refused_before_any_work(tmp_path, model, codec):
    (tmp_path / "text.mp3").write_text("no music at all")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "song.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0" + bytes(1000))
    for name in ("text.mp3", "empty.wav", "song.m4a"):
        prompts = [PROMPTS[0], replace(PROMPTS[1], melody=tmp_path / name)]
        counted = Counted(melody_model(codec))
        with pytest.raises(InputError, match=f"{name}: not readable as audio .*convert it, for instance to FLAC"):
            counted.made(prompts, tmp_path / "out")
        assert counted.asked == []
    with pytest.raises(InputError, match=r"prompt 'p0' has a melody and this model hears none; .*--melody ''"):
        Counted(model).made([replace(PROMPTS[0], melody=sound(tmp_path / "a.wav"))], tmp_path / "out")


def test_without_demucs_melodies_are_heard_in_the_full_mix_which_is_said(tmp_path, codec, monkeypatch):
    model = melody_model(codec, stems="htdemucs")
    prompts = [replace(PROMPTS[0], melody=sound(tmp_path / "a.wav"))]
    (in_stems,) = make_requests(model, prompts, Options())
    assert in_stems.facts["melody_stems"] == "htdemucs"
    monkeypatch.setattr("experiments.jobs.requests.load_separator", lambda name, sample_rate: None)
    assert settle_stems(model) is None
    assert make_requests(model, prompts, Options()) == [in_stems]

    def missing(name, sample_rate):
        raise InputError("demucs, which parts stems, is not installed")

    monkeypatch.setattr("experiments.jobs.requests.load_separator", missing)
    assert settle_stems(model) == "demucs, which parts stems, is not installed"
    (in_the_mix,) = make_requests(model, prompts, Options())
    assert in_the_mix.facts["melody_stems"] == FULL_MIX
    assert in_the_mix.key != in_stems.key
    Counted(model).made(prompts, tmp_path / "out")  # nothing asks for Demucs any more


# ---- sound --------------------------------------------------------------------------------------------------------
def noise(peak, seconds=3.0, rate=32_000):
    generator = torch.Generator().manual_seed(0)
    wav = torch.randn(1, round(seconds * rate), generator=generator)
    return wav * peak / wav.abs().max()


def test_a_clip_is_as_loud_as_is_asked_for():
    for peak in (0.05, 0.9):
        loud, facts = level(noise(peak), 32_000, -20.0)
        assert float(loudness(loud, 32_000)) == pytest.approx(-20.0, abs=0.1)
        assert torch.allclose(loud, noise(peak) * 10 ** (facts["gain_db"] / 20))
    for quiet in (noise(6e-3), noise(0.5, seconds=0.2), torch.zeros(1, 32_000)):
        same, facts = level(quiet, 32_000, -14.0)
        assert torch.equal(same, quiet)
        assert facts == {"gain_db": None}


def test_peaks_are_rounded_off_and_never_cut():
    for asked, wav in ((-3.0, noise(0.9)), (None, noise(1.7))):
        limited, facts = level(wav, 32_000, asked)
        raw = wav * 10 ** (facts.get("gain_db", 0) / 20)
        assert facts["limited_peak"] == pytest.approx(float(raw.abs().max()), abs=1e-4)
        assert limited.abs().max() < 1
        assert torch.equal(limited[raw.abs() <= 0.8], raw[raw.abs() <= 0.8])
        order = raw.flatten().argsort()
        assert (limited.flatten()[order].diff() >= 0).all()  # louder stays louder
        assert (limited.abs() <= raw.abs()).all()
    assert level(noise(1.0), 32_000, None)[1] == {}


@pytest.mark.parametrize(("kind", "error"), [("wav", 2**-15), ("flac", 2**-15), ("ogg", 0.1)])
def test_formats_hold_what_was_written(tmp_path, model, kind, error):
    wav = torch.from_numpy(tiny.sine(2.0, 32_000, 440.0, 2).T.copy()).float()
    (tmp_path / f"a.{kind}").write_bytes(encode(wav, 32_000, kind))
    found, rate = soundfile.read(tmp_path / f"a.{kind}")
    assert (found.shape, rate) == ((64_000, 2), 32_000)
    assert np.abs(found.T - wav.numpy()).max() <= error
    Counted(model).made(PROMPTS[:2], tmp_path / "out", format=kind)
    assert [track.path.name for track in read_manifest(tmp_path / "out")] == [f"p0.{kind}", f"p1.{kind}"]
    assert soundfile.info(tmp_path / "out" / f"p1.{kind}").format == kind.upper()
    assert Counted(model).made(PROMPTS[:2], tmp_path / "out", format=kind) == []


@pytest.mark.parametrize("wrong", [{"format": "mp3"}, {"loudness": 3.0}, {"loudness": float("nan")}, {"batch_size": 0}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        Options(**wrong)


# ---- the README ---------------------------------------------------------------------------------------------------
def test_the_thousand_prompts_of_the_readme(tmp_path, monkeypatch, capsys):
    """With the model that ships, but two short prompts; its second line is the first one on two devices."""
    (block,) = re.findall(r"## Generate\n\n```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    first, second = (shlex.split(line)[1:] for line in block.splitlines())
    assert second == [*first, "--devices", "2"]
    monkeypatch.chdir(tmp_path)
    lines = [{"caption": "calm piano", "id": "one", "duration": 0.5}, {"caption": "drums", "duration": 0.4}]
    (tmp_path / "thousand.jsonl").write_text("\n".join(map(json.dumps, lines)))
    main(first)
    tracks = {track.id: track for track in read_manifest(tmp_path / "thousand")}
    assert {name: (track.duration, track.path.suffix) for name, track in tracks.items()} == {
        "one": (0.5, ".flac"), "0001": (0.4, ".flac"),
    }  # fmt: skip
    assert tracks["one"].facts["loudness"] == -14.0
    main(first)
    assert capsys.readouterr().out.endswith("clips: 2 in thousand (2 were finished before)\n")


# ---- processes ----------------------------------------------------------------------------------------------------
def test_processes_share_what_is_pending(tmp_path, model):
    Counted(model).made(PROMPTS[:1], tmp_path)
    job = Job(model, PROMPTS, tmp_path, Options(batch_size=2))
    shares = [job.share(rank, 4) for rank in range(4)]
    assert sorted(one.prompt.id for share in shares for batch in share for one in batch) == [
        f"p{n}" for n in range(1, 7)
    ]
    assert [len(share) for share in shares] == [1, 1, 1, 0]


def test_a_full_disk_in_another_process_is_this_one_s(monkeypatch):
    def gathered(results, own):
        results[:] = own, ({"b": "silent"}, "no space left", True)

    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    reasons, stopped = _gathered({"a": "broken"}, None, 2)
    assert reasons == {"a": "broken", "b": "silent"}
    assert str(stopped) == "no space left"
    assert stopped.__cause__.errno == errno.ENOSPC


def watch_it_end(group):
    """Asks whether processes of the group are there until there is none, which raises, or for ten seconds."""
    for _ in range(200):
        os.killpg(group, 0)
        time.sleep(0.05)


def test_two_processes_finish_what_an_interrupted_one_began(tmp_path, model_folder, model):
    prompts = [{"id": f"p{n}", "caption": f"piano {n}", "duration": 0.5 + 0.3 * (n % 3)} for n in range(30)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    straight = [Prompt(one["id"], one["caption"], one["duration"], 0) for one in prompts]
    Counted(model).made(straight, tmp_path / "straight", batch_size=4)
    # Not what other tests leave in the environment: a rank, a port.
    keep = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LD_LIBRARY_PATH")}
    environment = {**keep, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    out = tmp_path / "out"
    words = [sys.executable, "-m", "experiments", "generate", "--model", model_folder, "--out", out]
    words += ["--prompts", tmp_path / "p.jsonl", "--device", "cpu", "--batch_size"]

    def stopped(sent, code, *more):
        process = subprocess.Popen(
            [*words, "1", *more], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        before = len(list(out.glob("*.wav")))
        while len(list(out.glob("*.wav"))) == before:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        # A terminal tells all processes; who kills one tells the first.
        (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == code, said
        finished = {path: path.stat().st_mtime_ns for path in out.glob("*.wav")}
        assert before < len(finished) < 30
        assert f"{len(finished)} of 30 clips are finished and stay; the same command goes on" in said
        assert "Traceback" not in said
        with pytest.raises(ProcessLookupError):  # soon no process of it is left
            watch_it_end(process.pid)
        return finished

    stopped(signal.SIGINT, 130)
    finished = stopped(signal.SIGTERM, 143, "--devices", "2")
    ended = subprocess.run(
        [*words, "4", "--devices", "2"], env=environment, check=True, capture_output=True, text=True, timeout=120
    )
    assert ended.stdout == f"clips: 30 in {out} ({len(finished)} were finished before)\n"
    assert content(out) == content(tmp_path / "straight")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert json.loads((out / "system.json").read_text())["speed"]["processes"] == 2
