"""The kill table: ``kill -9`` at random moments, and what is left of ingest, token writing, training and generation.

Each command is run as a user would, and every process of it is killed at once. The same command then goes on in the
same folder, until it has been killed often enough; at its end it must have made what an undisturbed run makes, byte for
byte. One that came to its end before its kill is compared and begun anew. Under torchrun every other kill is of one
process alone, which torchrun has to notice and to start all of them again.

Most of such a short run is imports, so moments are counted from the first unit of work that was not finished before,
and they lie so close together that about all kills fit into one run.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from datamodules.errors import InputError
from datamodules.sample_order import uniform
from experiments.benchmarks.kill_generation import Generation
from experiments.benchmarks.kill_ingest import Ingest
from experiments.benchmarks.kill_processes import POLL, Run
from experiments.benchmarks.kill_subject import Subject
from experiments.benchmarks.kill_tokens import Tokens
from experiments.benchmarks.kill_training import Training, TrainingOfTwo

# A kill comes at most so many undisturbed runs' work after the one before, divided by the number of kills.
_SPREAD = 1.6


def kill_table(folder: Path, kills: int, seed: int, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Kills the commands, prints the table and says how many kills left no trace.

    Args:
        folder: for what they read and write, some 100 MB; new or empty.
        kills: of each command; of training twice as many, in one process and in two.
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
    subjects: list[Subject] = [
        Ingest(folder / "ingest", seed),
        tokens,
        Training(folder / "training", seed, tokens.folder),
        TrainingOfTwo(folder / "torchrun", seed, tokens.folder),
        Generation(folder / "generation", seed),
    ]
    for subject in subjects:
        for row in _Series(subject, seed, kills * subject.weight, say).rows():
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
        run = Run(self.subject.command(self.whole))
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
        run = Run(subject.command(out))
        while (kill := killed + len(rows) + 1) <= self.kills:
            self._await_work(run, out, before)
            alone = subject.relaunched and kill % 2 == 1
            wait = self.span * uniform(self.seed, kill, f"kill {subject.what}")
            if not run.killed(wait, round(uniform(self.seed, kill, "rank")) if alone else None):
                break
            self._count(rows, subject.lost(before, out, None), "lost")
            before = subject.done(out)
            rows.append({
                "what": subject.what, "kill": kill, "after_s": run.seconds, "done_before": len(before),
                "lost": 0, "half_written": 0, "identical": False,
            })  # fmt: skip
            self._count(rows, subject.half_written(out, self.whole), "half_written")
            whom = "one process" if alone else "all"
            self.say(f"{subject.what}: kill {kill} of {whom}, {len(before)} of {subject.total} {subject.unit} done")
            run = run if alone else Run(subject.command(out))
        said = run.finish()
        self._count(rows, subject.lost(before, out, said), "lost")
        differing = subject.differing(out, self.whole)
        for name in differing:
            self.say(f"{subject.what}: at its end {name} differs")
        return [{**row, "identical": not differing} for row in rows]

    def _await_work(self, run: Run, out: Path, before: dict[str, Any]) -> None:
        """Waits until something is finished that was not before, or the run is at its end."""
        while run.running() and self.subject.done(out) == before:
            time.sleep(POLL)

    def _count(self, rows: list[dict[str, Any]], faults: list[str], column: str) -> None:
        """Puts down to the last kill what came to light after it."""
        for fault in faults:
            self.say(f"{self.subject.what}: {column.replace('_', ' ')}: {fault}")
        if rows:
            rows[-1][column] += len(faults)
