"""Packs a token store for transport: 11 bits a code instead of 16, for codebooks of 2,048 entries; and back again.

A packed store has ``tokens-00000.packed`` in place of each ``.bin``: the same codes in the same order, each as the
lowest bits of its 16, without gaps, beginning with the lowest bit of each byte. Everything else is as it was.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import InputError
from datamodules.storage import Folder, open_folder
from datamodules.tokens.format import INDEX, KINDS, PLACES, Header, Shard, read_header, write_index
from datamodules.whole_files import write_whole

PACKED = "packed"
_CODES = 2**20  # at once; a multiple of 8, so that each stretch ends with a whole byte
_BYTES = 2**22


def bits_for(entries: int) -> int:
    """Bits that tell this many entries apart."""
    return max(1, (entries - 1).bit_length())


def pack_codes(codes: "np.ndarray[Any, Any]", bits: int) -> "np.ndarray[Any, Any]":
    """Codes [n] uint16 below 2**bits -> [ceil(n * bits / 8)] uint8."""
    both_bytes = codes.astype("<u2").view(np.uint8).reshape(-1, 2)
    return np.packbits(np.unpackbits(both_bytes, axis=1, count=bits, bitorder="little"), bitorder="little")


def unpack_codes(packed: "np.ndarray[Any, Any]", bits: int, count: int) -> "np.ndarray[Any, Any]":
    """The inverse of ``pack_codes``: ``count`` codes."""
    # Eight codes fill ``bits`` bytes, and each of them lies within three of these.
    groups = -(-count // 8)
    padded = np.zeros(groups * bits, dtype=np.uint8)
    padded[: len(packed)] = packed
    rows = np.zeros((groups, bits + 2), dtype=np.uint32)
    rows[:, :bits] = padded.reshape(groups, bits)
    codes = np.empty((groups, 8), dtype="<u2")
    for place in range(8):
        byte, shift = divmod(place * bits, 8)
        word = rows[:, byte] | rows[:, byte + 1] << np.uint32(8) | rows[:, byte + 2] << np.uint32(16)
        codes[:, place] = word >> np.uint32(shift) & np.uint32(2**bits - 1)
    return codes.reshape(-1)[:count]


def pack_store(store: str, out: str | Path, progress: Callable[[Shard], None] = lambda shard: None) -> Header:
    """Writes a packed copy of a store.

    Args:
        store: folder or URL of the store.
        out: folder for the copy.
        progress: called after each shard.

    Returns:
        The copy's header.

    Raises:
        InputError: the store is packed already or does not match its checksums, there is a store in ``out``, or the
            disk is full.
    """
    folder, header = _opened(store, packed=False)
    bits = bits_for(header.entries)

    def packed(shard: Shard, file: Any) -> None:
        digest = hashlib.sha256()
        for data in _stretches(folder.path(f"{shard.name}.bin"), 2 * _CODES):
            digest.update(data)
            codes = np.frombuffer(data, dtype="<u2")
            if codes.max() >= header.entries:
                raise InputError(f"{store}/{shard.name}.bin: holds codes of no entry; write it anew with `mgl tokens`")
            file.write(pack_codes(codes, bits).data)
        _compare(digest.hexdigest(), shard.sha256["bin"], f"{store}/{shard.name}.bin")

    return _write(folder, replace(header, packed=bits), Path(out), PACKED, packed, progress)


def unpack_store(store: str, out: str | Path, progress: Callable[[Shard], None] = lambda shard: None) -> Header:
    """Writes the store that a packed one was made from, every file compared with its checksum.

    Args, returns and raises as ``pack_store``.
    """
    folder, header = _opened(store, packed=True)
    bits = header.packed
    assert bits is not None

    def unpacked(shard: Shard, file: Any) -> None:
        digest = hashlib.sha256()
        left = shard.bytes["bin"] // 2
        for data in _stretches(folder.path(f"{shard.name}.{PACKED}"), _CODES * bits // 8):
            count = min(left, len(data) * 8 // bits)
            codes = unpack_codes(np.frombuffer(data, dtype=np.uint8), bits, count).tobytes()
            digest.update(codes)
            file.write(codes)
            left -= count
        _compare(digest.hexdigest(), shard.sha256["bin"], f"{store}/{shard.name}.{PACKED}")

    return _write(folder, replace(header, packed=None), Path(out), "bin", unpacked, progress)


def _opened(store: str, packed: bool) -> tuple[Folder, Header]:
    folder = open_folder(store)
    header = read_header(folder)
    if packed and header.packed is None:
        raise InputError(f"{store}: is not packed; it can be used as it is")
    if not packed and header.packed is not None:
        raise InputError(f"{store}: is packed already; --unpack true unpacks it")
    return folder, header


def _write(
    folder: Folder,
    header: Header,
    out: Path,
    kind: str,
    convert: Callable[[Shard, Any], None],
    progress: Callable[[Shard], None],
) -> Header:
    """Writes the files of a store to ``out``, the codes through ``convert``, the others as they are."""
    if (out / INDEX).exists():
        raise InputError(f"{out}: holds a token store already; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    for shard in header.shards:
        write_whole(out / f"{shard.name}.{kind}", partial(convert, shard))
        for other in KINDS[1:]:
            _copy(folder, f"{shard.name}.{other}", shard.sha256[other], out)
        progress(shard)
    _copy(folder, PLACES, header.places_sha256, out)
    write_index(out, header)
    return header


def _copy(folder: Folder, name: str, checksum: str, out: Path) -> None:
    def copied(file: Any) -> None:
        digest = hashlib.sha256()
        for data in _stretches(folder.path(name), _BYTES):
            digest.update(data)
            file.write(data)
        _compare(digest.hexdigest(), checksum, f"{folder.name}/{name}")

    write_whole(out / name, copied)


def _stretches(path: Path, size: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while data := file.read(size):
                yield data
    except FileNotFoundError as error:
        raise InputError(f"{path}: is missing; transfer the store again") from error


def _compare(found: str, wanted: str, name: str) -> None:
    if found != wanted:
        raise InputError(f"{name}: does not match its checksum; it was damaged on its way, transfer it again")
