"""Packed token stores: the same bits as a loop would write, and back to the same bytes."""

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from datamodules.errors import InputError
from datamodules.manifest import read_manifest
from datamodules.tokens import packing as token_packing
from datamodules.tokens.packing import bits_for, pack_codes, pack_store, unpack_codes, unpack_store
from datamodules.tokens.plan import Encoding
from datamodules.tokens.store import TokenStore
from datamodules.tokens.writer import TokenWriter


@given(st.integers(1, 16).flatmap(lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1)))))
def test_bits_are_those_of_one_long_number(drawn):
    bits, codes = drawn
    number = sum(code << (place * bits) for place, code in enumerate(codes))
    packed = pack_codes(np.array(codes, dtype="<u2"), bits)
    assert packed.tobytes() == number.to_bytes(-(-len(codes) * bits // 8), "little")
    again = unpack_codes(packed, bits, len(codes))
    assert again.dtype == "<u2"
    assert again.tolist() == codes


@pytest.mark.parametrize(
    ("entries", "bits"), [(1, 1), (2, 1), (3, 2), (1024, 10), (1025, 11), (2048, 11), (2049, 12), (2**16, 16)]
)
def test_as_many_bits_as_entries_need(entries, bits):
    assert bits_for(entries) == bits


@pytest.fixture
def packed(tmp_path, token_store, monkeypatch):
    monkeypatch.setattr(token_packing, "_CODES", 24)  # several stretches, and a last one that ends within a byte
    header = pack_store(str(token_store), tmp_path / "packed")
    assert header.packed == 3
    return tmp_path / "packed"


def test_a_store_comes_back_as_it_was(tmp_path, token_store, packed):
    codes = (token_store / "tokens-00000.bin").stat().st_size // 2
    assert (packed / "tokens-00000.packed").stat().st_size == -(-codes * 3 // 8)
    assert not (packed / "tokens-00000.bin").exists()
    done = []
    unpack_store(packed.as_uri(), tmp_path / "again", done.append)
    assert [shard.name for shard in done] == ["tokens-00000"]
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == sorted(p.name for p in token_store.iterdir())
    for path in token_store.iterdir():
        if path.name != "index.json":
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert TokenStore(tmp_path / "again").header == TokenStore(token_store).header


def test_a_packed_store_is_not_trained_on(packed):
    with pytest.raises(InputError, match="packed for transport; `mgl pack --unpack true"):
        TokenStore(packed)


@pytest.mark.parametrize("name", ["tokens-00000.packed", "tokens-00000.jsonl", "tokens-00000.chroma", "tracks.npy"])
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1]), None])
def test_damage_on_the_way_is_noticed(tmp_path, packed, name, damage):
    if damage is None:
        (packed / name).unlink()
    else:
        (packed / name).write_bytes(damage((packed / name).read_bytes()))
    with pytest.raises(InputError, match=rf"{name}.*transfer"):
        unpack_store(str(packed), tmp_path / "again")
    assert not (tmp_path / "again" / "index.json").exists()
    assert not list((tmp_path / "again").glob("*.partial"))


def test_a_damaged_store_is_not_packed(tmp_path, token_store):
    codes = np.fromfile(token_store / "tokens-00000.bin", "<u2")
    before, codes[5] = codes[5], 8
    codes.tofile(token_store / "tokens-00000.bin")
    with pytest.raises(InputError, match="no entry"):
        pack_store(str(token_store), tmp_path / "packed")
    codes[5] = before ^ 1
    codes.tofile(token_store / "tokens-00000.bin")
    with pytest.raises(InputError, match="checksum"):
        pack_store(str(token_store), tmp_path / "packed")


def test_what_cannot_be_packed_is_refused(tmp_path, token_store, packed):
    for convert, store, out, message in (
        (pack_store, packed, "b", "packed already"),
        (unpack_store, token_store, "b", "is not packed"),
        (pack_store, token_store, "packed", "holds a token store already"),
        (pack_store, tmp_path, "b", "no token store"),
    ):
        with pytest.raises(InputError, match=message):
            convert(str(store), tmp_path / out)


def test_a_store_is_not_written_over_a_packed_one(packed):
    manifest = tiny.write_manifest(packed / "music", [("a", "train", 0.3, "one")])
    encoding = Encoding("c" * 64, 800, 1, 8, 2, 8, 40960, 8192, 8192)
    with pytest.raises(InputError, match="holds a packed store"):
        TokenWriter(packed, read_manifest(manifest), encoding)
