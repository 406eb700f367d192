"""A command in processes of its own, of which one or all are killed with ``kill -9``."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

POLL = 0.01  # seconds
_STUCK = 600.0  # seconds after which a run is given up


@dataclass
class Run:
    """``python -m experiments ...`` and all that it starts; its output is read as it comes.

    Attributes:
        arguments: of the command.
        seconds: how long it had lived when it was killed.
    """

    arguments: list[str]
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._begun = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments", *self.arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            # Networks so small only wait for each other.
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )  # fmt: skip
        self._output = b""
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def running(self) -> bool:
        """Whether it has not ended; one that takes far too long is killed."""
        if time.monotonic() - self._begun > _STUCK:
            self._kill_all()
            raise RuntimeError(f"given up after {_STUCK:g} s: {' '.join(self.arguments)}\n{self._said()}")
        return self._process.poll() is None

    def killed(self, wait: float, rank: int | None = None) -> bool:
        """Kills all its processes ``wait`` seconds from now, or the one of a rank, and waits until all are gone.

        Returns:
            Whether it did; not if the run, or those that a launcher has started for it, ended before.
        """
        moment = time.monotonic() + wait
        while (left := moment - time.monotonic()) > 0 and self.running():
            time.sleep(min(left, POLL))
        if not self.running():
            return False
        if rank is None:
            self.seconds = time.monotonic() - self._begun
            self._kill_all()
            return True
        ranks = _ranks(self._process.pid)
        if rank not in ranks:
            return False
        self.seconds = time.monotonic() - self._begun
        os.kill(ranks[rank], signal.SIGKILL)
        while self.running() and any(_lives(one) for one in ranks.values()):
            time.sleep(POLL)
        self._begun = time.monotonic()  # as if it were a new one
        return True

    def finish(self) -> str:
        """Waits for the end; its output.

        Raises:
            RuntimeError: it failed.
        """
        while self.running():
            time.sleep(POLL)
        if self._process.returncode:
            raise RuntimeError(
                f"code {self._process.returncode} of an undisturbed run: {' '.join(self.arguments)}\n{self._said()}"
            )
        return self._said()

    def _kill_all(self) -> None:
        # torchrun's processes are in groups of their own; it must not start others while it is killed.
        os.kill(self._process.pid, signal.SIGSTOP)
        others = _below(self._process.pid)
        for one in (self._process.pid, *others):
            _kill(one)
        self._process.wait()
        while any(_lives(one) for one in others):
            time.sleep(POLL)
        self._said()

    def _said(self) -> str:
        # The pipe ends when the last process that writes to it is gone.
        self._reader.join(60)
        return self._output.decode(errors="replace")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._output += line


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself


def _state(process: int) -> tuple[str, int] | None:
    """State and parent; None of a process that is gone."""
    try:
        # Behind the name, which may have anything in it.
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])


def _lives(process: int) -> bool:
    state = _state(process)
    return state is not None and state[0] not in "ZX"


def _below(process: int) -> list[int]:
    """Processes that this one has started, and those that they have."""
    parents = {int(path.name): _state(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found = [process]
    for parent in found:
        found += [one for one, state in parents.items() if state is not None and state[1] == parent]
    return found[1:]


def _ranks(launcher: int) -> dict[int, int]:
    """The processes of torchrun's run by their ranks."""
    found = {}
    for process in _below(launcher):
        state = _state(process)
        if state is None or state[1] != launcher:
            continue
        try:
            words = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        found.update({int(word[5:]): process for word in words if word.startswith(b"RANK=")})
    return found
