"""A .deb file: an ``ar`` archive whose last part is a tar of everything that the package would install.

Only what is wanted of it is ever written, and only into one folder; the tar is read as a stream, never unpacked whole.
"""

import gzip
import io
import json
import lzma
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, cast
from urllib.parse import unquote

from datamodules.errors import InputError
from datamodules.recordings.packages import PACKAGES, Package

if TYPE_CHECKING:
    from typing_extensions import Buffer

_RECORD = "package.json"
_COPYRIGHT = "copyright"
_FILES = "files"
_CREDITS = "credits"
_ARCHIVE = "archive.zip"
_AR_MAGIC = b"!<arch>\n"


@dataclass(frozen=True)
class Unpacked:
    """The music of a package, unpacked.

    Attributes:
        package: the package.
        name: the name it goes by in the release it is from.
        version: its version there.
        folder: where it lies.
    """

    package: Package
    name: str
    version: str
    folder: Path

    @property
    def files(self) -> Path:
        """Folder of the audio, under the paths relative to the package's root."""
        return self.folder / _FILES

    @property
    def credits(self) -> Path:
        """Folder of the texts that name musicians; may be missing."""
        return self.folder / _CREDITS

    @property
    def copyright(self) -> str:
        """The text of the package's copyright file; empty if it came without."""
        path = self.folder / _COPYRIGHT
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def name_and_version(deb: Path) -> tuple[str, str]:
    """Name and version of a package after the name of its file, NAME_VERSION_ARCHITECTURE.deb."""
    parts = deb.name.removesuffix(".deb").split("_")
    if len(parts) != 3:
        raise InputError(f"{deb}: is not named as packages are, NAME_VERSION_ARCHITECTURE.deb")
    return parts[0], unquote(parts[1])


def unpacked(package: Package, folder: Path) -> Unpacked | None:
    """What ``unpack`` has made of a package before, under any of its names; None if it has not, or not to the end."""
    for name in package.names:
        record = folder / name / _RECORD
        if record.is_file():
            return Unpacked(package, name, json.loads(record.read_text(encoding="utf-8"))["version"], record.parent)
    return None


def all_unpacked(folder: Path) -> list[Unpacked]:
    """Every package that lies unpacked in a folder."""
    return [found for package in PACKAGES if (found := unpacked(package, folder)) is not None]


def unpack(deb: Path, package: Package, folder: Path) -> Unpacked:
    """Takes music, credits and copyright file out of a .deb, all of them or nothing.

    Args:
        deb: the file.
        package: what it holds.
        folder: gets a folder of the package's name. What a broken run left of it there is removed.

    Raises:
        InputError: the file is damaged, its compression cannot be read here, it holds paths that lead elsewhere, or no
            music where that should be.
    """
    name, version = name_and_version(deb)
    partial, whole = folder / f"{name}.partial", folder / name
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with _tar_of(deb) as tar:
            for member in tar:
                if member.isfile():
                    _take(tar, member, package, name, partial)
        if package.archive:
            _take_from_archive(partial / _ARCHIVE, package, partial)
        if not any((partial / _FILES).rglob("*")):
            raise InputError(f"{deb}: holds no music in {package.root}, where it used to lie; leave this package out")
        (partial / _RECORD).write_text(json.dumps({"name": name, "version": version}), encoding="utf-8")
        shutil.rmtree(whole, ignore_errors=True)
        partial.rename(whole)
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise InputError(f"{deb}: is damaged ({error}); fetch it again") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Unpacked(package, name, version, whole)


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, package: Package, name: str, into: Path) -> None:
    """Writes a member of the tar if it is wanted."""
    path = member.name.removeprefix("./")
    relative = package.relative(path)
    if path == f"usr/share/doc/{name}/copyright":
        place = _COPYRIGHT
    elif relative is None:
        return
    elif package.archive:
        place = _ARCHIVE if relative == "" else ""
    else:
        place = _place(package, relative)
    if place:
        # The filter refuses what would land outside of the folder, and drops owners and odd permissions.
        tar.extract(member.replace(name=place, deep=False), into, filter="data")


def _take_from_archive(archive: Path, package: Package, into: Path) -> None:
    if not archive.is_file():
        return
    with zipfile.ZipFile(archive) as files:
        for info in files.infolist():
            place = "" if info.is_dir() else _place(package, info.filename)
            if place:
                target = into / place
                target.parent.mkdir(parents=True, exist_ok=True)
                with files.open(info) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)
    archive.unlink()


def _place(package: Package, relative: str) -> str:
    """Where a file goes; "" if it is not wanted.

    Raises:
        InputError: its path leads out of the folder.
    """
    kind = _FILES if package.is_music(relative) else _CREDITS if package.is_credits(relative) else ""
    if kind and (".." in PurePosixPath(relative).parts or relative.startswith("/") or "\\" in relative):
        raise InputError(f"{package.names[0]}: holds the path {relative!r}, which leads elsewhere; not unpacked")
    return f"{kind}/{relative}" if kind else ""


@contextmanager
def _tar_of(deb: Path) -> Iterator[tarfile.TarFile]:
    """The files of a package as a tar stream; when it is left, the stream has been read and checked to its end."""
    opened = _through_dpkg(deb) if shutil.which("dpkg-deb") else _through_python(deb)
    with opened as stream:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            yield tar
        while stream.read(1 << 16):
            pass


@contextmanager
def _through_dpkg(deb: Path) -> Iterator[IO[bytes]]:
    with TemporaryFile() as complaints:
        process = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=complaints)
        stream = cast(IO[bytes], process.stdout)
        try:
            yield stream
            whole = process.wait() == 0
        except tarfile.ReadError:
            whole = False
        finally:
            process.kill()
            process.wait()
            stream.close()
        if not whole:
            complaints.seek(0)
            said = " ".join(complaints.read().decode("utf-8", errors="replace").split()) or "it ends early"
            raise tarfile.ReadError(said)


@contextmanager
def _through_python(deb: Path) -> Iterator[IO[bytes]]:
    """Without dpkg-deb: what Python can decompress."""
    with deb.open("rb") as file:
        name, size = _find_data(file)
        part = cast(IO[bytes], _Part(file, size))
        if name.endswith(".xz"):
            with lzma.open(part) as stream:
                yield cast(IO[bytes], stream)
        elif name.endswith(".gz"):
            with gzip.open(part) as stream:
                yield cast(IO[bytes], stream)
        else:
            raise InputError(f"{deb}: holds {name}, which Python cannot read; install dpkg, whose dpkg-deb can")


def _find_data(file: IO[bytes]) -> tuple[str, int]:
    """Moves to the first byte of the part that holds the files; returns its name and its size."""
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise tarfile.ReadError("it is no .deb file")
    while len(header := file.read(60)) == 60 and header[48:58].strip().isdigit():
        name, size = header[:16].decode("ascii", errors="replace").strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            return name, size
        file.seek(size + size % 2, 1)
    raise tarfile.ReadError("it ends before the files begin")


class _Part(io.RawIOBase):
    """The next ``size`` bytes of a file, as a file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer") -> int:
        view = memoryview(buffer)
        data = self._file.read(min(len(view), self._left))
        view[: len(data)] = data
        self._left -= len(data)
        return len(data)
