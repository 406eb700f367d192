"""What every command that is killed has: what it works on, what it has finished, and what must not happen to it."""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.sample_order import derived_seed


class Subject(ABC):
    """A command that is killed and repeated.

    Attributes:
        what: its name.
        unit: what ``done`` counts.
        total: how many of them there are.
        weight: it is killed so many times as often as others.
        relaunched: whether a launcher starts its processes again when one of them is killed alone.
    """

    what: str
    unit: str
    total: int
    weight = 1
    relaunched = False

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed

    @abstractmethod
    def prepare(self) -> None:
        """Makes what the command works on."""

    @abstractmethod
    def command(self, out: Path) -> list[str]:
        """Arguments of the command that begins in the folder ``out``, or goes on in it."""

    @abstractmethod
    def done(self, out: Path) -> dict[str, Any]:
        """The finished units, each with what tells whether it was made anew."""

    @abstractmethod
    def lost(self, before: dict[str, Any], out: Path, said: str | None) -> list[str]:
        """What of ``before`` a later run has not kept; ``said`` is its output if it came to its end."""

    @abstractmethod
    def half_written(self, out: Path, whole: Path) -> list[str]:
        """Files that look finished after a kill and are not those of the undisturbed run in ``whole``."""

    @abstractmethod
    def differing(self, out: Path, whole: Path) -> list[str]:
        """What a run that came to its end has otherwise than the undisturbed one."""


def noise(seed: int, number: int, seconds: float, rate: int) -> "np.ndarray[Any, Any]":
    """White noise [samples], float32, another for each number."""
    generator = np.random.default_rng(derived_seed(seed, number, "kill table"))
    return generator.normal(0, 0.1, round(seconds * rate)).clip(-1, 1).astype(np.float32)


def text_of(path: Path) -> str:
    """A file's text; "" where there is none."""
    return path.read_text(encoding="ascii") if path.exists() else ""


def bytes_of(path: Path) -> bytes:
    """A file's bytes; none where there is no file."""
    return path.read_bytes() if path.exists() else b""


def differ(one: Path, other: Path) -> bool:
    """Whether two files are not both there and alike."""
    return not (one.is_file() and other.is_file()) or one.read_bytes() != other.read_bytes()


def parses(line: bytes) -> bool:
    """Whether a line is JSON, or empty."""
    try:
        json.loads(line)
    except ValueError:
        return not line
    return True
