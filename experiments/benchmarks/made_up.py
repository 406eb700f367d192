"""Made-up material for benchmarks: music of any length, a token store and a manifest of any size.

Shape letters: C channels, N samples, K codebooks, T frames.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from datamodules.manifest import FILE_NAME
from datamodules.tokens.format import INDEX, PLACE, PLACES, Header, Shard, write_index

RATE = 44100  # Hz of the tracks
CODEBOOKS, ENTRIES, FRAME_RATE = 4, 1024, 50.0
_CODEC_RATE, _CHROMA_HOP = 32000, 4096
# One long Vorbis write crashes libsndfile.
_BLOCK_SECONDS = 10
_PIECE_SECONDS = 60  # then it begins anew
_CHORDS = ((57, 60, 64), (53, 57, 60), (48, 52, 55), (55, 59, 62))


def write_tracks(folder: Path, lengths: Sequence[int], suffixes: Sequence[str]) -> None:
    """Writes ``<seconds>.<suffix>`` for every length in seconds and every format: the same music, stereo."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [music(begin, _BLOCK_SECONDS) for begin in range(0, min(_PIECE_SECONDS, max(lengths)), _BLOCK_SECONDS)]
    with ExitStack() as stack:
        files = [
            (seconds, stack.enter_context(soundfile.SoundFile(str(folder / f"{seconds}.{suffix}"), "w", RATE, 2)))
            for seconds in lengths
            for suffix in suffixes
        ]
        for begin in range(0, max(lengths), _BLOCK_SECONDS):
            block = blocks[begin // _BLOCK_SECONDS % len(blocks)]
            for seconds, file in files:
                file.write(block[: max(0, seconds - begin) * RATE])


def music(begin: int, seconds: int) -> "np.ndarray[Any, Any]":
    """Seconds [begin, begin + seconds) of an endless piece, [N, 2] float32: chords, noise on the beat, an envelope."""
    time = begin + np.arange(seconds * RATE) / RATE
    noise = np.random.default_rng(begin).standard_normal((len(time), 2))
    chord = np.array(_CHORDS)[(time // 2).astype(int) % len(_CHORDS)]
    pitch = 440 * 2 ** ((chord - 69) / 12)
    beat = np.exp(-12 * (time % 0.5))
    sides = []
    for side in range(2):
        tones = np.zeros_like(time)
        for note in range(3):
            for harmonic in (1, 2, 3, 4, 6, 9, 13):
                tones += np.sin(2 * np.pi * harmonic * pitch[:, note] * time + note + side * harmonic) / harmonic
        sides.append(0.12 * tones * np.exp(-0.8 * (time % 2)) + (0.15 * beat + 0.004) * noise[:, side])
    envelope = 0.6 + 0.3 * np.sin(2 * np.pi * time / 37)
    return (np.stack(sides, 1) * envelope[:, None]).clip(-0.98, 0.98).astype(np.float32)


def write_store(folder: Path, frames: "np.ndarray[Any, Any]", shards: int, sparse: bool = False) -> None:
    """Writes a token store of random codes, as `mgl tokens` would leave it.

    Args:
        folder: where.
        frames: [n], T of each track.
        shards: how many.
        sparse: codes and chroma are all zero and take no room on the disk.
    """
    folder.mkdir(parents=True)
    hop = round(_CODEC_RATE / FRAME_RATE)
    rows = np.zeros(len(frames), PLACE)
    rows["frames"] = frames
    rows["chroma_frames"] = -(-np.asarray(frames) * hop // _CHROMA_HOP)
    rows["split"] = np.arange(len(frames)) % 50 == 49
    made = []
    for number, chosen in enumerate(np.array_split(np.arange(len(frames)), shards)):
        part = rows[chosen]
        lines = [
            _line(track, "valid" if split else "train")
            for track, split in zip(chosen.tolist(), part["split"], strict=True)
        ]
        part["shard"] = number
        part["line_bytes"] = [len(line) for line in lines]
        for offset, length in (("line", part["line_bytes"]), ("chroma_offset", part["chroma_frames"])):
            part[offset] = _starts(length)
        part["offset"] = CODEBOOKS * _starts(part["frames"])
        rows[chosen] = part
        made.append(_write_shard(folder, f"tokens-{number:05d}", part, b"".join(lines), sparse))
    np.save(folder / PLACES, rows)
    checksum = sha256((folder / PLACES).read_bytes()).hexdigest()
    header = Header(
        codec="0" * 64,
        sample_rate=_CODEC_RATE,
        frame_rate=FRAME_RATE,
        codebooks=CODEBOOKS,
        entries=ENTRIES,
        chroma={"frame_rate": _CODEC_RATE / _CHROMA_HOP, "classes": 12},
        tracks=len(rows),
        frames=int(np.sum(frames)),
        splits=["train", "valid"],
        sources=[""],
        shards=made,
        places_sha256=checksum,
        failed=[],
    )
    write_index(folder, header)
    assert (folder / INDEX).is_file()


def write_manifest(folder: Path, tracks: int) -> None:
    """Writes a manifest of tracks that do not exist."""
    folder.mkdir(parents=True)
    with (folder / FILE_NAME).open("w", encoding="utf-8") as file:
        for track in range(tracks):
            facts = json.loads(_line(track, "valid" if track % 50 == 49 else "train"))
            place = {"path": f"audio/{track // 1000:03d}/track {track}.mp3", "duration": 180.5 + track % 90}
            file.write(json.dumps({**facts, **place, "sample_rate": RATE, "source": f"source {track % 3}"}) + "\n")


def _line(track: int, split: str) -> bytes:
    caption = f"A calm piece number {track} for piano and strings, slow, in a minor key"
    facts = {
        "id": f"artist {track // 13:05d}/track {track}",
        "caption": caption,
        "split": split,
        "bpm": 60 + track % 90,
    }
    return json.dumps({**facts, "artist": f"artist {track // 13}", "genre": "ambient"}).encode() + b"\n"


def _starts(lengths: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    ends = np.cumsum(lengths, dtype=np.uint64)
    return ends - lengths.astype(np.uint64)


def _write_shard(folder: Path, name: str, rows: "np.ndarray[Any, Any]", lines: bytes, sparse: bool) -> Shard:
    random = np.random.default_rng(int(name.rpartition("-")[2]))
    codes, chroma = CODEBOOKS * int(rows["frames"].sum(dtype=np.int64)), int(rows["chroma_frames"].sum(dtype=np.int64))
    sizes = {"bin": 2 * codes, "jsonl": len(lines), "chroma": chroma}
    for kind, size in sizes.items():
        with (folder / f"{name}.{kind}").open("wb") as file:
            if kind == "jsonl":
                file.write(lines)
            elif sparse:
                file.truncate(size)
            elif kind == "bin":
                file.write(random.integers(ENTRIES, size=codes, dtype="<u2").tobytes())
            else:
                file.write(random.integers(12, size=chroma, dtype="u1").tobytes())
    return Shard(name, len(rows), sizes, dict.fromkeys(sizes, "0" * 64))
