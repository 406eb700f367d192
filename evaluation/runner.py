"""Evaluates a folder of generated clips against references, and writes results.json."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.errors import InputError
from datamodules.manifest import manifest_path
from evaluation.heard import HeardBefore
from evaluation.judges.contract import Judge
from evaluation.judges.panel import resolve_panel
from evaluation.kld import EPSILON
from evaluation.listening import HeardPair, Listener
from evaluation.pairing import Pair, pair_clips, read_system
from evaluation.scores import KL_DIRECTION, score_pairs
from evaluation.uncertainty import GROUPS, LEVEL, RESAMPLES

FORMAT = 2


def evaluate(
    generated: str | Path,
    reference: str | Path,
    judge: str | Path | Mapping[str, str] = "embedded",
    out: str | Path = "results.json",
    seed: int = 0,
    *,
    device: str | None = None,
) -> dict[str, Any]:
    """Scores generated clips: FAD, KL divergence, CLAP score and chroma similarity, each with an interval.

    Clips are paired with their references by id. A reference longer than its generated clip is heard for as long as
    the clip lasts. Clips that cannot be heard are listed with the reason and leave the scores. What a judge has heard
    before is not heard again (``evaluation.heard``).

    Args:
        generated: folder with the ``manifest.jsonl`` of ``mgl generate``, and perhaps ``system.json``.
        reference: manifest of the references, or a folder that holds one.
        judge: one for all metrics, or one each for fad, kld and clap; see ``resolve_judge``.
        out: results.json, written whole or not at all.
        seed: of everything random.
        device: where the judges run; a GPU if there is one by default.

    Returns:
        What results.json holds.

    Raises:
        InputError: nothing pairs, no such judge or one that does not give what its metric needs, or not one pair could
            be heard.
    """
    out = Path(out)
    pairing = pair_clips(generated, reference)
    system = read_system(generated)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    panel = resolve_panel(judge, device)
    listener = Listener(panel, seed=seed, device=device, before=HeardBefore.from_environment())
    heard, failed = _listen(listener, pairing.pairs)
    if not heard:
        raise InputError(f"none of {len(pairing.pairs)} pairs could be heard; the first: {failed[0]['reason']}")
    failed += [{"id": name, "reason": "no reference has this id"} for name in pairing.only_generated]
    metrics, context, values = score_pairs(heard, seed)
    results = {
        "format": FORMAT,
        "system": dict(system),
        "protocol": _protocol(listener, reference, heard, seed),
        "n": len(heard),
        "failed": failed,
        "not_generated": len(pairing.only_reference),
        "metrics": metrics,
        "context": context,
        "clips": [
            {
                "id": one.pair.id,
                "track": one.pair.track,
                "caption": one.pair.caption,
                "generated": _relative(one.pair.generated, out),
                "reference": _relative(one.pair.reference, out),
                "seconds": round(one.generated.seconds, 3),
                **numbers,
            }
            for one, numbers in zip(heard, values, strict=True)
        ],
    }
    write_json(out, results)
    return results


def _listen(listener: Listener, pairs: Sequence[Pair]) -> tuple[list[HeardPair], list[dict[str, str]]]:
    heard: list[HeardPair] = []
    failed: list[dict[str, str]] = []
    columns = TextColumn("Listening"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(pairs))
        for some, broken in listener.listen(pairs):
            heard += some
            failed += broken
            progress.advance(task, len(some) + len(broken))
    return heard, failed


def _protocol(listener: Listener, reference: str | Path, heard: Sequence[HeardPair], seed: int) -> dict[str, Any]:
    """Everything that a number depends on beside the clips, and where judges and references were found."""
    chroma, panel = listener.chroma, listener.panel
    seconds = [one.generated.seconds for one in heard]
    return {
        "judges": {
            metric: describe_judge(judge) | {"source": panel.sources[metric]}
            for metric, judge in panel.by_metric.items()
        },
        "reference": {
            "manifest": str(reference),
            "sha256": sha256(manifest_path(reference).read_bytes()).hexdigest(),
            "heard": "from its start, for as long as the generated clip lasts",
        },
        "seconds": {"shortest": round(min(seconds), 2), "longest": round(max(seconds), 2)},
        "fad": {"embeddings": "every window of every clip", "form": "symmetric eigenvalues, float64"},
        "kld": {
            "direction": KL_DIRECTION,
            "epsilon": EPSILON,
            "average": "logits averaged over windows, then softmax; mean over clips",
        },
        "clap": {"average": "mean of the windows' embeddings, cosine with the caption; mean over clips"},
        "chroma": {
            "sample_rate": chroma.sample_rate,
            "n_fft": chroma.n_fft,
            "hop": chroma.hop,
            "form": "one-hot; frames with a silent reference left out; mean over frames, then over clips",
            "source": "full mix",
        },
        "loudness": "as the files are",
        "intervals": {"level": LEVEL, "resamples": RESAMPLES, "groups": GROUPS},
        "n": len(heard),
        "tracks": len({one.pair.track for one in heard}),
        "seed": seed,
        "versions": _versions(),
    }


def describe_judge(judge: Judge) -> dict[str, Any]:
    """What identifies a judge in a protocol."""
    return {
        "name": judge.name,
        "checksum": judge.checksum,
        "sample_rate": judge.sample_rate,
        "window": judge.window,
        "hop": judge.hop,
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("musicgen-lightning", "torch", "torchaudio", "librosa", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _relative(path: Path, out: Path) -> str:
    try:
        return Path(os.path.relpath(path, out.resolve().parent)).as_posix()
    except ValueError:  # another drive
        return path.as_posix()


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON, whole or not at all; refuses NaN, which is not JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)
