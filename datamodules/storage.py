"""Folders of files, local or behind a URL: ``s3://``, ``gs://``, ``https://``, ``file://`` and whatever fsspec knows.

A remote file is fetched into the local cache (datamodules/cache.py) when its path is asked for, or ahead of that in the
background; readers only ever see local files.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from datamodules.cache import Cache
from datamodules.errors import InputError

logger = logging.getLogger(__name__)

_WAITS = (1.0, 4.0, 15.0)  # seconds before the second, third and fourth attempt
_REMEMBER = 300.0  # seconds for which what the store said of a file is believed
_REMEMBERED = 8192  # files of a folder and process
_READERS = 4  # files that are read ahead at once in a process
_WAITING = 1024  # files that wait for that
# What stores call the version of an object. Times of access and addresses of replicas are not among it.
_VERSION = (
    *("ETag", "etag", "Content-MD5", "md5Hash", "blob_id", "generation", "VersionId"),
    *("LastModified", "Last-Modified", "last_modified", "updated", "mtime"),
)
_WEB = ("http", "https")
_Result = TypeVar("_Result")


class StorageError(InputError):
    """A store could not be reached or broke off, again and again: nothing is known to be wrong with the file."""


class Folder(Protocol):
    """A folder of files, local or remote. Names are relative, with "/" between their parts."""

    name: str
    """As the user gave it, for messages."""

    def path(self, relative: str) -> Path:
        """Local path of one of its files; a remote one is fetched first.

        The path of a remote file holds for a minute (an open or mapped file for as long as it is open): ask again
        rather than keep it.

        Raises:
            InputError: the name leaves the folder; or a remote file is missing, refused or larger than the cache.
            StorageError: the store cannot be reached.
        """

    def size(self, relative: str) -> int:
        """Bytes of one of its files, which is not fetched. Raises as ``path`` does, and where nobody knows."""

    def ahead(self, relatives: Sequence[str]) -> None:
        """Begins to fetch files that will soon be asked for; what goes wrong with one, ``path`` raises."""


def open_folder(location: str | Path) -> Folder:
    """Opens a folder for reading; a remote one is not contacted yet.

    Args:
        location: a path, or a URL that fsspec understands, with a scheme and "://".

    Raises:
        InputError: no such local folder, an unknown scheme, or one whose driver is not installed.
    """
    if isinstance(location, str) and "://" in location:
        _check_drivers(location)
        return RemoteFolder(location, Cache.from_environment())
    return LocalFolder(location)


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, folder: str | Path) -> None:
        self.name, self._root = str(folder), Path(folder)
        if not self._root.is_dir():
            raise InputError(f"{folder}: there is no such folder")

    def path(self, relative: str) -> Path:
        """The joined path; whether there is such a file is left to its reader."""
        return _join(self._root, relative)

    def size(self, relative: str) -> int:
        """Bytes of a file."""
        path = self.path(relative)
        try:
            return path.stat().st_size
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error

    def ahead(self, relatives: Sequence[str]) -> None:
        """Nothing to do."""


@lru_cache(maxsize=4096)  # building a Path costs microseconds, and shards are asked for at every window
def _join(folder: Path, relative: str) -> Path:
    _check_name(folder, relative)
    return folder / relative


def _check_name(folder: str | Path, relative: str) -> None:
    if relative[:1] in ("", "/") or "\0" in relative or (".." in relative and ".." in relative.split("/")):
        raise InputError(f"{folder}: {relative!r} is no file inside the folder; names must be relative, without '..'")


@dataclass
class _Known:
    """What the store last said of a file."""

    size: int | None
    file: Path
    until: float


@dataclass
class _Process:
    """What a folder has in one process; a forked or spawned one begins anew, for event loops and threads stay behind.

    ``flight`` has the files that are being fetched or wait in ``waiting`` for a thread; ``lock`` guards what changes.
    """

    filesystem: Any
    root: str
    pid: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    known: dict[str, _Known] = field(default_factory=dict)
    flight: dict[str, Future[Path]] = field(default_factory=dict)
    waiting: deque[tuple[str, Future[Path]]] = field(default_factory=deque)
    readers: int = 0


class RemoteFolder:
    """A folder behind a URL, read through a cache.

    Args:
        url: of the folder.
        cache: where its files are fetched to.
    """

    def __init__(self, url: str, cache: Cache) -> None:
        self.name = url.rstrip("/")
        self.cache = cache
        self._process: _Process | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}

    def path(self, relative: str) -> Path:
        """Fetches a file unless it is cached, waiting for whoever already does so."""
        here = self._here()
        file = self._cached(here, relative)
        if file is not None:
            return file
        with here.lock:
            future = here.flight.get(relative)
            # A fetch that still waits for a thread is taken over.
            ours = future is None or future.cancel()
            if future is None or ours:
                future = here.flight[relative] = Future()
                future.set_running_or_notify_cancel()
        if ours:
            self._complete(here, relative, future)
        return future.result()

    def size(self, relative: str) -> int:
        """Asks the store, unless it has just said so."""
        here = self._here()
        name = f"{self.name}/{relative}"
        size = _patiently(name, lambda: self._ask(here, relative)).size
        if size is None:
            raise InputError(f"{name}: the store does not say how large it is")
        return size

    def ahead(self, relatives: Sequence[str]) -> None:
        """Fetches in a few daemon threads; of very many names the last are left until they are asked for."""
        here = self._here()
        for relative in relatives:
            if self._cached(here, relative) is not None:
                continue
            with here.lock:
                if relative in here.flight or len(here.waiting) >= _WAITING:
                    continue
                future = here.flight[relative] = Future()
                here.waiting.append((relative, future))
                if here.readers >= _READERS:
                    continue
                here.readers += 1
            # Threads of an executor would be waited for when the process ends.
            threading.Thread(target=self._read_ahead, args=(here,), name="read ahead", daemon=True).start()

    def _read_ahead(self, here: _Process) -> None:
        while True:
            with here.lock:
                if not here.waiting:
                    here.readers -= 1
                    return
                relative, future = here.waiting.popleft()
                if not future.set_running_or_notify_cancel():
                    continue
            self._complete(here, relative, future)

    def _complete(self, here: _Process, relative: str, future: Future[Path]) -> None:
        try:
            try:
                file = _patiently(f"{self.name}/{relative}", lambda: self._fetch(here, relative))
            finally:
                with here.lock:
                    del here.flight[relative]
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(file)

    def _fetch(self, here: _Process, relative: str) -> Path:
        known = self._ask(here, relative)
        if self.cache.use(known.file, known.size):
            return known.file
        url = self._url(here, relative)
        name = f"{self.name}/{relative}"
        try:
            self.cache.fill(known.file, known.size, name, lambda partial: here.filesystem.get_file(url, str(partial)))
        except Exception:
            here.known.pop(relative, None)  # the file may have changed since the store was asked
            raise
        return known.file

    def _cached(self, here: _Process, relative: str) -> Path | None:
        known = here.known.get(relative)
        if known is None or time.monotonic() > known.until or not self.cache.use(known.file, known.size):
            return None
        return known.file

    def _ask(self, here: _Process, relative: str) -> _Known:
        known = here.known.get(relative)
        if known is not None and time.monotonic() < known.until:
            return known
        info = here.filesystem.info(self._url(here, relative))
        if info.get("type") == "directory":
            raise InputError(f"{self.name}/{relative}: is a folder, not a file")
        version = tuple(f"{key}={info[key]}" for key in (*_VERSION, "size") if info.get(key) is not None)
        file = self.cache.place((self.name, relative, *version), relative.rpartition("/")[2])
        known = _Known(info.get("size"), file, time.monotonic() + _REMEMBER)
        with here.lock:
            here.known[relative] = known
            if len(here.known) > _REMEMBERED:
                del here.known[next(iter(here.known))]
        return known

    def _url(self, here: _Process, relative: str) -> str:
        _check_name(self.name, relative)
        # Only in web addresses do "?", "#" and "%" mean something.
        return f"{here.root}/{quote(relative) if self.name.startswith(_WEB) else relative}"

    def _here(self) -> _Process:
        if self._process is None or self._process.pid != os.getpid():
            from fsspec.core import url_to_fs  # a tenth of a second

            filesystem, root = _patiently(self.name, lambda: url_to_fs(self.name, **_options(self.name)))
            self._process = _Process(filesystem, root.rstrip("/"))
        return self._process


def _patiently(url: str, attempt: Callable[[], _Result]) -> _Result:
    """Calls ``attempt`` until it succeeds, four times at most; tells in one line why it did not.

    Raises:
        InputError: there is no use in trying again.
        StorageError: the last attempt failed too.
    """
    for wait in (*_WAITS, None):
        try:
            return attempt()
        except InputError:
            raise
        except Exception as error:  # drivers raise what they like
            _refuse_if_final(url, error)
            reason = _reason(error)
            if wait is None:
                raise StorageError(f"{url}: {reason}, even in the last attempt; check network and store") from error
            logger.warning("%s: %s; trying again in %g s", url, reason, wait)
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _refuse_if_final(url: str, error: Exception) -> None:
    """Raises an InputError where the store has answered and would answer the same again."""
    cause = error.__cause__ or error  # fsspec's web driver says "not found" of every failure
    status = getattr(cause, "status", None)
    if isinstance(status, int):
        missing = status in (404, 410)
        refused = 400 <= status < 500 and status not in (408, 429)
    else:
        unclear = type(cause).__module__.startswith("aiohttp") or isinstance(cause, TimeoutError)
        missing = isinstance(error, FileNotFoundError | NotADirectoryError) and not unclear
        refused = isinstance(error, PermissionError) or "Credentials" in type(error).__name__
    if missing:
        raise InputError(f"{url}: there is no such file in the store") from error
    if refused:
        remedy = "check the credentials that fsspec's driver reads"
        raise InputError(f"{url}: the store refuses ({_reason(error)}); {remedy}") from error


def _reason(error: BaseException) -> str:
    """What an error says, in one line."""
    cause = error.__cause__ or error
    status, message = getattr(cause, "status", None), getattr(cause, "message", None)
    text = f"{status} {message}" if status and message else str(cause)
    return " ".join(text.split()) or type(cause).__name__


def _check_drivers(location: str) -> None:
    """Refuses schemes that fsspec does not know or whose package is missing."""
    from fsspec.registry import get_filesystem_class, known_implementations

    for part in location.split("::"):  # fsspec chains: "simplecache::s3://..."
        scheme = part.partition("://")[0]
        try:
            get_filesystem_class(scheme)
        except ValueError as error:
            raise InputError(
                f"{location}: {scheme!r} is no storage that fsspec knows; give a folder, s3://, gs:// or https://"
            ) from error
        except ImportError as error:
            package = known_implementations[scheme]["class"].partition(".")[0]
            remedy = str(error) if package == "fsspec" else f"`pip install {package}`"
            raise InputError(f"{location}: the driver of {scheme}:// is not installed; {remedy}") from error


def _options(location: str) -> dict[str, Any]:
    """Settings for web servers: aiohttp gives a whole download five minutes and ignores proxies unless told."""
    from fsspec.config import conf

    scheme = location.partition("://")[0]
    if scheme not in _WEB or "client_kwargs" in conf.get(scheme, {}):
        return {}
    from aiohttp import ClientTimeout

    return {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=30, sock_read=60), "trust_env": True}}
