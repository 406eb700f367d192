"""What is checked of a machine before a run: driver, devices, launchers, encoders at hand."""

import pytest
import tiny

from datamodules.errors import InputError
from datamodules.tokens.store import TokenStore
from experiments.compose import language_model_layers, merged
from experiments.planning import checks
from experiments.planning.checks import at_hand, data_line, melody_line, text_line
from experiments.planning.here import (
    Here,
    devices_of,
    processes,
    require_driver,
    require_launcher,
    require_precision,
    require_strategy,
)
from experiments.planning.subject import codec_layer_facts, subject


@pytest.mark.parametrize(
    ("cuda", "said", "good"),
    [
        ("13.0", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19", False),
        ("13.0", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", True),
        ("12.8", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19", True),
        ("12.8", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13", False),
        (None, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13", True),
    ],
)
def test_a_driver_that_is_too_old_is_named(tmp_path, cuda, said, good):
    file = tmp_path / "version"
    require_driver(cuda, file)  # no driver at all is no old one
    file.write_text(said)
    if good:
        require_driver(cuda, file)
    else:
        with pytest.raises(InputError, match=rf"driver \d+ is too old for this torch, built for CUDA {cuda}"):
            require_driver(cuda, file)


def test_devices_are_those_that_there_are():
    eight = Here(8, "GPU")
    for asked, count in (("auto", 8), (-1, 8), (4, 4), ("2", 2), ([0, 3], 2), ("0,3,5", 3)):
        assert devices_of({"accelerator": "gpu", "devices": asked}, eight) == count
    assert devices_of({"accelerator": "cpu", "devices": 2}, Here(0)) == 2
    assert devices_of({}, eight) == 1
    with pytest.raises(InputError, match="asks for 16 GPUs, and this machine has 8"):
        devices_of({"accelerator": "gpu", "devices": 16}, eight)
    with pytest.raises(InputError, match="none that is usable"):
        devices_of({"accelerator": "gpu"}, Here(0))


SLURM = {"SLURM_NTASKS": "16", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train"}


def test_launchers_start_a_process_a_device():
    require_launcher(8, 2, SLURM)
    require_launcher(8, 1, {})
    require_launcher(4, 1, {**SLURM, "SLURM_JOB_NAME": "bash"})  # an interactive job starts its own
    require_launcher(8, 2, {"LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "16"})
    with pytest.raises(InputError, match="SLURM starts 1 tasks a node, where the run has 8; give --ntasks-per-node=8"):
        require_launcher(8, 2, {**SLURM, "SLURM_NTASKS_PER_NODE": "1"})
    with pytest.raises(InputError, match="SLURM starts 2 nodes, where the run has 1"):
        require_launcher(8, 1, SLURM)
    with pytest.raises(InputError, match="torchrun starts 2 processes a node, where the run has 8"):
        require_launcher(8, 1, {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"})
    with pytest.raises(InputError, match="torchrun starts 2 nodes"):
        require_launcher(8, 1, {"LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "16"})


def test_strategies_are_those_that_there_are():
    for good in ({}, {"accelerator": "gpu", "strategy": "ddp"}, {"strategy": {"class_path": "x.DDPStrategy"}}):
        require_strategy(good)
    with pytest.raises(InputError, match="there is no strategy 'ddpp'; choose auto or ddp"):
        require_strategy({"strategy": "ddpp"})


def test_float16_is_refused_where_it_cannot_train():
    gpu = Here(1, "NVIDIA H100 80GB HBM3", 80e9)
    with pytest.raises(InputError, match="float16 is for GPUs"):
        require_precision({"accelerator": "cpu", "precision": "16-mixed"}, gpu)
    sharded = merged(["cluster/sharded", "precision/16-mixed"])["trainer"]
    with pytest.raises(InputError, match="sharded weights; bf16-mixed does"):
        require_precision(sharded, gpu)
    require_precision(merged(["cluster/gpus", "precision/16-mixed"])["trainer"], gpu)
    with pytest.raises(InputError, match="there is no accelerator 'quantum'; choose cpu or gpu"):
        require_strategy({"accelerator": "quantum"})
    with pytest.raises(InputError, match="fsdp: does not clip gradients by norm; shard with CLUSTER=sharded"):
        require_strategy({"strategy": "fsdp"})


def test_processes_that_were_started():
    assert processes({}) == 1
    assert processes(SLURM) == 16
    assert processes({**SLURM, "SLURM_JOB_NAME": "interactive"}) == 1
    assert processes({"WORLD_SIZE": "4"}) == 4


def test_a_text_encoder_is_here_or_can_be_fetched(tmp_path, monkeypatch):
    recipe = merged(language_model_layers("nano", "delay", "t5", "cpu"))
    one = subject(recipe, codec_layer_facts("nano"))
    text = recipe["model"]["init_args"]["text"]
    with pytest.raises(InputError, match="TEXT=bytes"):
        text_line(one, text)
    monkeypatch.setattr(checks, "hub_reachable", lambda: True)
    assert "to be fetched" in text_line(one, text)
    (tmp_path / "t5").mkdir()
    assert not at_hand(str(tmp_path / "t5"))
    (tmp_path / "t5" / "model.safetensors").touch()
    assert at_hand(str(tmp_path / "t5"))
    assert not at_hand("t5")


def test_data_that_has_an_empty_split_is_refused(tmp_path):
    store = TokenStore(tiny.write_store(tmp_path / "tokens"))
    assert "shorter" not in data_line(store, 0.5)
    assert "2 are shorter than the 2.5 s of a window" in data_line(store, 2.5)
    empty = TokenStore(tiny.write_store(tmp_path / "more", frames=(40, 30)))
    with pytest.raises(InputError, match="no tracks in split 'train'"):
        data_line(empty, 1.0)


def test_melodies_are_those_that_the_model_hears(tmp_path):
    store = TokenStore(tiny.write_store(tmp_path / "tokens"))
    assert melody_line(store, None) == melody_line(store, "") == "the full mix, as the tokens have it"
    with pytest.raises(
        InputError, match=r"heard in the full mix, the model's are heard in htdemucs; .*--stems htdemucs"
    ):
        melody_line(store, "htdemucs")
