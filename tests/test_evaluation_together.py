"""Clips that are read ahead of being heard, and heard in several processes."""

import threading
import time

import pytest
import torch
from evaluation_clips import IDS, noisy, sine, write_clips

from datamodules.errors import InputError
from datamodules.sample_order import derived_seed
from evaluation import ears, together
from evaluation import heard as heard_before
from evaluation.heard import HeardBefore
from evaluation.judges.panel import resolve_panel
from evaluation.listening import Listener
from evaluation.pairing import pair_clips
from evaluation.protocol import load_protocol
from evaluation.runner import evaluate

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def reference(tmp_path):
    return write_clips(tmp_path / "reference", {name: sine(60 + 2 * k, 3.0) for k, name in enumerate(IDS)})


def many(level, count=19):
    """Three batches, of which the last is not full; two clips are of other lengths."""
    some = noisy(level)
    clips = {f"clip{k:02d}": some[IDS[k % 6]] for k in range(count)}
    return {**clips, "clip03": clips["clip03"][:, :20_000], "clip17": clips["clip17"][:, :12_345]}


def test_the_next_batch_is_read_meanwhile_and_no_more(tmp_path, judge, monkeypatch):
    pairs = pair_clips(write_clips(tmp_path / "made", many(0.1)), write_clips(tmp_path / "real", many(0.0))).pairs
    listener = Listener(resolve_panel(dict.fromkeys(("fad", "kld", "clap"), str(judge))), load_protocol().choices)
    begun, load = [], listener._load

    def loading(pair):
        begun.append(pair.id)
        return load(pair)

    monkeypatch.setattr(listener, "_load", loading)
    threads = threading.active_count()
    batches = listener.listen(pairs)
    for known in (16, 19, 19):
        heard, failed = next(batches)
        assert not failed
        assert [one.pair for one in heard] == pairs[: len(heard)]
        pairs = pairs[len(heard) :]
        while len(begun) < known:
            time.sleep(0.01)
        assert len(begun) == known
    assert not pairs
    assert not list(batches)
    assert threading.active_count() == threads
    # Broken off, as by Ctrl-C.
    batches = listener.listen(pair_clips(tmp_path / "made", tmp_path / "real").pairs)
    next(batches)
    batches.close()
    assert threading.active_count() == threads


def test_a_sound_that_comes_again_is_heard_once(tmp_path, judge, monkeypatch):
    """In one batch, and in the next, which is read before the first was heard."""
    heard = []

    def listening(self, waves, hear=ears.JudgeEar.hear):
        heard.append(len(waves))
        return hear(self, waves)

    monkeypatch.setattr(ears.JudgeEar, "hear", listening)
    same = dict.fromkeys([f"clip{k:02d}" for k in range(10)], sine(60))
    evaluate(write_clips(tmp_path / "made", same), write_clips(tmp_path / "real", same), judge, tmp_path / "out.json")
    # made, real and noise, of which there are 16 kinds
    noises = [{derived_seed(name) % 16 for name in some} for some in (list(same)[:8], list(same)[8:])]
    assert heard == [2 + len(noises[0]), *filter(None, [len(noises[1] - noises[0])])]


def test_ctrl_c_while_something_is_kept_leaves_the_cache_whole(tmp_path, judge, reference, cache, monkeypatch):
    kept = []

    def saving(tensors, path, save=heard_before.save_file):
        save(tensors, path)
        kept.append(path)
        if len(kept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(heard_before, "save_file", saving)
    generated = write_clips(tmp_path / "generated", noisy(0.05))
    with pytest.raises(KeyboardInterrupt):
        evaluate(generated, reference, judge, tmp_path / "results.json")
    files = [file for file in cache.rglob("*") if file.is_file()]
    assert len(files) == 2
    assert all(file.suffix == ".safetensors" for file in files)
    assert not (tmp_path / "results.json").exists()


def test_two_processes_give_the_file_of_one(tmp_path, judge, cache, monkeypatch):
    clips = many(0.1)
    made, real = write_clips(tmp_path / "made", clips), write_clips(tmp_path / "real", many(0.0))
    (made / "clip05.wav").write_bytes(b"not audio")
    one = evaluate(made, real, judge, tmp_path / "one.json", seed=3)
    monkeypatch.setenv("MGL_CACHE", str(tmp_path / "other"))

    def nothing_left(self, waves):
        raise AssertionError("this process has only to gather")

    monkeypatch.setattr(ears.JudgeEar, "hear", nothing_left)
    two = evaluate(made, real, judge, tmp_path / "two.json", seed=3, device="cpu", devices=2)
    assert [failed["id"] for failed in one["failed"]] == ["clip05"]
    assert two == one
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    sides = [
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (cache, tmp_path / "other" / "heard")
    ]
    assert sides[0] == sides[1]


def test_a_process_that_dies_or_cannot_hear_is_told_of_in_one_line(tmp_path, judge, monkeypatch):
    made, real = write_clips(tmp_path / "made", many(0.1)), write_clips(tmp_path / "real", many(0.0))
    asked = (["cpu", "cpu"], dict.fromkeys(("fad", "kld", "clap"), str(judge)), load_protocol().choices, 0)
    pairs, before = pair_clips(made, real).pairs, HeardBefore(tmp_path / "heard")
    with pytest.raises(InputError, match=r"no config\.yaml") as told:
        list(together.hear_together(["cpu"], {"fad": str(tmp_path / "none")}, *asked[2:], before, pairs))
    assert "\n" not in str(told.value)
    started = []

    def dying(share, start=together._start):
        receiver, (device, process) = start(share)
        started.append(process)
        if len(started) == 2:
            process.kill()
        return receiver, (device, process)

    monkeypatch.setattr(together, "_start", dying)
    with pytest.raises(InputError, match=r"on cpu died \(SIGKILL\); what was heard is kept") as told:
        list(together.hear_together(*asked, before, pairs))
    assert "\n" not in str(told.value)
    assert not any(process.is_alive() for process in started)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written .*--devices 1"):
        list(together.hear_together(*asked, HeardBefore(tmp_path / "file" / "heard"), pairs))


def test_devices_are_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert together.choose_devices(None, 0) == ["cuda:0", "cuda:1", "cuda:2"]
    assert together.choose_devices(None, 1) == ["cuda"]
    assert together.choose_devices("cuda", 2) == ["cuda:0", "cuda:1"]
    assert together.choose_devices("cuda:1", 0) == ["cuda:1"]
    assert together.choose_devices("cpu", 0) == ["cpu"]
    assert together.choose_devices("cpu", 2) == ["cpu", "cpu"]
    for device, count, message in ((None, 4, "3 GPUs are visible"), ("cuda:1", 2, "is one"), (None, -1, "1 or more")):
        with pytest.raises(InputError, match=message):
            together.choose_devices(device, count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert together.choose_devices(None, 0) == ["cpu"]
