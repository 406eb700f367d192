"""The kernels of steps on a GPU, interpreted on a CPU: in a process of its own, as Triton asks for that on import."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

CASES = {
    "mono": ("mono", "float32", 0, 2e-5),
    "an empty text, which no row hears": ("mono", "float32", 1, 2e-5),
    "a text of 2 tokens padded to 4": ("mono", "float32", 2, 2e-5),
    "places of a prefix are hidden": ("melody, padding hidden", "float32", 2, 2e-5),
    "bfloat16": ("mono", "bfloat16", 0, 0.05),
}
_COMPARE = """
import json, sys
import tiny, torch
from test_engine import KINDS, conditions
from lightning_modules.generation import fused
from lightning_modules.generation.decoder import Decoder
from lightning_modules.generation.engine import forced_logits
from lightning_modules.generation.guidance import branches

fused._BLOCK, fused._PROGRAMS = 2, 12  # so that few steps are many parts
for name, (kind, dtype, item, _) in json.loads(sys.argv[1]).items():
    model = tiny.language_model(**KINDS[kind], layers=1, dim=48, heads=3)
    given = conditions(model).select(torch.tensor([item]))
    made, codes = branches(given, model.config.conditions, 3.0), tiny.codes(1, 3)
    wanted, _ = forced_logits(Decoder(model), made, codes)
    logits, mask = forced_logits(Decoder(model.to(getattr(torch, dtype)), fused=True), made, codes)
    print(json.dumps([name, float((logits - wanted)[mask].abs().max()), float(wanted[mask].std())]))
"""


@pytest.fixture(scope="module")
def compared():
    tests = Path(__file__).parent
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": f"{tests.parent}:{tests}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", _COMPARE, json.dumps(CASES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: figures for name, *figures in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", CASES)
def test_logits_are_the_plain_steps(compared, name):
    error, deviation = compared[name]
    assert deviation > 0.3
    assert error < CASES[name][3]
