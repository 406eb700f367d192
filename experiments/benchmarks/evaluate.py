"""``mgl bench evaluate``: an evaluation by FAD beside frechet-audio-distance's, with EnCodec's network on both sides.

Every turn is a process of its own, and counts from the files to the number: loading the network, decoding, resampling,
embedding, statistics, distance. Importing is not counted, and neither is compiling what resampy compiles once.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import torch

from datamodules.audio_io import resampler, write_audio
from datamodules.hub import quiet_transformers
from datamodules.manifest import FILE_NAME, Track, write_manifest
from experiments.benchmarks.made_up import RATE, music
from experiments.benchmarks.measuring import Row
from experiments.benchmarks.memory import in_fresh_process

PAIRS, MOST_PAIRS, FEWEST_PAIRS = 24, 200, 2
_SECONDS = 10
_GENERATED, _EVALUATED = 32_000, 24_000  # Hz: of MusicGen's clips, of the codec
# How loud each has the same music, and how much noise is in it.
_SIDES = {"reference": (1.0, 0.0), "generated": (0.8, 0.01), "other": (0.6, 0.03)}
# FAD of every frame of the codec's, and nothing else.
_PROTOCOL = """
heard: generated
fad: {judge: "encodec:%s", generated: null, reference: null, segments: null, kad: false}
kld: null
clap: null
chroma: null
"""


def evaluate_rows(
    repeats: int, quick: bool = False, full: bool = False, say: Callable[[str], object] = lambda text: None
) -> list[Row]:
    """Everything `mgl bench evaluate` measures.

    Args:
        repeats: turns, three at most, for each is a whole evaluation.
        quick: two pairs and one turn: the figures mean little.
        full: 200 pairs.
        say: is told what is being done.
    """
    pairs = FEWEST_PAIRS if quick else MOST_PAIRS if full else PAIRS
    with TemporaryDirectory(prefix="mgl-bench-") as name:
        folder = Path(name)
        say(f"evaluate: {pairs} pairs of {_SECONDS} s, and a network of random weights")
        in_fresh_process(write_codec, folder / "codec")
        for rate in (_GENERATED, _EVALUATED):
            write_pairs(folder / str(rate), pairs if rate == _GENERATED else FEWEST_PAIRS, rate)
        rows = speed_rows(folder, pairs, 1 if quick else min(3, repeats), say)
        if _has_peer():
            say("evaluate: the same number")
            ours, peer = (in_fresh_process(side, folder, _EVALUATED)["fad"] for side in (ours_seconds, peer_seconds))
            rows.append(_difference(f"of {_EVALUATED // 1000} kHz", ours, peer, "< 100"))
        return rows


def write_codec(folder: Path) -> None:
    """Writes an EnCodec of 24 kHz for both sides: transformers' folder, and what the peer's network loads.

    Weights keep the variance of the audio. Those that a fresh network draws make of every sound the same constant.
    """
    from transformers import EncodecConfig, EncodecModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EncodecModel(EncodecConfig())
        for layer in model.encoder.modules():
            if isinstance(layer, torch.nn.Conv1d):
                assert layer.bias is not None
                layer.weight = torch.randn_like(layer.weight) / (layer.in_channels * layer.kernel_size[0]) ** 0.5
                layer.bias.data.zero_()
    with quiet_transformers():
        model.save_pretrained(folder)
    torch.save(peers_names(model.encoder.state_dict()), folder / "peer.pt")


def peers_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The encoder's weights under the names of the package ``encodec``."""
    names = {
        "layers.": "model.",
        ".conv.parametrizations.weight.original0": ".conv.conv.weight_g",
        ".conv.parametrizations.weight.original1": ".conv.conv.weight_v",
        ".conv.bias": ".conv.conv.bias",
    }
    renamed = {}
    for name, tensor in state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    return renamed


def write_pairs(folder: Path, count: int, rate: int) -> None:
    """Writes a folder of mono clips for references and two systems, which have the same music with noise."""
    for side in _SIDES:
        (folder / side).mkdir(parents=True)
    tracks: dict[str, list[Track]] = {side: [] for side in _SIDES}
    for number in range(count):
        wav = resampler(RATE, rate)(torch.from_numpy(music(_SECONDS * number, _SECONDS)).mean(1)[None])
        noise = torch.randn(wav.shape, generator=torch.Generator().manual_seed(number))
        for side, (gain, level) in _SIDES.items():
            path = folder / side / f"{number:04d}.wav"
            write_audio(path, gain * wav + level * noise, rate)
            tracks[side].append(Track(path.stem, path, float(_SECONDS), rate, ""))
    for side in _SIDES:
        # Beside the folder: the peer takes every file in it for a clip.
        write_manifest(folder / f"{side}-{FILE_NAME}", tracks[side])


def speed_rows(folder: Path, pairs: int, repeats: int, say: Callable[[str], object]) -> list[Row]:
    """Seconds of the whole, from nothing and of one more system, and the network's part of each side."""
    sides = {"ours": ours_seconds, "peer": peer_seconds} if _has_peer() else {"ours": ours_seconds}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, side in sides.items():
            say(f"evaluate: {name}, turn {turn + 1} of {repeats}")
            measured[name].append(in_fresh_process(side, folder, _GENERATED))
    found = {
        name: {part: median(turn[part] for turn in turns) for part in turns[0]} for name, turns in measured.items()
    }
    ours, peer = found["ours"], found.get("peer", {})
    what = f"{pairs} pairs of {_SECONDS} s at {_GENERATED // 1000} kHz"
    row = partial(Row, small_is_good=True)
    rows = [
        row(f"FAD of {what}", "s", ours["whole"], peer.get("whole"), ours["network"], "ratio >= 3"),
        row("one more system against the same references", "s", ours["again"], peer.get("again")),
        row("the network's part of the first, a clip", "s", ours["network_clip"], peer.get("network_clip")),
        Row("the network's share of ours", "share", ours["network"] / ours["whole"]),
    ]
    if peer:
        rows.append(Row("the network's share of the peer's", "share", peer["network"] / peer["whole"]))
        rows.append(_difference(f"of {_GENERATED // 1000} kHz, resampled", ours["fad"], peer["fad"]))
    return rows


def _difference(clips: str, ours: float, peer: float, wanted: str = "") -> Row:
    """How far FAD is from the peer's. Where clips are resampled, the two filters are not the same."""
    name = f"difference of FAD from the peer's, clips {clips}"
    return Row(name, "1e-6", abs(ours / peer - 1) * 1e6, wanted=wanted, small_is_good=True)


def ours_seconds(folder: Path, rate: int) -> dict[str, float]:
    """Process seconds of ``evaluate`` of a system: with nothing heard before, then with the references and noise heard.

    It does more than the peer: white noise is heard beside every pair, and intervals are computed.
    """
    import evaluation.judges.encodec  # noqa: F401  before the clock runs
    from evaluation.judges.network import NetworkJudge
    from evaluation.runner import evaluate

    protocol, at = folder / f"protocol-{rate}.yaml", folder / str(rate)
    protocol.write_text(_PROTOCOL % (folder / "codec"))
    network = _timed(NetworkJudge, "embed_audio")
    with TemporaryDirectory(dir=folder) as cache:
        os.environ["MGL_CACHE"] = cache

        def run(system: str) -> float:
            made, real = (at / f"{side}-{FILE_NAME}" for side in (system, "reference"))
            found = evaluate(made, real, out=Path(cache) / "results.json", protocol=protocol, device="cpu")
            return float(found["metrics"]["fad"]["value"])

        return _measured(run, network, 3 * _count(at))


def peer_seconds(folder: Path, rate: int) -> dict[str, float]:
    """The same of frechet-audio-distance, which keeps the references' embeddings in a file where it is told one."""
    # The package imports laion_clap, which asks the network for minutes; EnCodec has no use for it.
    sys.modules.setdefault("laion_clap", ModuleType("laion_clap"))
    encodec: Any = import_module("encodec").EncodecModel
    theirs: Any = import_module("frechet_audio_distance.fad").FrechetAudioDistance
    import_module("resampy").resample(np.zeros(rate, np.float32), rate, _EVALUATED - 1)
    at, fresh = folder / str(rate), encodec.encodec_model_24khz
    network = _timed(theirs, "get_embeddings")

    def ours_to_load() -> Any:
        model = fresh(pretrained=False)
        model.encoder.load_state_dict(torch.load(folder / "codec" / "peer.pt", weights_only=True))
        return model

    # Its constructor would fetch the published weights.
    encodec.encodec_model_24khz = staticmethod(ours_to_load)
    with TemporaryDirectory(dir=folder) as cache:

        def run(system: str) -> float:
            metric = theirs(model_name="encodec", sample_rate=_EVALUATED, channels=1)
            kept = f"{cache}/reference.npy"
            value = float(metric.score(str(at / "reference"), str(at / system), background_embds_path=kept))
            assert value >= 0, "it returns -1 for any error"
            return value

        return _measured(run, network, 2 * _count(at))


def _measured(run: Callable[[str], float], network: Sequence[float], clips: int) -> dict[str, float]:
    """Process seconds of a system and of another one after it; the network's part of the first."""
    begin = time.process_time()
    found = {"fad": run("generated"), "whole": time.process_time() - begin, "network": sum(network)}
    begin = time.process_time()
    run("other")
    return found | {"again": time.process_time() - begin, "network_clip": found["network"] / clips}


def _timed(owner: Any, name: str) -> list[float]:
    """Seconds of every call of a method from now on, of the thread that calls it alone."""
    called, method = list[float](), getattr(owner, name)

    def timed(*given: Any, **named: Any) -> Any:
        begin = time.thread_time()
        try:
            return method(*given, **named)
        finally:
            called.append(time.thread_time() - begin)

    setattr(owner, name, timed)
    return called


def _count(folder: Path) -> int:
    return len(list((folder / "reference").iterdir()))


def _has_peer() -> bool:
    return find_spec("frechet_audio_distance") is not None and find_spec("encodec") is not None
