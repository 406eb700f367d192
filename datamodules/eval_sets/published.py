"""What published sets come as: a CSV of captions, and a folder of audio that everybody downloaded in their own way."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import soundfile

from datamodules.errors import InputError
from datamodules.eval_sets.clips import Wanted

_READABLE = {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"}
READABLE = _READABLE | {".aif", ".oga", ".opus", ".snd", ".wave"}
# What downloads arrive as, and libsndfile does not read.
_TO_CONVERT = {".aac", ".m4a", ".mka", ".mkv", ".mp4", ".webm", ".wma"}


class Row:
    """A line of a CSV, which says where it stands when something is wrong with it."""

    def __init__(self, path: Path, number: int, cells: dict[str, str]) -> None:
        self.where, self.number, self._cells = f"{path}, line {number}", number, cells

    def __getitem__(self, column: str) -> str:
        return self._cells[column]

    def number_in(self, column: str) -> float:
        """A number that is not negative."""
        try:
            value = float(self[column])
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise InputError(f"{self.where}: {column} is {self[column]!r}, not a number")
        return value

    def is_true(self, column: str) -> bool:
        """Whether a flag is set; an empty cell means that it is not."""
        value = self[column].strip().lower()
        if value not in ("true", "false", "1", "0", "1.0", "0.0", ""):
            raise InputError(f"{self.where}: {column} is {self[column]!r}, neither True nor False")
        return value in ("true", "1", "1.0")


def read_table(path: str | Path, columns: Sequence[str]) -> list[Row]:
    """Reads a CSV with a head line.

    Args:
        path: the CSV, in UTF-8.
        columns: which it must have; others are left unread.

    Returns:
        Its lines; at least one.

    Raises:
        InputError: no such file, not a CSV, a missing column, a line with too few cells, or no lines.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such CSV; give the set's own to --csv")
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise InputError(
                    f"{path}: has no column {', '.join(map(repr, missing))}; --csv wants the set's own CSV"
                )
            for cells in reader:
                if any(cells[column] is None for column in columns):
                    raise InputError(f"{path}, line {reader.line_num}: has too few cells")
                rows.append(Row(path, reader.line_num, {column: cells[column] for column in columns}))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a CSV in UTF-8 ({error}); see --csv") from error
    if not rows:
        raise InputError(f"{path}: holds a head line and nothing else; see --csv")
    return rows


def file_digest(path: str | Path) -> str:
    """sha256 of a file, for a set's settings."""
    return sha256(Path(path).read_bytes()).hexdigest()


def first_of_each(clips: Sequence[tuple[Row, Wanted]], column: str) -> tuple[list[Wanted], list[dict[str, str]]]:
    """The clips, of several with one id the first, and of the others what ``missing.jsonl`` says of them.

    Args:
        clips: lines, and the clips that they stand for.
        column: where the ids come from.
    """
    wanted: dict[str, Wanted] = {}
    repeated = []
    for row, one in clips:
        if one.id in wanted:
            reason = f"line {row.number} has the {column} {row[column]} again; the first line with it counts"
            repeated.append({"id": one.id, "reason": reason})
        wanted.setdefault(one.id, one)
    return list(wanted.values()), repeated


class AudioFolder:
    """Finds the files of a folder and of those in it by the names they may have, whatever their suffix.

    Args:
        folder: where the audio is.
        out: the set's folder, which may not lie there: its clips would be found as audio.

    Raises:
        InputError: there is no such folder, or the set would lie in it.
    """

    def __init__(self, folder: str | Path, out: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"{folder}: there is no such folder of audio; see --audio")
        if Path(out).resolve().is_relative_to(self.folder.resolve()):
            raise InputError(f"{out}: lies in the folder of the audio; give an --out elsewhere")
        self._files: dict[str, list[Path]] = defaultdict(list)
        for root, folders, files in os.walk(self.folder):
            folders.sort()
            for name in sorted(files):
                stem, suffix = os.path.splitext(name)
                if not name.startswith(".") and suffix.lower() in READABLE | _TO_CONVERT:
                    self._files[stem].append(Path(root, name))
                    if stem.endswith("]") and "[" in stem:  # "Title of the video [id].wav"
                        self._files[stem[stem.rindex("[") :]].append(Path(root, name))

    def find(self, stems: Iterable[str]) -> Path:
        """The first file that has one of these names, the likeliest first, and is of a kind that can be read.

        Raises:
            InputError: there is none.
        """
        unread = None
        for stem in stems:
            for path in self._files.get(stem, ()):
                if path.suffix.lower() in READABLE:
                    return path
                unread = unread or path
        if unread:
            raise InputError(f"{unread}: {unread.suffix} files are not read; convert it to WAV or FLAC")
        raise InputError(f"{self.folder}: holds no file of its name")
