"""Building the embedded corpus: determinism, splits, resuming, bad input."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.corpus import build_corpus, building
from datamodules.errors import InputError
from datamodules.manifest import read_manifest

SEED = 3
SAMPLES_AT_LEAST = 9 * 32_000


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """The catalogue's cache, away from the user's own, and shared by the modules of a test run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "corpus-cache"))
        yield


@pytest.fixture(scope="module")
def corpus(cache, tmp_path_factory):
    """Ten pieces, made in this process."""
    return build_corpus(tmp_path_factory.mktemp("corpus"), pieces=10, seed=SEED, workers=1).parent


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def group_is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_more_workers_and_fewer_pieces_give_the_same_bits(corpus, tmp_path):
    build_corpus(tmp_path, pieces=4, seed=SEED, workers=2)
    audio = {name: digest for name, digest in digests(tmp_path).items() if name.endswith(".flac")}
    assert len(audio) == 4
    assert audio.items() <= digests(corpus).items()
    few, many = ((folder / "manifest.jsonl").read_text().splitlines() for folder in (tmp_path, corpus))
    assert many[:4] == few


def test_another_seed_is_another_corpus(corpus, tmp_path):
    build_corpus(tmp_path, pieces=2, seed=SEED + 1, workers=1)
    assert not set(digests(tmp_path).values()) & set(digests(corpus).values())


def test_splits_are_eight_one_one_and_disjoint_by_score(corpus):
    tracks = read_manifest(corpus)
    assert sorted(track.split for track in tracks) == ["test"] + ["train"] * 8 + ["valid"]
    assert len({track.facts["score"] for track in tracks}) == 10


def test_the_manifest_says_what_the_files_are(corpus):
    for track in read_manifest(corpus):
        wav, rate = soundfile.read(track.path)
        assert (rate, wav.ndim) == (32_000, 1)
        assert abs(len(wav) / rate - track.duration) < 1e-4
        assert 10 <= track.duration <= 42
        assert set(track.facts["caption_facts"]) <= set(track.facts)
        for name in ("instruments", "families", "drums", "bpm", "bpm_source", "time_signature", "key", "license"):
            assert name in track.facts
        assert track.facts["bpm_source"] in ("score", "assigned")
        assert track.facts["drums"] == ("drums" in track.facts["families"])
        assert -1 <= track.facts["key_correlation"] <= 1


def test_levels_are_even_and_nothing_clips_or_is_cut_off(corpus):
    for track in read_manifest(corpus):
        wav, rate = soundfile.read(track.path)
        assert np.abs(wav).max() <= 10 ** (-1 / 20) + 1e-4
        assert -24 <= 10 * np.log10(np.square(wav).mean()) <= -17.9
        assert np.abs(wav[-rate // 100 :]).max() < 0.005


def test_a_run_that_was_broken_off_is_taken_up(corpus, tmp_path, monkeypatch):
    real, made = building.make_piece, []

    def broken(job):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(job.number)
        return real(job)

    monkeypatch.setattr(building, "make_piece", broken)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(tmp_path, pieces=4, seed=SEED, workers=1)
    assert not (tmp_path / "manifest.jsonl").exists()
    with pytest.raises(InputError, match=f"seed {SEED}, not 8"):
        build_corpus(tmp_path, pieces=4, seed=8, workers=1)
    monkeypatch.setattr(building, "make_piece", lambda job: made.append(job.number) or real(job))
    build_corpus(tmp_path, pieces=4, seed=SEED, workers=1)
    assert sorted(made) == [0, 1, 2, 3]
    assert (tmp_path / "manifest.jsonl").read_text() == "".join(
        (corpus / "manifest.jsonl").read_text().splitlines(keepends=True)[:4]
    )


def test_a_piece_of_another_recipe_is_made_again(corpus, tmp_path, monkeypatch):
    build_corpus(tmp_path, pieces=1, seed=SEED, workers=1)
    before = json.loads((tmp_path / "manifest.jsonl").read_text())["recipe"]
    monkeypatch.setattr(building, "REVISION", building.REVISION + 1)
    build_corpus(tmp_path, pieces=1, seed=SEED, workers=1)
    assert json.loads((tmp_path / "manifest.jsonl").read_text())["recipe"] != before


@pytest.mark.parametrize("sent", ["SIGINT", "SIGKILL"])
def test_a_run_that_is_ended_leaves_no_process_and_no_half_file(tmp_path, sent):
    # A shell's background job ignores Ctrl-C, and so would what it starts.
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script += f"from datamodules.corpus import build_corpus; build_corpus({str(tmp_path)!r}, pieces=500, workers=2)"
    run = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("audio/*.flac"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    if sent == "SIGINT":
        os.killpg(run.pid, signal.SIGINT)
    else:
        os.kill(run.pid, signal.SIGKILL)
    assert run.wait(timeout=20) != 0
    deadline = time.monotonic() + 10
    while group_is_alive(run.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not group_is_alive(run.pid)
    finished = list(tmp_path.glob("audio/*.flac"))
    assert len(finished) >= 2
    assert all(soundfile.read(path)[0].size > SAMPLES_AT_LEAST for path in finished)
    # Who is killed outright cannot tidy up; the next run writes over what is left.
    assert sent == "SIGKILL" or not list(tmp_path.glob("audio/*.partial"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"pieces": 0}, "--pieces"), ({"workers": 0}, "--workers"), ({"soundfont": "no.sf2"}, "no such file")],
)
def test_bad_values_are_refused_in_one_line(tmp_path, arguments, words):
    with pytest.raises(InputError, match=words) as caught:
        build_corpus(tmp_path, **{"pieces": 1, **arguments})
    assert "\n" not in str(caught.value)


def test_a_soundfont_that_is_none_is_refused(tmp_path):
    (tmp_path / "text.sf2").write_text("hello, I am not a SoundFont")
    with pytest.raises(InputError, match="not a SoundFont"):
        build_corpus(tmp_path / "out", pieces=1, soundfont=tmp_path / "text.sf2")


def test_a_file_or_another_corpus_in_the_way_is_refused(corpus, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        build_corpus(tmp_path / "file", pieces=1)
    with pytest.raises(InputError, match=f"seed {SEED}, not 99"):
        build_corpus(corpus, pieces=1, seed=99)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        build_corpus(tmp_path / "file" / "below", pieces=1)


@pytest.mark.parametrize("package", ["music21", "tinysoundfont", "pretty_midi"])
def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch, package):
    from datamodules.corpus import packages

    real = packages.find_spec
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == package else real(name))
    with pytest.raises(InputError, match=f"{package}.*make setup"):
        build_corpus(tmp_path, pieces=1)


def test_importing_the_package_is_cheap():
    script = (
        "import sys, datamodules.corpus, experiments.commands.corpus;"
        "print([name for name in ('music21', 'numpy', 'torch', 'soundfile', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_says_what_it_made(tmp_path, capsys):
    from experiments.__main__ import main

    main(["corpus", "--out", str(tmp_path), "--pieces", "1", "--seed", str(SEED), "--workers", "1"])
    assert "1 pieces" in capsys.readouterr().out
    assert Path(tmp_path, "manifest.jsonl").is_file()
    with pytest.raises(SystemExit) as ended:
        main(["corpus", "--out", str(tmp_path), "--pieces", "0"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
