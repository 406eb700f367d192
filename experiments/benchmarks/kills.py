"""The kill table: ``kill -9`` at random moments, and what is left of ingest, token writing, training and generation.

Each command is run as a user would, in a process group of its own, of which every process is killed at once. The same
command then goes on in the same folder, until it has been killed often enough; at its end it must have made what an
undisturbed run makes, byte for byte. One that came to its end before its kill is compared and begun anew.

Most of such a short run is imports, so moments are counted from the first unit of work that was not finished before,
and they lie so close together that about all kills fit into one run.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from rich.console import Console
from rich.table import Table

from datamodules.errors import InputError
from datamodules.sample_order import uniform
from experiments.benchmarks.kill_subjects import Generation, Ingest, Subject, Tokens, Training

# A kill comes at most so many undisturbed runs' work after the one before, divided by the number of kills.
_SPREAD = 1.6
_POLL = 0.01  # seconds
_STUCK = 600.0  # seconds after which a run is given up


def kill_table(folder: Path, kills: int, seed: int, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Kills the four commands, prints the table and says how many kills left no trace.

    Args:
        folder: for what they read and write, some 100 MB; new or empty.
        kills: of each command.
        seed: of the made-up music and of the moments.
        say: takes a line about how far it is.

    Returns:
        A row for each kill: "what", "kill", "after_s" (seconds since the start of the process), "done_before" (finished
        units at the kill), "lost", "half_written" (how many) and "identical" (whether the run ended as if undisturbed).

    Raises:
        InputError: the folder is not empty, or there is nothing to do.
        RuntimeError: a run that was not killed has failed.
    """
    rows = []
    table = Table("command", "kill", "after", "done before", "lost", "half-written", "end identical")
    for subject, row in kill_rows(folder, kills, seed, say):
        rows.append(row)
        table.add_row(
            row["what"], str(row["kill"]), f"{row['after_s']:.1f} s",
            f"{row['done_before']} of {subject.total} {subject.unit}",
            str(row["lost"]), str(row["half_written"]), "yes" if row["identical"] else "NO",
        )  # fmt: skip
    Console().print(table)
    exact = sum(row["identical"] and not row["lost"] and not row["half_written"] for row in rows)
    print(f"{len(rows)} kills, {exact} exact")
    return rows


def kill_rows(
    folder: Path, kills: int = 10, seed: int = 0, say: Callable[[str], None] = print
) -> Iterator[tuple[Subject, dict[str, Any]]]:
    """The rows of ``kill_table``, each with whose it is."""
    if kills < 1:
        raise InputError(f"kills must be at least 1, got {kills}")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; name a folder that is new")
    folder = folder.resolve()
    tokens = Tokens(folder / "tokens", seed)
    training, generation = Training(folder / "training", seed, tokens.folder), Generation(folder / "generation", seed)
    for subject in (Ingest(folder / "ingest", seed), tokens, training, generation):
        for row in _Series(subject, seed, kills, say).rows():
            yield subject, row


class _Series:
    """The kills of one command."""

    def __init__(self, subject: Subject, seed: int, kills: int, say: Callable[[str], None]) -> None:
        self.subject, self.seed, self.kills, self.say = subject, seed, kills, say
        self.whole = subject.folder / "whole"

    def rows(self) -> list[dict[str, Any]]:
        """An undisturbed run, then runs with kills until there were enough."""
        self.subject.prepare()
        begun = time.monotonic()
        run = _Run(self.subject.command(self.whole))
        self._await_work(run, self.whole, {})
        idle = time.monotonic() - begun
        run.finish()
        work = time.monotonic() - begun - idle
        self.say(f"{self.subject.what}: undisturbed, {idle:.1f} s to the first sign of work and {work:.1f} s of work")
        self.span = work * min(1.0, _SPREAD / self.kills)
        rows: list[dict[str, Any]] = []
        life = 0
        while len(rows) < self.kills:
            rows += self._life(self.subject.folder / f"killed-{life}", len(rows))
            life += 1
        return rows

    def _life(self, out: Path, killed: int) -> list[dict[str, Any]]:
        """From an empty folder to the end of the command; ``killed`` kills there were before."""
        subject = self.subject
        rows: list[dict[str, Any]] = []
        before: dict[str, Any] = {}
        while True:
            kill = killed + len(rows) + 1
            run = _Run(subject.command(out))
            wait = None
            if kill <= self.kills:
                self._await_work(run, out, before)
                wait = self.span * uniform(self.seed, kill, f"kill {subject.what}")
            if not run.killed(wait):
                said = run.finish()
                break
            self._count(rows, subject.lost(before, out, None), "lost")
            before = subject.done(out)
            rows.append({
                "what": subject.what, "kill": kill, "after_s": run.seconds, "done_before": len(before),
                "lost": 0, "half_written": 0, "identical": False,
            })  # fmt: skip
            self._count(rows, subject.half_written(out, self.whole), "half_written")
            self.say(f"{subject.what}: kill {kill}, {len(before)} of {subject.total} {subject.unit} done")
        self._count(rows, subject.lost(before, out, said), "lost")
        differing = subject.differing(out, self.whole)
        for name in differing:
            self.say(f"{subject.what}: at its end {name} differs")
        return [{**row, "identical": not differing} for row in rows]

    def _await_work(self, run: "_Run", out: Path, before: dict[str, Any]) -> None:
        """Waits until something is finished that was not before, or the run is at its end."""
        while run.running() and self.subject.done(out) == before:
            time.sleep(_POLL)

    def _count(self, rows: list[dict[str, Any]], faults: list[str], column: str) -> None:
        """Puts down to the last kill what came to light after it."""
        for fault in faults:
            self.say(f"{self.subject.what}: {column.replace('_', ' ')}: {fault}")
        if rows:
            rows[-1][column] += len(faults)


@dataclass
class _Run:
    """One process group, ``python -m experiments ...``; its output is read as it comes.

    Attributes:
        arguments: of the command.
        seconds: how long it lived until it was killed.
    """

    arguments: list[str]
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._begun = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments", *self.arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # networks so small only wait for each other
        )  # fmt: skip
        self._output = b""
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def running(self) -> bool:
        """Whether it has not ended; one that takes far too long is killed."""
        if time.monotonic() - self._begun > _STUCK:
            self._kill()
            raise RuntimeError(f"given up after {_STUCK:g} s: {' '.join(self.arguments)}\n{self._said()}")
        return self._process.poll() is None

    def killed(self, wait: float | None) -> bool:
        """Kills the group ``wait`` seconds from now; false if it ended before, or was not to be killed."""
        if wait is None:
            return False
        moment = time.monotonic() + wait
        while (left := moment - time.monotonic()) > 0 and self.running():
            time.sleep(min(left, _POLL))
        if not self.running():
            return False
        self.seconds = time.monotonic() - self._begun
        self._kill()
        return True

    def finish(self) -> str:
        """Waits for the end; its output.

        Raises:
            RuntimeError: it failed.
        """
        while self.running():
            time.sleep(_POLL)
        if self._process.returncode:
            raise RuntimeError(
                f"code {self._process.returncode} of an undisturbed run: {' '.join(self.arguments)}\n{self._said()}"
            )
        return self._said()

    def _kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._said()

    def _said(self) -> str:
        # The pipe ends when the last process of the group is gone.
        self._reader.join(60)
        return self._output.decode(errors="replace")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._output += line
