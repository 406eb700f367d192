"""Batch and accumulation of a run that goes on with another number of devices."""

import json

import pytest
import torch

from datamodules.errors import InputError
from experiments.planning.here import Here
from experiments.planning.redealing import redealt

LM = "lightning_modules.lm.training.LanguageModelTraining"
CPU = Here(0)


def start(folder, *, devices=8, batch=4, accumulate=6, consumed=192 * 5, model=LM):
    """Config and checkpoint of a run's fifth step."""
    (folder / "checkpoints").mkdir()
    (folder / "environment.json").write_text(json.dumps({"starts": [{"devices": 1}, {"devices": devices}]}))
    checkpoint = folder / "checkpoints" / "last.ckpt"
    torch.save({"global_step": 5, "TokenDataModule": {"consumed": consumed}}, checkpoint)
    trainer = {"accelerator": "gpu", "devices": "auto", "accumulate_grad_batches": accumulate, "val_check_interval": 12}
    config = {"model": {"class_path": model}, "data": {"init_args": {"batch_size": batch}}, "trainer": trainer}
    return config, checkpoint


@pytest.mark.parametrize(
    ("count", "further", "batch", "accumulate"),
    [
        (4, "", 4, 12),
        (16, "", 4, 3),
        (96, "", 2, 1),  # 2 crops each: a device has no more
        (3, "", 4, 16),
        (64, "", 3, 1),
        (4, "--data.init_args.batch_size 8", 8, 6),
        (4, "--trainer.accumulate_grad_batches 1", 4, 1),  # which is another batch, and is said
        (16, "--trainer.devices 2", 4, 24),
        (8, "--trainer.num_nodes 2", 4, 3),
        (8, "--data.init_args.batch_size 12", 12, 2),
    ],
)
def test_a_step_has_the_crops_that_it_had(tmp_path, count, further, batch, accumulate):
    changed, told = redealt(*start(tmp_path), further.split(), Here(count))
    assert changed == {
        "data.init_args.batch_size": batch,
        "trainer.accumulate_grad_batches": accumulate,
        "trainer.val_check_interval": 2 * accumulate,  # steps, in micro-batches
    }
    assert told.endswith(f"x {batch} x {accumulate} micro-batches, before 192 = 8 devices x 4 x 6")
    if "accumulate" not in further:
        assert told.startswith("192 = ")


def test_on_the_same_devices_nothing_changes(tmp_path):
    config, checkpoint = start(tmp_path)
    assert redealt(config, checkpoint, [], Here(8)) == ({}, None)
    torch.save({"global_step": 4, "TokenDataModule": {"consumed": 192 * 3 + 96}}, checkpoint)
    changed, told = redealt(config, checkpoint, [], Here(8))
    assert changed == {}
    assert told == "192 = 8 devices x 4 x 6 micro-batches; steps so far had 168 crops on average"


def test_what_cannot_be_dealt_is_one_line(tmp_path):
    config, checkpoint = start(tmp_path)
    with pytest.raises(InputError, match="192 crops a step cannot be dealt to 5 devices; take 4 or 6"):
        redealt(config, checkpoint, [], Here(5))
    with pytest.raises(InputError, match="asks for 9 GPUs"):
        redealt(config, checkpoint, ["--trainer.devices=9"], Here(4))
    torch.save({"global_step": 4, "TokenDataModule": {"consumed": 192 * 3 + 96}}, checkpoint)
    with pytest.raises(InputError, match="steps had 168 crops on average, and the config says 192 = 8 devices"):
        redealt(config, checkpoint, [], Here(4))
    (tmp_path / "environment.json").unlink()
    with pytest.raises(InputError, match="does not say on how many devices"):
        redealt(config, checkpoint, [], Here(4))


def test_only_language_models_gather_gradients(tmp_path):
    assert redealt(*start(tmp_path, model="lightning_modules.codec.training.CodecTraining"), [], CPU) == ({}, None)
