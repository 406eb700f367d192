"""Kept, or refused with a reason: what a file was found to be, against what is wanted."""

from dataclasses import dataclass
from typing import Any

from datamodules.errors import InputError


@dataclass(frozen=True)
class Wanted:
    """Which files are kept.

    Attributes:
        min_seconds: shorter ones are refused.
        silence: those that never get louder than this (peak, full scale 1) are refused.
        max_channels: those with more are refused: what a mono mix of them is has no one answer.
    """

    min_seconds: float = 5.0
    silence: float = 1e-3
    max_channels: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < float("inf"):
            raise InputError(f"min_seconds must be a number of seconds, got {self.min_seconds}")


def refusal(result: dict[str, Any], wanted: Wanted) -> str:
    """Why a file is refused; empty where it is kept."""
    if "error" in result:
        return str(result["error"])
    if result["duration"] < wanted.min_seconds:
        return f"too short: {result['duration']:.2f} s, wanted {wanted.min_seconds:g} s"
    if result["peak"] < wanted.silence:
        return f"silent: its peak is {result['peak']:.5f}"
    if result["channels"] > wanted.max_channels:
        return f"{result['channels']} channels; mix it to mono or stereo"
    return ""


# The first words of reasons, by which a summary counts them.
def kind_of(reason: str) -> str:
    """A reason without its figures."""
    for mark in (":", " (", ";", " near "):
        reason = reason.partition(mark)[0]
    return reason if not reason[:1].isdigit() else reason.partition(" ")[2]
