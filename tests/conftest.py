"""What all tests share: no network, one thread, nothing left behind, and the smallest things that work.

Nothing heavy is imported at the head of this file: ``pytest_configure`` comes first.
"""

import logging
import os
import shutil
import signal
import tempfile

import pytest
from hypothesis import settings

# No stored examples, and the same ones each time: a failure repeats itself on every machine.
settings.register_profile("suite", database=None, deadline=None, derandomize=True, max_examples=60)
settings.load_profile("suite")


def pytest_configure(config):
    # huggingface_hub reads these once, when it is imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # Hypothesis keeps tables of its own besides the examples.
    storage = tempfile.mkdtemp(prefix="hypothesis-")
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = storage
    config.add_cleanup(lambda: shutil.rmtree(storage, ignore_errors=True))
    cache = os.environ["MGL_CACHE"] = tempfile.mkdtemp(prefix="mgl-cache-")
    config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))

    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _one_thread():
    """Whatever ran before: with two threads attention rounds otherwise, and what is equal bit for bit is not."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def trains_here(monkeypatch, caplog):
    """For trainings within the test's process: its random state and its signals are afterwards what they were.

    Lightning leaves SIGINT ignored after an interruption, and a seed in the environment.
    """
    import torch

    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    caplog.set_level(logging.ERROR, "lightning.pytorch")
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before, handlers = torch.random.get_rng_state(), [signal.getsignal(number) for number in numbers]
    yield
    torch.random.set_rng_state(before)
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where what is heard is kept, of this test alone: nothing is heard by another."""
    monkeypatch.setenv("MGL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "heard"


@pytest.fixture
def judge(tmp_path):
    """The folder of a judge of random weights."""
    from evaluation_clips import random_judge

    return random_judge(tmp_path / "judge")


@pytest.fixture
def codec():
    """A codec whose codebooks are in use."""
    import tiny

    return tiny.codec()


@pytest.fixture
def codec_folder(tmp_path, codec):
    """The same, saved, so that it has a checksum."""
    from lightning_modules.codec.folder import save_codec

    save_codec(tmp_path / "codec", codec)
    return tmp_path / "codec"


@pytest.fixture
def model_folder(tmp_path, codec_folder):
    """A whole model folder: language model, byte-level text encoder, codec."""
    import tiny

    from lightning_modules.checkpoints import save_model

    save_model(tmp_path / "model", tiny.language_model(), tiny.TEXT, tiny.conditioners(), codec_folder)
    return tmp_path / "model"


@pytest.fixture
def model(model_folder):
    """That folder, loaded."""
    from lightning_modules.checkpoints import load_model

    return load_model(model_folder)


@pytest.fixture
def token_store(tmp_path):
    """A token store of random codes: 5 training tracks, 2 for validation."""
    import tiny

    return tiny.write_store(tmp_path / "tokens")


@pytest.fixture(scope="session")
def peers(tmp_path_factory):
    """By kind (``foreign_models.KINDS``): transformers' model, its folder, and ours made of it; made when asked for."""
    made = {}

    def get(kind):
        from foreign_models import KINDS, musicgen, save

        from lightning_modules.converting.run import convert

        if kind not in made:
            folder = tmp_path_factory.mktemp("peer")
            model = musicgen(**KINDS[kind])
            save(model, folder / "hf")
            convert(folder / "hf", folder / "native")
            made[kind] = model, folder / "hf", folder / "native"
        return made[kind]

    return get
