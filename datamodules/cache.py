"""A folder of fetched files, bounded in size and shared by all processes of a machine.

``objects/`` holds whole files, ``partial/`` those that are being fetched; the first use of a file and every later one
set its modification time, and the files that were used longest ago leave first. No process ever holds a lock: a file
appears whole, by a rename, and a process that finds another one fetching the same file waits as long as that one
makes progress.
"""

import errno
import hashlib
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.errors import InputError

logger = logging.getLogger(__name__)

_GRACE = 60.0  # seconds after its last use in which a file never leaves
_SLACK = 0.05  # share of the limit that an eviction frees beyond need, so that not every fetch has to look
_LOOK = 10.0  # seconds after which the folder is looked through again: other processes fill it too
_LOOK_SHARE = 0.01  # of the time, at most, is spent on that
_STALL = 10.0  # seconds without progress after which another process's fetch counts as dead
_POLL = 0.05  # seconds between two looks at another process's fetch
_LITTER = 3600.0  # seconds without progress after which a fetch's remains are removed
_OWN = 32  # hexadecimal digits that begin the name of every file here; nothing else is ever removed


@dataclass
class Cache:
    """Fetched files, the least recently used of which leave first.

    The limit is kept up to what was used in the last minute, which never leaves, and what other processes fetched in
    the last seconds.

    Args:
        folder: where the files lie; made at the first fetch.
        limit: bytes.
    """

    folder: Path
    limit: int
    _total: int = field(default=0, init=False)  # bytes that the folder holds, as far as this process knows
    _look: float = field(default=-math.inf, init=False)  # when it is to look again, on the monotonic clock
    _warned: bool = field(default=False, init=False)

    @classmethod
    def from_environment(cls) -> "Cache":
        """The cache that MGL_CACHE (a folder) and MGL_CACHE_GB (its limit, 50 by default) describe."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(os.environ.get("MGL_CACHE") or Path(home) / "musicgen-lightning").expanduser().absolute()
        given = os.environ.get("MGL_CACHE_GB") or "50"
        try:
            gigabytes = float(given)
        except ValueError:
            gigabytes = math.nan
        if not 0 < gigabytes < math.inf:
            raise InputError(f"MGL_CACHE_GB={given}: give the limit of {folder} as a positive number of gigabytes")
        return cls(folder, int(gigabytes * 1e9))

    def place(self, identity: tuple[str, ...], name: str) -> Path:
        """Where a file lies, fetched or not; files that differ in any part of their identity lie apart."""
        digest = hashlib.sha256("\0".join(identity).encode("utf-8", "surrogatepass")).hexdigest()
        # The end of the name is kept for messages and for readers that go by the suffix.
        end = name.encode("utf-8", "surrogatepass")[-100:].decode("utf-8", "ignore")
        return self.folder / "objects" / f"{digest[:_OWN]}-{end}"

    def use(self, file: Path, size: int | None) -> bool:
        """Whether a file is there, with the size that it should have; if so, it is the most recently used now."""
        try:
            if size is not None and os.stat(file).st_size != size:
                return False
            os.utime(file)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unusable(error) from error
        return True

    def fill(self, file: Path, size: int | None, source: str, download: Callable[[Path], None]) -> None:
        """Puts a file into its place, unless another process does so meanwhile.

        Args:
            file: its place.
            size: bytes that it must have; None where the store does not say.
            source: what it is, for messages.
            download: writes it to the path that it is given; may raise what it likes.

        Raises:
            InputError: the file is larger than the limit, the disk is full, or the folder cannot be written.
            ConnectionError: the download ended early.
        """
        if size is not None and size > self.limit:
            sizes = f"{size / 1e9:.3g} GB do not fit into a cache of {self.limit / 1e9:.3g} GB"
            raise InputError(f"{source}: {sizes}; raise MGL_CACHE_GB")
        try:
            partial = self._claim(file, size)
        except OSError as error:
            raise self._unusable(error) from error
        if partial is None:
            return
        try:
            self._make_room(size or 0)
            download(partial)
            arrived = partial.stat().st_size
            if size is not None and arrived != size:
                raise ConnectionError(f"{arrived} of {size} bytes arrived")
            os.utime(partial)
            partial.replace(file)
            self._total += arrived - (size or 0)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._unusable(error) from error
            if not partial.parent.is_dir():
                raise ConnectionError("its cache was removed meanwhile") from None
            raise
        finally:
            partial.unlink(missing_ok=True)

    def _claim(self, file: Path, size: int | None) -> Path | None:
        """A new partial file to write to; None if another process completes the file before it is our turn."""
        folder = self.folder / "partial"
        folder.mkdir(parents=True, exist_ok=True)
        file.parent.mkdir(exist_ok=True)
        # Names sort by age, and who came later waits.
        partial = folder / f"{file.name}.{time.time_ns():020d}.{os.getpid()}-{os.urandom(4).hex()}.partial"
        partial.touch()
        while self._fetched_by_another(partial, file.name):
            time.sleep(_POLL)
            os.utime(partial)
        if self.use(file, size):
            partial.unlink(missing_ok=True)
            return None
        return partial

    @staticmethod
    def _fetched_by_another(partial: Path, name: str) -> bool:
        """Whether someone who came earlier makes progress with the same file."""
        for entry in _files(partial.parent):
            if entry.name.startswith(name + ".") and entry.name < partial.name:
                try:
                    if time.time() - entry.stat().st_mtime < _STALL:
                        return True
                except FileNotFoundError:
                    pass  # done or given up
        return False

    def _make_room(self, need: int) -> None:
        """Sees to it that ``need`` more bytes keep the limit; looks through the folder only when it may be close."""
        if self._total + need > self.limit or time.monotonic() > self._look:
            self._evict(need)
        self._total += need

    def _evict(self, need: int) -> None:
        now, begun = time.time(), time.monotonic()
        total = 0
        for entry in _files(self.folder / "partial"):
            _, modified, size = _facts(entry)
            if now - modified > _LITTER and entry.name.endswith(".partial"):
                Path(entry.path).unlink(missing_ok=True)
            else:
                total += size
        files = [_facts(entry) for entry in _files(self.folder / "objects")]
        total += sum(size for _, _, size in files)
        looked = time.monotonic()
        self._look = looked + max(_LOOK, (looked - begun) / _LOOK_SHARE)
        room = self.limit - need
        if total > room:
            room = max(0, room - int(_SLACK * self.limit))
            for path, modified, size in sorted(files, key=lambda facts: facts[1]):
                if total <= room or now - modified < _GRACE:
                    break
                if _remove(path, modified):
                    total -= size
        self._total = total
        if total > self.limit - need and not self._warned:
            self._warned = True
            held, limit = (total + need) / 1e9, self.limit / 1e9
            logger.warning(
                "%s holds %.3g GB, all in use; its limit is %.3g: raise MGL_CACHE_GB", self.folder, held, limit
            )

    def _unusable(self, error: OSError) -> InputError:
        reason = error.strerror or error
        return InputError(f"{self.folder}: no place for a cache ({reason}); set MGL_CACHE to another folder")


def _files(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if _is_ours(entry.name)]


def _is_ours(name: str) -> bool:
    return name[_OWN : _OWN + 1] == "-" and all(digit in "0123456789abcdef" for digit in name[:_OWN])


def _facts(entry: os.DirEntry[str]) -> tuple[str, float, int]:
    """Path, time of the last use and size; nothing and long ago for what has just gone."""
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return entry.path, 0.0, 0
    return entry.path, found.st_mtime, found.st_size


def _remove(path: str, modified: float) -> bool:
    """Removes a file unless someone has used it since; whether it is gone."""
    try:
        # Between these two calls a use can go unseen. They are microseconds apart, and the file is the oldest.
        if os.stat(path).st_mtime != modified:
            return False
        os.unlink(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False  # another user's file
    return True
