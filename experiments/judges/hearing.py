"""Files as an ear hears them: a few at a time, in their order."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from datamodules.audio_io import read_audio
from evaluation.ears import Ear

_BATCH = 8


def hear_files(ear: Ear, paths: Sequence[Path], advance: Callable[[int], None]) -> Iterator[dict[str, Tensor]]:
    """Reads files in mono at the ear's rate, and has them heard.

    Args:
        ear: who hears.
        paths: the files.
        advance: called with how many files were heard since the last call.

    Yields:
        For each file what ``Ear.hear`` returns, on the CPU.

    Raises:
        InputError: a file that cannot be read, or is too short for the ear.
    """
    for start in range(0, len(paths), _BATCH):
        some = paths[start : start + _BATCH]
        yield from ear.hear([read_audio(path, sample_rate=ear.sample_rate, channels=1)[0] for path in some])
        advance(len(some))
