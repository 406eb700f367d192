"""One file, decoded to its end: what is truly in it. Runs in a worker's process and imports nothing heavy."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from datamodules.errors import unreadable
from datamodules.ingest.loudness import LoudnessMeter
from datamodules.ingest.metadata import file_tags

_BLOCK_SECONDS = 20
# Headers of some MP3s are off by a little; beyond this a file is damaged.
_MISSING_SHARE, _MISSING_SECONDS = 0.01, 0.2


@dataclass(frozen=True)
class Job:
    """A file to inspect: its place in the manifest, and on this machine."""

    path: str
    file: str


def inspect(job: Job) -> dict[str, Any]:
    """What decoding a file shows.

    Returns:
        ``{"error": reason}``, or ``duration`` (seconds that decode, not those that the header promises),
        ``sample_rate``, ``channels``, ``peak``, ``loudness`` (LUFS or None), ``audio_hash`` (of the decoded samples:
        files that sound the same to the bit have the same), ``format``, ``tags``.
    """
    if not os.path.getsize(job.file):
        return {"error": "empty file"}
    try:
        with soundfile.SoundFile(job.file) as file:
            return {**_decode(file), "tags": file_tags(Path(job.file))}
    except soundfile.LibsndfileError as error:
        return {"error": f"not readable as audio ({unreadable(error.error_string)})"}
    except OSError as error:
        return {"error": f"cannot be read ({error.strerror or error})"}


def _decode(file: soundfile.SoundFile) -> dict[str, Any]:
    if not 0 < file.samplerate <= 768_000 or not 0 < file.channels <= 1024:
        return {"error": f"{file.channels} channels at {file.samplerate} Hz cannot be audio"}
    promised = file.frames
    meter = LoudnessMeter(file.samplerate, file.channels)
    digest = hashlib.blake2b(f"{file.samplerate}/{file.channels}".encode(), digest_size=16)
    frames, peak = 0, 0.0
    block = max(1, min(_BLOCK_SECONDS * file.samplerate, 2**24 // file.channels))
    while len(samples := file.read(block, dtype="float32", always_2d=True)):
        highest = float(np.abs(samples).max())
        if not np.isfinite(highest):
            return {"error": f"samples that are not finite near {frames / file.samplerate:.1f} s"}
        peak = max(peak, highest)
        digest.update(samples)
        meter.update(samples)
        frames += len(samples)
    seconds = frames / file.samplerate
    lacking = (promised - frames) / file.samplerate
    if promised < 2**62 and lacking > max(_MISSING_SECONDS, _MISSING_SHARE * promised / file.samplerate):
        return {"error": f"damaged: its header promises {promised / file.samplerate:.1f} s, {seconds:.1f} s decode"}
    loudness = meter.loudness()
    return {
        "duration": seconds,
        "sample_rate": file.samplerate,
        "channels": file.channels,
        "peak": round(peak, 5),
        "loudness": None if loudness is None else round(loudness, 2),
        "audio_hash": digest.hexdigest(),
        "format": f"{file.format}/{file.subtype}",
    }
