"""How long a model takes for a clip: from the command line to the file, and once it is loaded."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

from datamodules.errors import InputError
from experiments.benchmarks.measuring import machine
from lightning_modules.checkpoints import load_model
from lightning_modules.generation.guidance import Guidance

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def generation_seconds(
    model: str, prompt: str, duration: float, guidance: Guidance, threads: int, repeats: int
) -> dict[str, Any]:
    """Times one clip on the CPU.

    Args:
        model: a model folder, or "embedded".
        prompt: the text.
        duration: seconds of the clip.
        guidance: scale of classifier-free guidance, or one for each condition.
        threads: that torch computes with.
        repeats: of the loaded model, after one that is not counted.

    Returns:
        ``cold``, seconds of a whole ``mgl generate`` in a process of its own, and ``warm``, the median of the loaded
        model's; with the machine's description.

    Raises:
        InputError: the model cannot be read, or the command failed.
    """
    cold = _command_seconds(model, prompt, duration, guidance, threads)
    loaded = load_model(model)
    spent = []
    with _computing_with(threads):
        for _ in range(repeats + 1):
            begun = time.perf_counter()
            loaded.generate([prompt], duration, guidance=guidance)
            spent.append(time.perf_counter() - begun)
    return {
        "machine": {**machine(), "threads": threads},
        "duration": duration,
        "cold": cold,
        "warm": median(spent[1:]),
    }


def _command_seconds(model: str, prompt: str, duration: float, guidance: Guidance, threads: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.txt"
        prompts.write_text(prompt + "\n", encoding="utf-8")
        words = ["generate", "--model", model, "--prompts", str(prompts), "--out", f"{folder}/clips", "--device", "cpu"]
        words += ["--duration", str(duration), "--guidance", json.dumps(guidance)]
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "experiments", *words],
            env={**os.environ, **dict.fromkeys(_THREADS, str(threads))},
            capture_output=True,
            text=True,
        )
        spent = time.perf_counter() - begun
    if done.returncode:
        raise InputError(f"`mgl {' '.join(words)}` failed: {done.stderr.strip()[-500:]}")
    return spent


@contextmanager
def _computing_with(threads: int) -> Iterator[None]:
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
