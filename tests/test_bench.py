"""Benchmarks: turns, rows, made-up material, and that both sides of a figure do the same work."""

import json
import mmap

import numpy as np
import pytest
import torch
from torchaudio.transforms import Resample

from datamodules.errors import InputError
from datamodules.manifest import read_manifest
from datamodules.tokens import TokenDataset
from datamodules.tokens.store import TokenStore
from experiments.benchmarks import data, made_up, memory, scale
from experiments.benchmarks.measuring import Row, machine, one_thread, rates, table, write_rows
from experiments.commands.bench import bench

FIELDS = {"name", "unit", "ours", "peer", "ratio", "floor"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "store"
    made_up.write_store(folder, np.random.default_rng(0).integers(1000, 3000, 120), shards=3)
    return folder


def test_functions_take_turns_and_medians_are_theirs():
    called, now = [], [0.0]
    costs = {"a": iter([9, 1, 4, 2]), "b": iter([9, 5, 5, 50])}

    def function(name):
        called.append(name)
        now[0] += next(costs[name])
        return 10

    measured = rates({name: lambda name=name: function(name) for name in "ab"}, 3, clock=lambda: now[0])
    assert "".join(called) == "ab" + 3 * "ab"
    assert measured == {"a": 10 / 2, "b": 10 / 5}


def test_ratios_above_one_are_ours_to_boast_of():
    assert Row("rate", "1/s", 6.0, 3.0).ratio == 2
    assert Row("time", "s", 6.0, 3.0, small_is_good=True).ratio == 0.5
    assert Row("memory", "MB", 0.0, 3.0, small_is_good=True).ratio is None
    assert Row("alone", "1/s", 6.0).ratio is None


def test_the_file_is_what_others_read(tmp_path):
    rows = [Row("a", "1/s", 2.0, 1.0, 4.0, ">= 1"), Row("b", "s", 1.0)]
    write_rows(tmp_path / "figures.json", machine(), rows)
    record = json.loads((tmp_path / "figures.json").read_text())
    assert {"cpu", "cores", "threads", "date", "torch", "soundfile", "numpy", "commit"} <= set(record["machine"])
    assert record["rows"][0] == {"name": "a", "unit": "1/s", "ours": 2.0, "peer": 1.0, "ratio": 2.0, "floor": 4.0}
    assert set(record["rows"][1]) == FIELDS
    assert table("title", rows).row_count == 2


def test_one_thread_is_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_a_crop_is_the_peers_crop(tmp_path):
    made_up.write_tracks(tmp_path, (33, 30), ["flac"])
    start = 1.23  # where the filters' phases begin anew: 1.23 s are whole samples of both rates
    ours = data._ranged(tmp_path / "33.flac", start)
    peer = data.whole_then_crop(tmp_path / "33.flac", start, Resample(made_up.RATE, 32000))
    assert ours.shape == peer.shape == (1, 30 * 32000)
    torch.testing.assert_close(ours[:, 100:-100], peer[:, 100:-100], atol=1e-5, rtol=0)
    assert ours.std() > 0.05


def test_crops_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_FORMATS", {"flac": "FLAC"})
    made_up.write_tracks(tmp_path, (33, 30), ["flac"])
    (row,) = data.crop_rows(tmp_path, 33, 1)
    assert set(row.record()) == FIELDS
    assert row.ratio == row.ours / row.peer > 0 < row.floor


def test_the_floor_of_the_windows_copies_the_same_windows(store):
    dataset = TokenDataset(TokenStore(str(store)), "train", 1500, seed=0)
    slices = scale.mapped_slices(dataset, range(50))
    for number, codes in enumerate(slices):
        assert np.array_equal(codes, dataset[number].codes.numpy())
    assert len({codes.shape for codes in slices}) > 1  # also tracks that are shorter than a window


def test_windows_memory_and_draws_are_measured(store, monkeypatch):
    monkeypatch.setattr(scale, "in_fresh_process", lambda function, *arguments: function(*arguments))
    (windows,) = data.window_rows(store, 1, 12)
    (memory,) = scale.memory_rows(store, 300)
    draws = scale.draw_rows(1, quick=True)
    assert windows.ours > 0 < windows.floor
    assert windows.ratio is None
    assert memory.ours >= 0 <= memory.peer
    assert len(draws) == 3
    assert all(row.ours > 0 for row in draws)


def test_made_up_stores_and_manifests_are_whole(tmp_path):
    made_up.write_store(tmp_path / "store", np.full(200, 9000), shards=7, sparse=True)
    made_up.write_manifest(tmp_path / "manifest", 200)
    store = TokenStore(str(tmp_path / "store"))
    assert [track.id for track in store.tracks] == [track.id for track in read_manifest(tmp_path / "manifest")]
    assert len(store.split("valid")) == 4
    blocks = sum(file.stat().st_blocks for file in (tmp_path / "store").glob("*.bin"))
    assert 512 * blocks < 1e5 < store.header.frames


def test_opening_is_measured_in_a_process_of_its_own(tmp_path):
    made_up.write_manifest(tmp_path / "manifest", 500)
    seconds, floor, grown = memory.in_fresh_process(scale.open_manifest, str(tmp_path / "manifest"))
    assert seconds > 0 < floor
    assert 0 <= grown < 100


def test_memory_counts_the_peak_since_the_start():
    def touch(size):
        # Pages of its own: an allocator might hand out memory that is resident already.
        with mmap.mmap(-1, size) as pages:
            pages.write(bytes(size))

    touch(50_000_000)  # before: not counted
    before = memory.start_memory()
    assert memory.peak_memory() - before < 10
    touch(30_000_000)
    assert 25 < memory.peak_memory() - before < 75  # with the bytes that were written


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_training_sees_the_same_samples_from_store_and_memory(tmp_path):
    # Two loader processes take seconds to start; the whole benchmark has them.
    made_up.write_store(tmp_path / "store", np.full(60, 400), shards=1)
    batches = data._batches(tmp_path / "store", 0)
    run, again = data.Training(batches, 4), data.Training(data._batches(tmp_path / "store", 0), 4)
    assert run.steps(2) == again.steps(2) == 2
    assert run.losses == again.losses
    assert run.losses[0] != run.losses[1]


def test_bench_measures_what_it_is_asked_for(tmp_path, monkeypatch, capsys):
    asked = []

    def rows(repeats, quick, say):
        say("part one")
        asked.append((repeats, quick, torch.get_num_threads()))
        return [Row("figure", "1/s", 2.0, 1.0)]

    monkeypatch.setattr(data, "data_rows", rows)
    bench(["data", "data"], json=str(tmp_path / "out.json"), repeats=3, quick=True)
    assert asked == [(3, True, 1)]
    assert json.loads((tmp_path / "out.json").read_text())["rows"][0]["ratio"] == 2.0
    said = capsys.readouterr()
    assert "figure" in said.out
    assert "part one" in said.err


def test_kills_are_counted_by_command(monkeypatch, tmp_path):
    def killed(folder, kills, seed, say):
        exact = {"identical": True, "lost": 0, "half_written": 0}
        return [{"what": "mgl a", **exact}, {"what": "mgl a", **exact, "lost": 1}, {"what": "mgl b", **exact}]

    monkeypatch.setattr("experiments.benchmarks.kills.kill_table", killed)
    bench(["kills"], json=str(tmp_path / "out.json"))
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["name"], row["ours"]) for row in rows] == [
        ("mgl a: kills that left no trace, of 2", 1),
        ("mgl b: kills that left no trace, of 1", 1),
    ]


def test_bench_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(InputError, match="no benchmark 'dta'; choose from data, codec, metrics, "):
        bench(["dta"])
    with pytest.raises(InputError, match="folder does not exist"):
        bench(["data"], json=str(tmp_path / "none" / "out.json"))
