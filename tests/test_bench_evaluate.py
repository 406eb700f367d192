"""`mgl bench evaluate`: both sides have one network, give one number, and are measured."""

import sys
from importlib import import_module
from types import ModuleType

import pytest
import torch
from transformers import EncodecModel

from datamodules.errors import InputError
from evaluation.judges.network import NetworkJudge
from experiments.benchmarks import evaluate as bench
from experiments.commands.bench import bench as command


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "_SECONDS", 1)
    monkeypatch.setenv("MGL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    bench.write_codec(tmp_path / "codec")
    bench.write_pairs(tmp_path / "24000", 2, 24_000)
    return tmp_path


def test_the_peers_network_is_ours(folder):
    encodec = pytest.importorskip("encodec")
    theirs = encodec.EncodecModel.encodec_model_24khz(pretrained=False).eval()
    theirs.encoder.load_state_dict(torch.load(folder / "codec" / "peer.pt", weights_only=True))
    ours, wav = EncodecModel.from_pretrained(folder / "codec").eval(), 0.1 * torch.randn(1, 1, 8000)
    with torch.no_grad():
        wanted = ours.encoder(wav)
        torch.testing.assert_close(theirs.encoder(wav), wanted, atol=1e-5, rtol=1e-4)
    assert wanted.std(-1).median() > 0.01  # alive: no constant


def test_both_give_the_same_number_without_a_network(folder, monkeypatch):
    if not bench._has_peer():
        pytest.skip("frechet-audio-distance is not installed")
    monkeypatch.setitem(sys.modules, "laion_clap", ModuleType("laion_clap"))
    encodec, theirs = import_module("encodec").EncodecModel, import_module("frechet_audio_distance.fad")
    changed = (
        (NetworkJudge, "embed_audio"),
        (theirs.FrechetAudioDistance, "get_embeddings"),
        (encodec, "encodec_model_24khz"),
    )
    for owner, name in changed:  # is put back at the end; a benchmark's process ends there
        monkeypatch.setattr(owner, name, vars(owner)[name])
    ours, peer = (side(folder, 24_000) for side in (bench.ours_seconds, bench.peer_seconds))
    assert ours["fad"] == pytest.approx(peer["fad"], rel=1e-4)
    assert ours["fad"] > 1e-4
    for side in (ours, peer):
        assert 0 < side["network"] < side["whole"]
        assert side["again"] > 0


def test_rows_say_what_is_whose(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "in_fresh_process", lambda function, *given: function(*given))
    monkeypatch.setattr(bench, "write_codec", lambda folder: None)
    monkeypatch.setattr(bench, "_has_peer", lambda: True)
    turns = iter((4.0, 2.0, 3.0))

    def ours(folder, rate):
        assert (folder / str(rate) / "generated").is_dir()
        return {"fad": 1.0, "whole": next(turns, 3.0), "again": 1.0, "network": 1.5, "network_clip": 0.25}

    def peer(folder, rate):
        return {"fad": 1.00001, "whole": 6.0, "again": 3.0, "network": 3.0, "network_clip": 0.75}

    monkeypatch.setattr(bench, "ours_seconds", ours)
    monkeypatch.setattr(bench, "peer_seconds", peer)
    monkeypatch.setattr(bench, "PAIRS", 3)
    said = []
    rows = bench.evaluate_rows(7, say=said.append)
    assert len(said) == 2 + 3 * 2  # three turns at most
    assert [row.ratio for row in rows[:3]] == [2.0, 3.0, 3.0]
    assert (rows[0].name, rows[0].floor) == ("FAD of 3 pairs of 1 s at 32 kHz", 1.5)
    assert [row.ours for row in rows[3:5]] == [0.5, 0.5]
    assert [row.ours for row in rows[5:]] == pytest.approx([10, 10], rel=1e-3)
    monkeypatch.setattr(bench, "_has_peer", lambda: False)
    alone = bench.evaluate_rows(1, quick=True)
    assert all(row.peer is None for row in alone)
    assert len(alone) == 4


def test_the_command_knows_it():
    with pytest.raises(InputError, match="decode and evaluate alone"):
        command(["metrics"], full=True)
