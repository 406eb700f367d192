"""The results of a codec evaluation as a file and as lines for a terminal."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from datamodules.whole_files import write_whole
from evaluation.tables import ARROWS, interval, number
from experiments.codecs.evaluation import METRICS
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.folder import codec_folder
from lightning_modules.codec.visqol import Visqol
from lightning_modules.model_folders import read_config

# Codes for each entry of a codebook; with fewer, entries are missing by chance.
_ENOUGH = 10


def described(folder: str | Path, codec: Codec) -> dict[str, Any]:
    """What a codec is: the part "codec" of results.json."""
    config = read_config(codec_folder(folder), "codec")
    return {
        "folder": str(folder),
        "architecture": config.get("architecture", "encodec"),
        "stereo": bool(config.get("stereo", False)),
        "checksum": codec.checksum,
        "sample_rate": codec.sample_rate,
        "channels": codec.channels,
        "frame_rate": codec.frame_rate,
        "codebooks": codec.codebooks,
        "entries": codec.entries,
        "kbit_per_second": codec.bitrate / 1000,
    }


def versions(visqol: Visqol | None) -> dict[str, str]:
    """Versions of what the figures come from."""
    found = {"python": platform.python_version()}
    for package in ("musicgen-lightning", "torch", "torchaudio", "soundfile", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found if visqol is None else {**found, "visqol-python": visqol.version}


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Writes results.json, whole or not at all; a figure that is not finite is a bug of ours and stops it."""
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(path, text.encode() + b"\n")


def codec_line(codec: Mapping[str, Any]) -> str:
    """One line on the codec."""
    shape = f"{codec['codebooks']} x {codec['entries']:,} codes at {codec['frame_rate']:g} Hz"
    kind = f"{codec['architecture']}{', stereo by two passes' if codec['stereo'] else ''}"
    return f"{kind}, {codec['sample_rate']:,} Hz, {shape}, {codec['kbit_per_second']:.2f} kbit/s"


def heard_line(results: Mapping[str, Any]) -> str:
    """How much was heard of what."""
    of = f"split {results['protocol']['split']!r}" if results["protocol"]["split"] else "all splits"
    clips = f"{results['n']:,} clip{'' if results['n'] == 1 else 's'} of {of}, {results['hours']:.2f} h"
    return f"{clips}, {results['protocol']['heard']}; {len(results['failed'])} left out"


def counted_line(results: Mapping[str, Any]) -> str:
    """How many codes the codebooks' figures rest on, and whether that is enough."""
    said = f"{results['codes']:,} codes of each codebook were counted"
    few = results["codes"] < _ENOUGH * results["codec"]["entries"]
    return f"{said}, too few to judge use and entropy: both come out too small" if few else said


def bitrate_line(results: Mapping[str, Any]) -> str:
    """Nominal bitrate and what entropy coding could make of it."""
    rate = results["bitrate"]
    return f"{rate['nominal']:.2f} kbit/s; {rate['entropy']:.2f} if each codebook were entropy-coded by itself"


def speed_line(results: Mapping[str, Any]) -> str:
    """How fast."""
    speed = results["speed"]
    return f"encodes at {speed['encode']:.1f} x, decodes at {speed['decode']:.1f} x real time ({speed['device']})"


def result_lines(results: Mapping[str, Any]) -> list[str]:
    """The figures as lines for a terminal."""
    lines = [f"{results['codec']['folder']}: {codec_line(results['codec'])}", heard_line(results)]
    for metric in METRICS:
        score = results["metrics"][metric.key]
        if score["value"] is None:
            lines.append(f"{metric.name}: not computed, {score['reason']}")
        else:
            bounds = f"  [{interval(score)}]" if score["low"] is not None else ""
            fewer = f", {score['n']} clips" if score["n"] < results["n"] else ""
            value = number(score["value"])
            lines.append(f"  {metric.name:<14} {ARROWS[metric.better]} {value:>8}{bounds}{fewer}")
    lines.append(f"  {'codebooks':<14}   {counted_line(results)}")
    for index, book in enumerate(results["codebooks"]):
        lines.append(
            f"  codebook {index:<5} {book['use']:>8.1%} of its entries in use, perplexity {book['perplexity']:,.1f}"
        )
    lines += [f"  {'bitrate':<14}   {bitrate_line(results)}", f"  {'speed':<14}   {speed_line(results)}"]
    return lines + [f"left out {failure['id']}: {failure['reason']}" for failure in results["failed"]]
