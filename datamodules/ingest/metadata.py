"""What is known of a track: tags in the file, a side-car beside it, a table over all. The later wins."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.errors import InputError

SIDE_CAR = ".json"
# What a table or a side-car may call the description in words, best first.
CAPTIONS = ("caption", "description", "text")
_PATHS = ("path", "file", "filename", "file_name", "audio", "id", "track_id")
# A side-car's fields that decoding knows better.
_MEASURED = ("duration", "sample_rate", "file_extension", "path", "id", "channels", "peak", "loudness", "audio_hash")
_TAGS = {"title": "title", "artist": "artist", "albumartist": "album_artist", "album": "album", "genre": "genre"}
_OTHER_TAGS = {"bpm": "bpm", "initial_key": "key", "license": "licence", "copyright": "copyright"}


def file_tags(path: Path) -> dict[str, Any]:
    """Tags in the file itself: title, artist, album_artist, album, genre, bpm, key, licence, copyright."""
    from tinytag import TinyTag, TinyTagException

    try:
        tag = TinyTag.get(path, duration=False)
    except (TinyTagException, OSError, ValueError, IndexError, OverflowError):
        return {}  # tags are optional, and a file may be sound without any that can be read
    fields: dict[str, Any] = {ours: getattr(tag, theirs) for theirs, ours in _TAGS.items()}
    fields |= {ours: next(iter(tag.other.get(theirs) or []), None) for theirs, ours in _OTHER_TAGS.items()}
    clean = {name: _text(value) for name, value in fields.items() if value not in (None, "")}
    return {name: value for name, value in clean.items() if value}


def _text(value: Any) -> str:
    return " ".join(str(value).replace("\0", " ").encode("utf-8", "replace").decode().split())


def side_car(audio: Path) -> dict[str, Any]:
    """The fields of the JSON file beside an audio file (audiocraft's and any others); none where there is no file.

    Raises:
        ValueError: a side-car that is no JSON object.
    """
    path = audio.with_suffix(SIDE_CAR)
    try:
        fields = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    if not isinstance(fields, dict):
        raise ValueError("no JSON object")
    return {name: value for name, value in fields.items() if name not in _MEASURED and value not in (None, "", [])}


class Table:
    """Captions and other columns by path, file name or stem, from a CSV, TSV, Parquet or JSON lines file.

    Raises:
        InputError: no such file, another format, no column that names tracks.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{path}: there is no such table of captions")
        self.matched = 0
        self._rows: dict[str, dict[str, Any] | None] = {}
        for row in self._read():
            named = next((row[name] for name in _PATHS if row.get(name) not in (None, "")), None)
            if named is None:
                raise InputError(f"{path}: a row names no track; a column {' or '.join(_PATHS)} must")
            fields = {key: value for key, value in row.items() if value not in (None, "") and key not in _MEASURED}
            for key in _keys(str(named)):
                # Two rows that share a stem are told apart by their paths alone.
                self._rows[key] = None if key in self._rows else fields

    def fields(self, path: str) -> dict[str, Any]:
        """What the table says of a track at this path; empty where it says nothing."""
        parts = path.split("/")
        names = ["/".join(parts[start:]) for start in range(len(parts))]
        for key in [*names, *(os.path.splitext(name)[0] for name in names)]:
            if found := self._rows.get(key):
                self.matched += 1
                return found
        return {}

    def _read(self) -> Iterator[dict[str, Any]]:
        suffix = self.path.suffix.lower()
        if suffix == ".parquet":
            try:
                import pyarrow.parquet
            except ModuleNotFoundError as error:
                raise InputError(f"{self.path}: reading Parquet needs pyarrow (`pip install pyarrow`)") from error
            yield from pyarrow.parquet.read_table(self.path).to_pylist()
        elif suffix in (".csv", ".tsv"):
            try:
                with self.path.open(newline="", encoding="utf-8-sig") as file:
                    yield from csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",", restkey="_rest")
            except (UnicodeDecodeError, csv.Error) as error:
                raise InputError(f"{self.path}: not readable as {suffix[1:].upper()} in UTF-8 ({error})") from error
        elif suffix == ".jsonl":
            try:
                yield from map(json.loads, filter(str.strip, self.path.read_text(encoding="utf-8").split("\n")))
            except ValueError as error:
                raise InputError(f"{self.path}: not readable as JSON lines ({error})") from error
        else:
            raise InputError(f"{self.path}: captions come as .csv, .tsv, .parquet or .jsonl")


def _keys(named: str) -> list[str]:
    plain = named.removeprefix("./")
    stem = os.path.splitext(plain)[0]
    return list(dict.fromkeys([plain, stem, os.path.basename(plain), os.path.basename(stem)]))


def described(fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(caption, the other fields): the caption is the best of the fields that hold a description."""
    rest = dict(fields)
    found = [rest.pop(name, None) for name in CAPTIONS]
    caption = next((str(value) for value in found if value), "")
    return " ".join(caption.split()), rest
