"""How far a job is: a bar that counts clips, and in a log a line a minute."""

import sys
import time
from types import TracebackType
from typing import Self

from experiments.console import in_words, progress


class Display:
    """A bar over seconds of audio with the time that is left; clips are counted in words.

    Args:
        total: seconds of audio that this process is to make.
        clips: clips of the whole job.
        before: those that were finished before.
        share: how many processes work alike; each clip of this one stands for as many.
        shown: whether there is anything to see; one of several processes shows it.
        every: seconds from one line to the next where there is no terminal.
    """

    def __init__(
        self, total: float, clips: int, before: int = 0, share: int = 1, shown: bool = True, every: float = 60.0
    ) -> None:
        self.total, self.clips, self.before, self.share = total, clips, before, share
        self.shown, self.every = shown and total > 0, every
        self.done, self.made = 0.0, 0
        self._bar = progress()
        self._bar.disable = not self.shown
        self._task = self._bar.add_task(self._told(), total=total)

    def __enter__(self) -> Self:
        self._begun = self._said = time.monotonic()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._bar.update(self._task, completed=self.total)
        self._bar.stop()

    def advance(self, seconds: float) -> None:
        """So many seconds of audio more; fewer if they are to be made again."""
        self.done += seconds
        self._bar.update(self._task, completed=self.done)
        now = time.monotonic()
        if self.shown and not self._bar.console.is_terminal and now - self._said > self.every:
            self._said = now
            left = (now - self._begun) * (self.total / self.done - 1) if self.done > 0 else 0.0
            print(f"{self._told()}, {in_words(left)} left", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """One clip more is in place."""
        self.made += 1
        self._bar.update(self._task, description=self._told())

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self.shown:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _told(self) -> str:
        about = "about " if self.share > 1 else ""
        return f"generate {about}{min(self.before + self.made * self.share, self.clips):,} of {self.clips:,} clips"
