"""``mgl bench metrics``: Frechet distances beside frechet-audio-distance's, FAD-infinity, and memory.

Shape letters: N embeddings, D their dimensions.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch

from evaluation.fad import FrechetAudioDistance, Matrix, ReferenceGaussian, frechet_distance
from evaluation.fad_infinity import fad_infinity
from experiments.benchmarks.measuring import Row, rates
from experiments.benchmarks.memory import in_fresh_process, peak_memory, start_memory

_DIMS = {128: "vggish", 512: "laion-clap", 2048: "PANN"}
_WANTED = {512: "ratio >= 10", 2048: "ratio >= 10"}
_STEP = 1000


def metric_rows(repeats: int, quick: bool = False, say: Callable[[str], object] = lambda text: None) -> list[Row]:
    """Everything `mgl bench metrics` measures.

    Args:
        repeats: turns of the interleaved functions; three at most for 2048 dimensions, where the peer takes a minute.
        quick: without 2048 dimensions, and a tenth of the embeddings: the figures mean little.
        say: is told what is being done.
    """
    rows = []
    for dim in [*_DIMS][: 2 if quick else 3]:
        say(f"metrics: Frechet distance of {dim} dimensions")
        # Afresh, for the libraries of linear algebra count threads as they are loaded.
        rows += in_fresh_process(distance_rows, dim, repeats if dim < 2048 else min(3, repeats))
    say("metrics: FAD-infinity")
    rows.append(in_fresh_process(infinity_row, 512 // (4 if quick else 1), 2000, repeats))
    for count in (2000, 10_000) if quick else (20_000, 100_000):
        say(f"metrics: memory of FAD over {count:,} embeddings")
        rows.append(memory_row(count, 512))
    return rows


def distance_rows(dim: int, repeats: int) -> list[Row]:
    """Seconds of one Frechet distance of Gaussians at hand, of full rank; the floor is one symmetric eigenproblem."""
    first, second = ((cloud.mean(0), np.cov(cloud, rowvar=False)) for cloud in clouds(dim, 5000))
    peer = peers_distance()
    found: dict[str, Any] = {}
    functions: dict[str, Callable[[], Any]] = {
        "ours": lambda: found.update(ours=frechet_distance(*first, *second)),
        "floor": lambda: np.linalg.eigvalsh(first[1]),
    }
    if peer is not None:
        functions["peer"] = lambda: found.update(peer=float(peer(*first, *second)))
    measured = rates({name: _once(function) for name, function in functions.items()}, repeats)
    seconds = {name: 1 / rate for name, rate in measured.items()}
    name = f"Frechet distance, D = {dim} ({_DIMS[dim]}), n = 5,000"
    wanted = _WANTED.get(dim, "")
    rows = [Row(name, "s", seconds["ours"], seconds.get("peer"), seconds["floor"], wanted, small_is_good=True)]
    if peer is not None:
        off = abs(found["ours"] / found["peer"] - 1) * 1e9
        rows.append(Row(f"{name}: difference from the peer's", "1e-9", off, wanted="< 10", small_is_good=True))
    return rows


def clouds(dim: int, count: int) -> tuple[Matrix, Matrix]:
    """Two sets [N, D] whose variances fall over five orders, as those of real embeddings do, in axes of their own."""
    generator = np.random.default_rng(0)
    fall = np.logspace(0, -2.5, dim)
    turn = np.linalg.qr(generator.normal(size=(dim, dim)))[0]
    first, second = generator.normal(size=(2, count, dim))
    return first * fall @ turn, (1.1 * second * fall + 0.1 * fall) @ turn


def peers_distance() -> Callable[..., float] | None:
    """The calculation of frechet-audio-distance, of means and covariances; None where it is not installed."""
    if find_spec("frechet_audio_distance") is None:
        return None
    # The package imports laion_clap, which asks the network for minutes; the calculation has no use for it.
    sys.modules.setdefault("laion_clap", ModuleType("laion_clap"))
    theirs = import_module("frechet_audio_distance.fad").FrechetAudioDistance
    # Its constructor fetches a network.
    distance: Callable[..., float] = object.__new__(theirs).calculate_frechet_distance
    return distance


def infinity_row(dim: int, count: int, repeats: int) -> Row:
    """Seconds of FAD-infinity with its own sizes and draws, against a reference whose factor is at hand."""
    real, made = clouds(dim, count)
    reference = ReferenceGaussian(real.mean(0), np.cov(real, rowvar=False))
    measured = rates({"ours": _once(lambda: fad_infinity(reference, made))}, repeats)
    return Row(f"FAD-infinity, D = {dim}, n = {count:,}", "s", 1 / measured["ours"], small_is_good=True)


def memory_row(count: int, dim: int) -> Row:
    """Peak MB of FAD over embeddings that come in pieces; peer: kept and stacked. The floor is two sets of moments."""
    ours, peer = (in_fresh_process(fad_memory, count, dim, kept) for kept in (False, True))
    floor = 2 * 8 * (dim**2 + dim + 1) / 1e6
    return Row(f"memory of FAD, D = {dim}, n = {count:,}", "MB", ours, peer, floor, small_is_good=True)


def fad_memory(count: int, dim: int, kept: bool) -> float:
    """MB that FAD over two sets of [N, D] adds to this process.

    Args:
        count: N.
        dim: D.
        kept: gathers all embeddings before it computes, as frechet-audio-distance does.
    """
    generator = torch.Generator().manual_seed(0)
    torch.ones(dim, dim).double() @ torch.ones(dim, dim).double()  # what libraries take once is not counted
    frechet_distance(np.zeros(dim), np.eye(dim), np.zeros(dim), np.eye(dim))
    before = start_memory()
    metric, lists = FrechetAudioDistance(dim), {True: list[torch.Tensor](), False: list[torch.Tensor]()}
    for real in (True, False):
        for _ in range(0, count, _STEP):
            some = torch.randn(_STEP, dim, generator=generator)
            if kept:
                lists[real].append(some)
            else:
                metric.update(some, real=real)
    if kept:
        stacked = [np.concatenate([some.numpy() for some in lists[real]]) for real in (True, False)]
        first, second = ((values.mean(0), np.cov(values, rowvar=False)) for values in stacked)
        frechet_distance(*first, *second)
    else:
        metric.compute()
    return peak_memory() - before


def _once(function: Callable[[], Any]) -> Callable[[], int]:
    def once() -> int:
        function()
        return 1

    return once
