"""What a large store or manifest costs to open, to draw from and to read all over, each in a process of its own."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.crops import CropDataset, CropShape
from datamodules.manifest import FILE_NAME, read_manifest
from datamodules.sample_order import SampleOrder, uniform
from datamodules.tokens import TokenDataset
from datamodules.tokens.format import PLACES
from datamodules.tokens.store import TokenStore
from experiments.benchmarks.made_up import FRAME_RATE, write_manifest, write_store
from experiments.benchmarks.measuring import Row, rates
from experiments.benchmarks.memory import in_fresh_process, peak_memory, start_memory

_FRAMES = round(30 * FRAME_RATE)
_TRACK_FRAMES = 9000  # three minutes; 400,000 such tracks are 28.8 GB


def scale_rows(folder: Path, repeats: int, quick: bool = False) -> list[Row]:
    """A manifest of 400,000 tracks and a sparse store of 28.8 GB: time and memory to open them, time of a draw."""
    tracks = 40_000 if quick else 400_000
    write_manifest(folder / "manifest", tracks)
    write_store(folder / "store", np.full(tracks, _TRACK_FRAMES), shards=max(1, tracks // 3000), sparse=True)
    size = tracks * _TRACK_FRAMES * 8 / 1e9
    rows = []
    for what, measure, place in (
        (f"manifest of {tracks:,} tracks", open_manifest, "manifest"),
        (f"token store of {size:.1f} GB, {tracks:,} tracks", open_store, "store"),
    ):
        seconds, floor, grown = in_fresh_process(measure, str(folder / place))
        opened = f"{what}: opened and the first sample's track found"
        rows.append(Row(opened, "s", seconds, floor=floor, wanted="< 5", small_is_good=True))
        rows.append(Row(f"{what}: memory for that", "MB", grown, wanted="< 1,000", small_is_good=True))
    return rows + draw_rows(repeats, quick)


def draw_rows(repeats: int, quick: bool = False) -> list[Row]:
    """Time of a draw by the number of tracks; the floor is its two hashes, which do not depend on it."""
    draws = 500 if quick else 5000
    sizes = (1000, 20_000, 400_000)
    orders = {size: SampleOrder(np.random.default_rng(0).uniform(100, 400, size), seed=0) for size in sizes}
    functions: dict[str, Callable[[], int]] = {"floor": lambda: _times(draws, _hashes)}
    functions |= {str(size): lambda order=order: _times(draws, order.draw) for size, order in orders.items()}  # type: ignore[misc]
    per_second = rates(functions, repeats)
    micro = {name: 1e6 / rate for name, rate in per_second.items()}
    return [
        Row(f"a draw among {size:,} tracks", "us", micro[str(size)], floor=micro["floor"], small_is_good=True)
        for size in sizes
    ]


def memory_rows(store: Path, windows: int) -> list[Row]:
    """By how much a process grows that reads windows from all over a store; the peer maps the shards."""
    grown = in_fresh_process(read_windows, str(store), windows)
    mapped = in_fresh_process(read_mapped, str(store), windows)
    size = sum(file.stat().st_size for file in store.glob("*.bin")) / 1e6
    name = f"memory after {windows:,} windows from all over {size:,.0f} MB of codes; peer: np.memmap"
    return [Row(name, "MB", grown, mapped, wanted="does not grow with the store", small_is_good=True)]


def open_manifest(folder: str) -> tuple[float, float, float]:
    """Seconds to open a manifest for training and find sample 0, of which to parse its lines, and the peak in MB."""
    before, begin = start_memory(), time.perf_counter()
    dataset = CropDataset(read_manifest(folder).split("train"), CropShape(30.0, 32000, 1), seed=0)
    assert dataset.tracks[dataset.order.draw(0).track].id
    seconds, grown = time.perf_counter() - begin, peak_memory() - before
    begin = time.perf_counter()
    with Path(folder, FILE_NAME).open("rb") as lines:
        for line in lines:
            json.loads(line)
    return seconds, time.perf_counter() - begin, grown


def open_store(folder: str) -> tuple[float, float, float]:
    """Seconds to open a store for training and read window 0, of which to read its rows, and the peak in MB."""
    before, begin = start_memory(), time.perf_counter()
    dataset = TokenDataset(TokenStore(folder), "train", _FRAMES, seed=0)
    assert dataset[0].codes.shape[1] == _FRAMES
    seconds, grown = time.perf_counter() - begin, peak_memory() - before
    begin = time.perf_counter()
    np.load(Path(folder, PLACES))
    return seconds, time.perf_counter() - begin, grown


def read_windows(folder: str, windows: int) -> float:
    """MB by which the process grows with windows that a training run draws; the first few are not counted."""
    dataset = TokenDataset(TokenStore(folder), "train", _FRAMES, seed=0)
    for number in range(100):
        dataset[number]
    before = start_memory()
    for number in range(100, windows):
        dataset[number]
    return peak_memory() - before


def read_mapped(folder: str, windows: int) -> float:
    """The same windows from mapped shards."""
    dataset = TokenDataset(TokenStore(folder), "train", _FRAMES, seed=0)
    slices = mapped_slices(dataset, range(windows))
    before = start_memory()
    for codes in slices:
        codes.astype(np.int64)
    return peak_memory() - before


def mapped_slices(dataset: TokenDataset, numbers: range) -> "list[np.ndarray[Any, Any]]":
    """The windows of samples, each a slice [K, n] uint16 of a mapped shard: nothing is read yet."""
    store = dataset.store
    maps = [np.memmap(Path(store.folder, f"{shard.name}.bin"), "<u2", "r") for shard in store.header.shards]
    slices = []
    for number in numbers:
        draw = dataset.order.draw(number)
        place = dataset.tracks[draw.track].place
        start = int(draw.position * max(1, place.frames - dataset.frames + 1))
        codes = maps[place.shard][place.offset :][: store.codebooks * place.frames]
        slices.append(codes.reshape(store.codebooks, place.frames)[:, start : start + dataset.frames])
    return slices


def _hashes(number: int) -> None:
    uniform(0, number, "track")
    uniform(0, number, "position")


def _times(count: int, function: Callable[[int], object]) -> int:
    for number in range(count):
        function(number)
    return count
