"""The folder of an evaluation set: its checksum, what was tampered with, and what an interruption leaves."""

import json
import os
from hashlib import sha256

import pytest
import soundfile
from eval_set_sources import RATE, corpus, ids, lines, music_caps, sound

from datamodules.errors import InputError
from datamodules.eval_sets import clips, held_out_set, musiccaps_set, verify
from datamodules.eval_sets.building import build_set
from datamodules.manifest import read_manifest, write_manifest
from datamodules.storage import StorageError


def by_hand(folder):
    """The checksum of a set as its documentation says it is made."""
    rows = []
    for line in lines(folder / "manifest.jsonl"):
        samples, rate = soundfile.read(folder / line["path"], dtype="int16")
        audio = sha256(f"{rate} ".encode() + samples.tobytes()).hexdigest()
        rows.append([line["id"], line["caption"], audio])
    return sha256("".join(json.dumps(row) + "\n" for row in sorted(rows)).encode()).hexdigest()


@pytest.fixture
def held(tmp_path):
    """A set of five clips, and how to make it again."""
    source = corpus(tmp_path / "c", [(name, "test", 1.0, "") for name in "dbeac"])

    def make(out="refs", **options):
        return held_out_set(source, tmp_path / out, **{"seconds": 0.5, "sample_rate": RATE, **options})

    make.source, make.out = source, tmp_path / "refs"
    return make


def rewrite(folder, change):
    """Changes the lines of a manifest, each a dictionary."""
    changed = [change(line) for line in lines(folder / "manifest.jsonl")]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))


def test_checksum_is_over_ids_captions_and_samples(held, tmp_path):
    made = held()
    assert made.checksum == by_hand(held.out) == json.loads((held.out / "set.json").read_text())["checksum"]
    write_manifest(held.source / "manifest.jsonl", list(read_manifest(held.source))[::-1])
    assert held("again").checksum == made.checksum
    assert ids(tmp_path / "again") == ids(held.out)[::-1]
    rewrite(held.source, lambda line: {**line, "caption": line["caption"].replace("about a", "about A")})
    renamed = held("caption")
    assert renamed.checksum != made.checksum
    samples, _ = soundfile.read(held.source / "a.wav", dtype="int16")
    samples[500] += 1
    soundfile.write(held.source / "a.wav", samples, RATE)
    assert held("sample").checksum not in (made.checksum, renamed.checksum)
    assert held("sample").checksum == by_hand(tmp_path / "sample")


def test_verify_passes_what_is_whole_however_it_is_packed(held):
    made = held()
    seen = []
    assert verify(held.out, lambda *state: seen.append(state)) == made
    assert seen[-1] == (5, 5)
    samples, _ = soundfile.read(held.out / "a-0.flac", dtype="int16")
    before = (held.out / "a-0.flac").read_bytes()
    soundfile.write(held.out / "a-0.flac", samples, RATE, compression_level=0.0)
    assert (held.out / "a-0.flac").read_bytes() != before
    verify(held.out)


def tamper_sample(folder):
    samples, _ = soundfile.read(folder / "a-0.flac", dtype="int16")
    samples[7] += 1
    soundfile.write(folder / "a-0.flac", samples, RATE)


def tamper_caption(folder):
    rewrite(
        folder, lambda line: {**line, "caption": line["caption"].upper() if line["id"] == "a-0" else line["caption"]}
    )


def tamper_lines(folder):
    text = (folder / "manifest.jsonl").read_text()
    (folder / "manifest.jsonl").write_text(text.partition("\n")[2])


def tamper_file(folder):
    (folder / "a-0.flac").write_bytes((folder / "a-0.flac").read_bytes()[:300])


TAMPER = {
    "sample": (tamper_sample, "'a-0.flac' has changed"),
    "caption": (tamper_caption, "ids, captions or audio"),
    "a line less": (tamper_lines, "ids, captions or audio"),
    "cut short": (tamper_file, "'a-0.flac' has changed"),
    "gone": (lambda folder: (folder / "a-0.flac").unlink(), "'a-0.flac' has changed"),
    "no record": (lambda folder: (folder / "set.json").unlink(), "no such file"),
    "broken record": (lambda folder: (folder / "set.json").write_text("[1]"), "not the record"),
    "other record": (lambda folder: (folder / "set.json").write_text('{"kind": "x"}'), "not the record"),
}


@pytest.mark.parametrize("name", TAMPER)
def test_verify_finds_what_was_tampered_with(held, name):
    held()
    change, message = TAMPER[name]
    change(held.out)
    with pytest.raises(InputError, match=message):
        verify(held.out)


# ---- interruption, and asking again ---------------------------------------------------------------------------------


@pytest.fixture
def cuts(monkeypatch):
    """Names of the recordings that were read to be cut."""
    seen = []
    read = clips.read_audio

    def watched(path, **options):
        seen.append(path.stem)
        return read(path, **options)

    monkeypatch.setattr(clips, "read_audio", watched)
    return seen


def stat(folder):
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("after", range(1, 6))
def test_an_interrupted_run_goes_on_where_it_stopped(held, cuts, tmp_path, after):
    held("whole")

    def stop(done, total):
        if done == after:
            raise KeyboardInterrupt

    cuts.clear()
    with pytest.raises(KeyboardInterrupt):
        held(progress=stop)
    assert not {"manifest.jsonl", "set.json"} & {path.name for path in held.out.iterdir()}
    if after == 3:  # killed in the middle of a line
        journal = held.out / "clips.jsonl"
        journal.write_text(journal.read_text()[:-20])
        assert cuts == list("dbe")
        cuts[2:] = []
    held()
    assert cuts == list("dbeac")
    assert content(held.out) == content(tmp_path / "whole")
    verify(held.out)


def test_a_clip_is_there_whole_or_not_at_all(held, monkeypatch):
    def write_half(path, wav, rate):
        path.write_bytes(b"fLaC")
        raise KeyboardInterrupt

    monkeypatch.setattr(clips, "write_audio", write_half)
    with pytest.raises(KeyboardInterrupt):
        held()
    assert [path.name for path in held.out.iterdir()] == ["clips.jsonl"]


def test_asking_again_does_nothing(held, cuts):
    made = held()
    before = stat(held.out)
    cuts.clear()
    assert held() == made
    assert not cuts
    assert stat(held.out) == before


def test_asking_for_something_else_cuts_only_what_changed(held, cuts):
    held()
    cuts.clear()
    # More clips of a track lie elsewhere in it, fewer tracks do not.
    assert held(tracks=3).clips == 3
    assert cuts == []
    assert len(list(held.out.glob("*.flac"))) == 3  # what nobody asks for is gone
    held()
    assert len(cuts) == 2
    cuts.clear()
    os.utime(held.source / "e.wav", ns=(1, 1))
    (held.out / "d-0.flac").unlink()
    (held.out / "b-0.flac").write_bytes(b"short")
    held()
    assert cuts == list("dbe")
    cuts.clear()
    assert held(seconds=0.4).seconds == 0.4
    assert len(cuts) == 5
    # A new caption costs no clip.
    cuts.clear()
    rewrite(held.source, lambda line: {**line, "caption": "new"})
    held(seconds=0.4)
    rewrite(held.source, lambda line: {**line, "bpm": 90})
    held(seconds=0.4)
    assert cuts == []
    assert {(track.caption, track.facts["bpm"]) for track in read_manifest(held.out)} == {("new", 90)}
    verify(held.out)


def test_a_set_that_is_being_changed_is_no_set(held):
    held()

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        held(seconds=0.4, progress=stop)
    assert not {"manifest.jsonl", "set.json"} & {path.name for path in held.out.iterdir()}


def test_a_set_never_lies_on_its_own_sources_or_on_something_else(held, tmp_path):
    before = content(held.source)
    with pytest.raises(InputError, match="own folder"):
        held("c")
    corpus(tmp_path / "other", [("x", "test", 1.0, "")])
    with pytest.raises(InputError, match="no evaluation set's"):
        held("other")
    table = music_caps(tmp_path / "m.csv", [("VideoVideo1", 30, "it", False)])
    for out in ("c", "c/deeper"):
        with pytest.raises(InputError, match="lies in the folder of the audio"):
            musiccaps_set(table, held.source, tmp_path / out)
    with pytest.raises(InputError, match="no such folder of audio"):
        musiccaps_set(table, tmp_path / "nowhere", tmp_path / "refs")
    assert content(held.source) == before


def test_a_journal_from_elsewhere_removes_nothing_elsewhere(held, tmp_path):
    held()
    outside = sound(tmp_path / "outside.flac", 1.0)
    line = lines(held.out / "clips.jsonl")[0]
    with (held.out / "clips.jsonl").open("a") as journal:
        journal.write(json.dumps({**line, "name": "../outside"}) + "\n")
    held(seconds=0.4, tracks=2)
    assert outside.exists()


def test_a_store_out_of_reach_ends_the_run(tmp_path):
    def locate():
        raise StorageError("s3://x: no answer")

    wanted = [clips.Wanted("a", locate, "")]
    with pytest.raises(StorageError):
        build_set(tmp_path / "refs", wanted, kind="held-out", seconds=1, sample_rate=RATE, settings={})


def test_two_clips_of_one_id_are_refused(tmp_path):
    source = corpus(tmp_path / "c", [("x--y", "test", 1.0, ""), ("x/y", "test", 1.0, "")])
    with pytest.raises(InputError, match="'x--y-0'"):
        held_out_set(source, tmp_path / "refs", seconds=0.5, sample_rate=RATE)
