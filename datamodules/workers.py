"""Many jobs on the machine's cores, in processes that may crash without taking the run along."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class WorkerCrashedError(RuntimeError):
    """The process that did a job was killed: by the job itself, or for want of memory."""


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker() -> None:
    """One thread a process; Ctrl-C is the parent's affair, and a worker does not outlive a parent that was killed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in _THREADS:
        os.environ[name] = "1"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def unordered(
    function: Callable[[_Job], _Result],
    jobs: Iterable[_Job],
    workers: int,
    initializer: Callable[[], None] = start_worker,
) -> Generator[tuple[_Job, _Result | WorkerCrashedError], None, None]:
    """Does jobs in ``workers`` processes and yields (job, result) as they end; few are ever in flight.

    When a process is killed, the jobs in flight are done again one by one, so that only the one that kills its process
    has a ``WorkerCrashedError`` for its result.
    """
    rest = iter(jobs)
    while True:
        suspects = yield from _until_a_crash(function, rest, workers, initializer)
        if suspects is None:
            return
        for job in suspects:
            crashed = yield from _until_a_crash(function, iter([job]), 1, initializer)
            if crashed is not None:
                yield (
                    job,
                    WorkerCrashedError("the process that read it was killed: a crash in a decoder, or no memory left"),
                )


def _until_a_crash(
    function: Callable[[_Job], _Result], jobs: Iterator[_Job], workers: int, initializer: Callable[[], None]
) -> "Iterator[tuple[_Job, _Result]] | Any":
    """Yields results; returns the jobs that were in flight when a process was killed, or None at the end."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=initializer)
    flight: dict[Any, Any] = {}
    try:
        while True:
            while len(flight) < 4 * workers and (job := next(jobs, None)) is not None:
                flight[pool.submit(function, job)] = job
            if not flight:
                break
            for future in wait(flight, return_when=FIRST_COMPLETED).done:
                if isinstance(future.exception(), BrokenProcessPool):
                    return list(flight.values())
                yield flight.pop(future), future.result()
    except BrokenProcessPool:
        # Broken while a job was being handed in, which then is in no future.
        return [*flight.values(), job]
    except BaseException:
        # Broken off: workers would otherwise finish what they have, and keep the terminal waiting.
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
            process.join()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return None
