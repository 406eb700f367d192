"""Signals that ask a training to stop: they are remembered until its step is finished."""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
from types import FrameType
from typing import Any

# What they are to each other where several come: the last one wins.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_SAID = {
    signal.SIGINT: "stopping after this step; Ctrl-C again stops at once and saves nothing",
    signal.SIGTERM: "told to end: stopping after this step",
    signal.SIGUSR1: "time is nearly up: stopping after this step, to be queued again",
}


class StopSignals:
    """Ctrl-C, SIGTERM, and SIGUSR1, by which SLURM says that time is nearly up.

    Lightning's own handlers save, or talk to other processes, at whatever place of a step the signal finds them: in
    the middle of an optimiser's step, or while other processes wait for the gradients of this one.

    Attributes:
        asked: place in ``STOPS``, counted from 1, of what was asked for; 0 for nothing.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._speaks = True

    def listen(self, *signals: signal.Signals, speaks: bool) -> None:
        """Takes these signals from now on; one of the processes ``speaks``. Lightning puts back who had them before."""
        self._speaks = speaks
        for one in signals:
            signal.signal(one, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.asked == 1:
            raise SystemExit(130)
        self.asked = max(self.asked, 1 + STOPS.index(signal.Signals(number)))
        if self._speaks:
            # Not print: the signal may have come in the middle of one.
            os.write(2, f"\n{_SAID[signal.Signals(number)]}\n".encode())


def shield_workers(data: Any) -> None:
    """Starts the server that loader processes are forked from while the signals for the training itself are ignored.

    Ctrl-C and SLURM's signal go to every process of a group; a loader that ends with them would take the step with it.
    """
    if not getattr(data, "workers", 0):
        return
    multiprocessing.get_context("forkserver").set_forkserver_preload([type(data).__module__])
    ignored = (signal.SIGINT, signal.SIGUSR1)
    before = [signal.signal(one, signal.SIG_IGN) for one in ignored]
    multiprocessing.forkserver.ensure_running()
    for one, handler in zip(ignored, before, strict=True):
        signal.signal(one, handler)
