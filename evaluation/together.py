"""Several devices hear the clips of one evaluation, a process each, and hand on what they heard through the cache.

Each process hears whole batches, so that every clip is heard beside the same others as in one process, to the last bit.
"""

import multiprocessing
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from datamodules.errors import InputError
from datamodules.workers import start_worker
from evaluation.heard import HeardBefore
from evaluation.judges.panel import resolve_panel
from evaluation.listening import Listener, batches
from evaluation.pairing import Pair
from evaluation.protocol import Choices

_PATIENCE = 10.0  # seconds that a process has to end in


@dataclass(frozen=True)
class _Share:
    """What one process hears, where, and for whom."""

    device: str
    threads: int
    judges: Mapping[str, str]
    choices: Choices
    seed: int
    folder: Path
    pairs: Sequence[Pair]


def choose_devices(device: str | None, count: int) -> list[str]:
    """Where judges run, one process each.

    Args:
        device: as torch names it; None is the GPU if there is one.
        count: how many; 0 is every visible GPU, and one of anything else.

    Raises:
        InputError: more than there are GPUs, or several of one that is named by its number.
    """
    if count < 0:
        raise InputError(f"devices={count}; give 1 or more, or 0 for every visible GPU")
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cpu":
        return ["cpu"] * max(1, count)
    if kind != "cuda":
        if count > 1:
            raise InputError(f"device {device} is one; leave devices={count} out, or the device")
        return [kind]
    visible = torch.cuda.device_count()
    if count > visible:
        raise InputError(f"devices={count}, and {visible} GPUs are visible; give no more (CUDA_VISIBLE_DEVICES)")
    return [kind] if count == 1 else [f"cuda:{number}" for number in range(count or max(1, visible))]


def hear_together(
    devices: Sequence[str],
    judges: Mapping[str, str],
    choices: Choices,
    seed: int,
    before: HeardBefore,
    pairs: Sequence[Pair],
) -> Iterator[int]:
    """Lets a process for each device hear a share of the pairs; yields how many are done as they are.

    Args:
        devices: a process each.
        judges: by metric, as ``resolve_panel`` takes them.
        choices: the protocol.
        seed: of the noise.
        before: the cache that they fill.
        pairs: what is to be heard.

    Raises:
        InputError: the cache cannot be written, or a process died or could not hear; the others are ended.
    """
    folder = _writable(before)
    every, threads = batches(pairs), max(1, torch.get_num_threads() // len(devices))
    running: dict[Connection, tuple[str, SpawnProcess]] = {}
    try:
        for number, device in enumerate(devices):
            own = [pair for batch in every[number :: len(devices)] for pair in batch]
            if own:
                share = _Share(device, threads, judges, choices, seed, folder, own)
                running |= [_start(share)]  # one by one, so that those begun are ended should the next not start
        while running:
            for said in wait(list(running)):
                assert isinstance(said, Connection)
                try:
                    told = said.recv()
                except EOFError:
                    _ended(*running.pop(said))
                    continue
                if isinstance(told, str):
                    raise InputError(told)
                yield told
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join(_PATIENCE)
            process.kill()
            process.join()


def _writable(before: HeardBefore) -> Path:
    """The cache's folder, tried out."""
    assert before.folder is not None, "processes meet in a folder"
    try:
        before.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=before.folder):
            return before.folder
    except OSError as error:
        raise InputError(
            f"{before.folder}: several devices hand on here what they heard, and it cannot be written "
            f"({error.strerror}); set MGL_CACHE to a folder that can, or give --devices 1"
        ) from error


def _start(share: _Share) -> tuple[Connection, tuple[str, SpawnProcess]]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_hear_share, args=(sender, share), daemon=True)
    process.start()
    sender.close()  # or its end would not be noticed
    return receiver, (share.device, process)


def _ended(device: str, process: SpawnProcess) -> None:
    """InputError where it had not done its share."""
    process.join()
    if process.exitcode:
        raise InputError(
            f"the process that listened on {device} died ({_cause(process.exitcode)}); what was heard is kept, so run "
            "the command again, with fewer devices if memory ran out"
        )


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _hear_share(sender: Connection, share: _Share) -> None:
    """The process: hears its pairs, and tells how many are done, or what a user can mend."""
    start_worker()
    # Ended in good order, it leaves no half-written file.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    torch.set_num_threads(share.threads)
    try:
        panel = resolve_panel(share.judges, share.device)
        before = HeardBefore(share.folder)
        listener = Listener(panel, share.choices, seed=share.seed, device=share.device, before=before)
        for heard, failed in listener.listen(share.pairs):
            sender.send(len(heard) + len(failed))
    except (InputError, torch.OutOfMemoryError) as error:
        sender.send(str(error))
