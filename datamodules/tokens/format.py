"""What a token store is made of.

A store is a folder, local or behind a URL:

- ``index.json``: what holds for the whole store (see ``Header``).
- ``tracks.npy``: one row a track (see ``PLACE``): where its codes, its line and its chroma lie.
- ``tokens-00000.bin`` and so on: uint16 codes [K, T] in little-endian order, one track after the other.
- ``tokens-00000.jsonl``: for each of these tracks a line with its id, caption, split and facts.
- ``tokens-00000.chroma``: for each of these tracks the strongest pitch class of every chroma frame, a byte each, 255
  where it is silent.
- ``tokens-00000.json``: by which the writer knows what it has finished; nobody else needs it.

Shape letters: K codebooks, T frames.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.errors import InputError
from datamodules.features.chroma import NO_CLASS
from datamodules.storage import Folder, StorageError, open_folder
from datamodules.whole_files import write_whole

INDEX = "index.json"
PLACES = "tracks.npy"
VERSION = 1
SILENT = NO_CLASS
KINDS = ("bin", "jsonl", "chroma")
PLACE = np.dtype(
    [
        ("shard", "<u4"),
        ("offset", "<u8"),
        ("frames", "<u4"),
        ("split", "<u2"),
        ("source", "<u2"),
        ("line", "<u8"),
        ("line_bytes", "<u4"),
        ("chroma_offset", "<u8"),
        ("chroma_frames", "<u4"),
    ]
)
_SHARD_NAME = re.compile(r"tokens-\d{5,}")
REMEDY = "write it anew with `mgl tokens`"


class Place(NamedTuple):
    """Where a track lies: a row of ``tracks.npy``.

    ``offset`` counts codes and ``line`` bytes from the start of their files; ``split`` and ``source`` are places in the
    header's lists.
    """

    shard: int
    offset: int
    frames: int
    split: int
    source: int
    line: int
    line_bytes: int
    chroma_offset: int
    chroma_frames: int


@dataclass(frozen=True)
class Shard:
    """One shard: its name, its number of tracks, and of each of its files (see ``KINDS``) bytes and sha256."""

    name: str
    tracks: int
    bytes: Mapping[str, int]
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Header:
    """``index.json``.

    Attributes:
        codec: checksum of the codec that wrote the codes.
        sample_rate: Hz of the audio it heard.
        frame_rate: frames of codes a second.
        codebooks: K.
        entries: entries of each codebook.
        chroma: {"frame_rate": frames of chroma a second, "classes": pitch classes, "stems": the separator whose stems
            it was heard in, empty for the full mix}.
        tracks: how many.
        frames: of all tracks together.
        splits: names.
        sources: names of the collections that tracks come from; one "" if the tracks name more than can be counted.
        shards: in order.
        places_sha256: of ``tracks.npy``.
        failed: {"id", "reason"} of each track of the manifest that could not be read.
        packed: bits a code in a store that is packed for transport; None in one that can be read.
        version: of the format.
    """

    codec: str
    sample_rate: int
    frame_rate: float
    codebooks: int
    entries: int
    chroma: Mapping[str, Any]
    tracks: int
    frames: int
    splits: Sequence[str]
    sources: Sequence[str]
    shards: Sequence[Shard]
    places_sha256: str
    failed: Sequence[Mapping[str, str]]
    packed: int | None = None
    version: int = VERSION

    @property
    def hop(self) -> int:
        """Samples a frame of codes."""
        return round(self.sample_rate / self.frame_rate)

    @property
    def chroma_hop(self) -> int:
        """Samples a frame of chroma."""
        return round(self.sample_rate / self.chroma["frame_rate"])

    @property
    def stems(self) -> str:
        """What the chroma was heard in; stores of earlier days do not say, and are of the full mix."""
        return str(self.chroma.get("stems", ""))

    def chroma_frames(self, frames: int) -> int:
        """Frames of chroma that a window of ``frames`` frames of codes has: one for every hop begun."""
        return -(-frames * self.hop // self.chroma_hop)


def is_store(location: str) -> bool:
    """Whether there is a token store, of whatever state, in the folder or behind the URL."""
    try:
        open_folder(location).size(INDEX)
    except StorageError:
        raise
    except InputError:
        return False
    return True


def read_header(folder: Folder) -> Header:
    """Reads and checks ``index.json``.

    Raises:
        InputError: there is none, or it is not one.
    """
    where = f"{folder.name}/{INDEX}"
    try:
        path = folder.path(INDEX)
        if not path.is_file():
            raise InputError("there is no such file")
    except StorageError:
        raise
    except InputError as error:
        raise InputError(
            f"{folder.name}: holds no token store ({INDEX} is missing); write one with `mgl tokens`"
        ) from error
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        version = index.get("version")
        if version != VERSION:
            raise InputError(f"{where}: of version {version}, this suite reads version {VERSION}; {REMEDY}")
        header = Header(**{**index, "shards": [Shard(**shard) for shard in index["shards"]]})
        _check_header(header)
    except InputError:
        raise
    # ValueError: no JSON, or no UTF-8
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not a token store's index ({error!r}); {REMEDY}") from error
    return header


def write_index(folder: Path, header: Header) -> None:
    """Writes ``index.json``, with which the store is whole."""
    write_whole(folder / INDEX, (json.dumps(asdict(header)) + "\n").encode())


def _check_header(header: Header) -> None:
    counts = [header.sample_rate, header.codebooks, header.entries, header.tracks, header.frames]
    counts += [header.packed] if header.packed is not None else []
    counts += [value for shard in header.shards for value in (shard.tracks, *shard.bytes.values())]
    if not all(type(count) is int and count >= 0 for count in counts) or 0 in counts[:4]:
        raise ValueError("counts must be whole numbers")
    for rate in (header.frame_rate, header.chroma["frame_rate"]):
        if not 0 < rate <= header.sample_rate or not isfinite(rate):
            raise ValueError("frame rates must be positive, and no higher than the sample rate")
    names = [
        header.codec,
        header.places_sha256,
        *header.splits,
        *header.sources,
        *(shard.name for shard in header.shards),
    ]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("names must be strings")
    if not all(_SHARD_NAME.fullmatch(shard.name) for shard in header.shards):
        raise ValueError("shards must be called tokens-00000 and so on")
    if any(set(shard.bytes) != set(KINDS) or set(shard.sha256) != set(KINDS) for shard in header.shards):
        raise ValueError(f"a shard must have the files {', '.join(KINDS)}")
