"""What results.json says of how it came about: the protocol, who judged, what was heard, and with which versions."""

import platform
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from datamodules.eval_sets.record import FILE_NAME, read_record
from datamodules.manifest import manifest_path
from evaluation.judges.contract import Judge
from evaluation.listening import HeardPair, Listener
from evaluation.protocol import Protocol
from evaluation.uncertainty import GROUPS, LEVEL, RESAMPLES


def protocol_record(
    protocol: Protocol,
    listener: Listener,
    reference: str | Path,
    heard: Sequence[HeardPair],
    failed: int,
    seed: int,
) -> dict[str, Any]:
    """Everything that a number depends on beside the clips, and where judges and references were found.

    Args:
        protocol: what was asked for.
        listener: who heard.
        reference: manifest of the references, or its folder.
        heard: the pairs that were scored.
        failed: number of clips that were not.
        seed: of everything random.
    """
    said, panel = protocol.record(), listener.panel
    if said["fad"] is not None:
        said["fad"] |= {"form": "symmetric eigenvalues, float64"}
    if listener.chroma is not None:
        said["chroma"] |= {"n_fft": listener.chroma.n_fft, "hop": listener.chroma.hop}
    seconds = [one.generated.seconds for one in heard]
    return said | {
        "judges": {
            metric: describe_judge(judge) | {"source": panel.sources[metric]} for metric, judge in panel.judges.items()
        },
        "reference": _reference(reference),
        "seconds": {"shortest": round(min(seconds), 2), "longest": round(max(seconds), 2)},
        "intervals": {"level": LEVEL, "resamples": RESAMPLES, "groups": GROUPS},
        "n": len(heard),
        "failed": failed,
        "tracks": len({one.pair.track for one in heard}),
        "repeated": {
            side: len(heard) - len({one.contents[place] for one in heard})
            for place, side in enumerate(("generated", "reference"))
        },
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


def _reference(reference: str | Path) -> dict[str, Any]:
    """The manifest of the references and, of a set of ``mgl eval-set``, its checksum, over captions and audio."""
    manifest = manifest_path(reference)
    found: dict[str, Any] = {
        "manifest": str(reference),
        "sha256": sha256(manifest.read_bytes()).hexdigest(),
        "set": None,
    }
    if (manifest.parent / FILE_NAME).is_file():
        record = read_record(manifest.parent)
        found["set"] = {"kind": record.kind, "checksum": record.checksum}
    return found


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("musicgen-lightning", "torch", "torchaudio", "librosa", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
