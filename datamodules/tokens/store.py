"""The token store, opened for reading (its files: datamodules/tokens/format.py).

What grows with the number of tracks stays on disk: a row is mapped, a line is parsed when its track is asked for, and
codes are read, not mapped, so that a process's memory does not grow with what it has seen of the store.

Shape letters: K codebooks, T frames.
"""

import json
import os
import resource
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import FileIO
from typing import Any, NamedTuple, overload

import numpy as np

from datamodules.errors import InputError
from datamodules.storage import Folder, LocalFolder, open_folder
from datamodules.tokens.format import INDEX, KINDS, PLACE, PLACES, REMEDY, Place, Shard, read_header

# Half of what a process may have open; to open a file costs as much as to read from it.
_OPEN_FILES = max(64, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2, 4096))


class TokenTrack(NamedTuple):
    """One track of a store; ``facts`` are its manifest line's further fields."""

    id: str
    caption: str
    split: str
    facts: Mapping[str, Any]
    place: Place

    @property
    def frames(self) -> int:
        """T."""
        return self.place.frames


class TokenStore:
    """A store opened for reading.

    Attributes:
        folder: where it lies, as the user gave it.
        header: what ``index.json`` says.
        codec: checksum of the codec that wrote the codes.
        frame_rate: frames a second.
        codebooks: K.
        entries: entries of each codebook.
    """

    def __init__(self, location: str | os.PathLike[str]) -> None:
        """Opens a store.

        Raises:
            InputError: there is none, it is packed or damaged, or rows point out of their shards.
        """
        self.folder = str(location)
        folder = _opened(self.folder)
        self.header = header = read_header(folder)
        if header.packed is not None:
            raise InputError(
                f"{self.folder}: is packed for transport; "
                f"`mgl pack --unpack true --store {self.folder} --out DIR` unpacks it"
            )
        self.codec, self.frame_rate = header.codec, header.frame_rate
        self.codebooks, self.entries = header.codebooks, header.entries
        self._files = _Files(folder, header.shards)
        self._places: np.ndarray[Any, Any] | None = None
        self._files.check()
        self._check_places()
        folder.ahead([f"{shard.name}.jsonl" for shard in header.shards])

    @property
    def places(self) -> "np.ndarray[Any, Any]":
        """[n] rows of ``PLACE``, mapped; opened anew in each process."""
        if self._places is None:
            path = self._files.folder.path(PLACES)
            try:
                rows = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise InputError(f"{self.folder}/{PLACES}: missing or no array of rows ({error}); {REMEDY}") from error
            if rows.dtype != PLACE or rows.shape != (self.header.tracks,):
                raise InputError(f"{self.folder}/{PLACES}: not the rows of {self.header.tracks} tracks; {REMEDY}")
            self._places = rows.view(np.ndarray)
        return self._places

    @property
    def tracks(self) -> "TokenTracks":
        """Every track."""
        return TokenTracks(self, np.arange(self.header.tracks, dtype=np.uint32))

    def split(self, name: str) -> "TokenTracks":
        """The tracks of a split; at least one."""
        splits = list(self.header.splits)
        chosen = np.flatnonzero(self.places["split"] == splits.index(name)) if name in splits else np.empty(0)
        if not len(chosen):
            raise InputError(
                f"{self.folder}: the token store has no tracks in split {name!r}; it has {', '.join(map(repr, splits))}"
            )
        return TokenTracks(self, chosen.astype(np.uint32))

    def track(self, number: int) -> TokenTrack:
        """Track ``number`` of the store."""
        place = Place._make(self.places.item(number))
        line = self._files.read(place.shard, "jsonl", place.line, place.line_bytes)
        try:
            facts = json.loads(line.decode("utf-8", "surrogatepass"))
            name, caption = facts.pop("id"), facts.pop("caption")
            facts.pop("split", None)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            path = f"{self.folder}/{self.header.shards[place.shard].name}.jsonl"
            raise InputError(f"{path}: no track's line at byte {place.line}; {REMEDY}") from error
        return TokenTrack(name, caption, self.header.splits[place.split], facts, place)

    def window(self, track: TokenTrack, start: int = 0, frames: int | None = None) -> "np.ndarray[Any, Any]":
        """Codes [K, n] uint16 from frame ``start`` on; n is ``frames`` or what is left of the track."""
        place = track.place
        left = max(0, place.frames - start)
        count = left if frames is None else min(frames, left)
        codes = np.empty((self.codebooks, count), dtype="<u2")
        if count:
            self._files.read_rows(place.shard, "bin", 2 * (place.offset + start), 2 * place.frames, codes)
        return codes

    def chroma(self, track: TokenTrack, start: int = 0, frames: int | None = None) -> "np.ndarray[Any, Any]":
        """Strongest pitch classes [n] uint8 of the same seconds as ``window``'s, to the nearest chroma frame."""
        place, header = track.place, self.header
        left = max(0, place.frames - start)
        count = left if frames is None else min(frames, left)
        first = min(place.chroma_frames, (start * header.hop + header.chroma_hop // 2) // header.chroma_hop)
        length = min(header.chroma_frames(count), place.chroma_frames - first)
        chroma = np.empty(length, dtype=np.uint8)
        if length:
            self._files.read_rows(place.shard, "chroma", place.chroma_offset + first, 0, [chroma])
        return chroma

    @property
    def remote(self) -> bool:
        """Whether its files are fetched when they are asked for."""
        return self._files.remote

    def ahead(self, number: int) -> None:
        """Begins to fetch the shard of track ``number``."""
        shard = self.header.shards[int(self.places["shard"][number])]
        self._files.folder.ahead([f"{shard.name}.{kind}" for kind in KINDS])

    def _check_places(self) -> None:
        """Refuses rows that point out of their files."""
        places, header = self.places, self.header
        shard = places["shard"]
        sizes = {kind: np.array([part.bytes[kind] for part in header.shards], dtype=np.uint64) for kind in KINDS}
        wrong = shard >= len(header.shards)
        if not wrong.any():
            codes = places["frames"] * np.uint64(header.codebooks)
            wrong = (places["split"] >= len(header.splits)) | (places["source"] >= len(header.sources))
            wrong |= _outside(places["offset"], codes, sizes["bin"][shard] // np.uint64(2))
            wrong |= _outside(places["line"], places["line_bytes"], sizes["jsonl"][shard])
            wrong |= _outside(places["chroma_offset"], places["chroma_frames"], sizes["chroma"][shard])
        if wrong.any():
            raise InputError(f"{self.folder}: track {int(wrong.argmax())} lies outside its shard; {REMEDY}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_places": None}


def _outside(offset: Any, length: Any, limit: Any) -> Any:
    """Whether [offset, offset + length) leaves [0, limit), without a sum that could overflow."""
    return (length > limit) | (offset > limit - np.minimum(length, limit))


class TokenTracks(Sequence[TokenTrack]):
    """Tracks of a store by their numbers in it; each is made when it is asked for.

    Attributes:
        store: whose.
        numbers: [n] uint32.
    """

    def __init__(self, store: TokenStore, numbers: "np.ndarray[Any, Any]") -> None:
        self.store, self.numbers = store, numbers

    def column(self, name: str) -> "np.ndarray[Any, Any]":
        """[n], a column of the tracks' rows (see ``PLACE``)."""
        return self.store.places[name][self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> TokenTrack: ...

    @overload
    def __getitem__(self, index: slice) -> "TokenTracks": ...

    def __getitem__(self, index: "int | slice") -> "TokenTrack | TokenTracks":
        if isinstance(index, slice):
            return TokenTracks(self.store, self.numbers[index])
        return self.store.track(int(self.numbers[index]))

    def __iter__(self) -> Iterator[TokenTrack]:
        for number in self.numbers.tolist():
            yield self.store.track(number)


class _Files:
    """The files of a store's shards, the most recently used of them open; a process opens its own."""

    def __init__(self, folder: Folder, shards: Sequence[Shard]) -> None:
        self.folder, self.shards = folder, shards
        self.remote = not isinstance(folder, LocalFolder)
        self._open: OrderedDict[tuple[int, str], FileIO] = OrderedDict()

    def read(self, shard: int, kind: str, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset`` on."""
        data = os.pread(self._file(shard, kind).fileno(), count, offset)
        if len(data) != count:
            raise self._short(shard, kind)
        return data

    def read_rows(self, shard: int, kind: str, offset: int, stride: int, rows: Iterable[Any]) -> None:
        """Fills each of ``rows``, arrays, from the file, ``stride`` bytes after the one before."""
        number = self._file(shard, kind).fileno()
        for row in rows:
            if os.preadv(number, [row], offset) != row.nbytes:
                raise self._short(shard, kind)
            offset += stride

    def check(self) -> None:
        """Compares the sizes of all files of a local store; a remote one is spared thousands of requests."""
        if self.remote:
            return
        for number, shard in enumerate(self.shards):
            for kind, size in shard.bytes.items():
                path = self.folder.path(f"{shard.name}.{kind}")
                if not path.is_file() or path.stat().st_size != size:
                    raise self._short(number, kind)

    def _file(self, shard: int, kind: str) -> FileIO:
        # A remote store's file is asked for at each use: that marks it as used, and one that the cache has let go of
        # takes no more room on the disk.
        while self.remote and self._open:
            self._open.popitem()[1].close()
        file = self._open.get((shard, kind))
        if file is not None:
            self._open.move_to_end((shard, kind))
            return file
        name = f"{self.shards[shard].name}.{kind}"
        try:
            file = self._open[shard, kind] = FileIO(self.folder.path(name))
        except OSError as error:
            raise InputError(f"{self.folder.name}/{name}: cannot be opened ({error.strerror}); {REMEDY}") from error
        if len(self._open) > _OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return file

    def _short(self, shard: int, kind: str) -> InputError:
        name = f"{self.shards[shard].name}.{kind}"
        return InputError(f"{self.folder.name}/{name}: missing or not of the size that {INDEX} says; {REMEDY}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}


def _opened(location: str) -> Folder:
    try:
        return open_folder(location)
    except InputError as error:
        raise InputError(f"{error}, so no token store; write one with `mgl tokens`") from error
