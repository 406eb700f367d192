"""Tracks that could not be read in the middle of a run: logged, counted, and too many of them end it."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from datamodules.errors import InputError

_LOG = logging.getLogger(__name__)
# A share of a handful of samples says nothing.
_FEWEST = 5


class Failure(NamedTuple):
    """A draw that could not be read: which sample, which track, and why."""

    number: int
    track: str
    reason: str


class FailureCount:
    """Counts failures against samples.

    Args:
        allowed: share of draws that may fail.
    """

    def __init__(self, allowed: float) -> None:
        self.allowed, self.samples = allowed, 0
        self.tracks: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}

    def add(self, samples: int, failures: Sequence[Failure]) -> None:
        """Counts a batch.

        Raises:
            InputError: too large a share failed; lists the tracks with their reasons.
        """
        self.samples += samples
        for failure in failures:
            if failure.track not in self._reasons:
                _LOG.warning("left out %s (sample %d drew it): %s", failure.track, failure.number, failure.reason)
            self._reasons[failure.track] = failure.reason
            self.tracks[failure.track] += 1
        failed = self.tracks.total()
        if failed > max(_FEWEST, self.allowed * (self.samples + failed)):
            listed = "; ".join(f"{track} ({self._reasons[track]})" for track, _ in self.tracks.most_common(20))
            more = f" and {len(self.tracks) - 20} more" if len(self.tracks) > 20 else ""
            raise InputError(
                f"{failed} of {self.samples + failed} draws could not be read, more than {self.allowed:.1%}: "
                f"{listed}{more}; mend or remove these tracks (`mgl manifest` finds such)"
            )
