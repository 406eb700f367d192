"""Melodies as pitch classes, each file heard once.

Shape letters: B items, C channels, N samples.
"""

from collections.abc import Hashable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from datamodules.audio_io import read_audio
from datamodules.errors import InputError
from datamodules.features.chroma import ChromaExtractor
from lightning_modules.conditioning.melody import MelodyEncoder
from lightning_modules.generation.requests import Audio
from lightning_modules.generation.windows import wrapped

_KEPT = 4096  # melodies; 235 bytes each, where Demucs takes about as long as the music lasts


class HeardMelodies:
    """Hears melodies, and remembers what it heard in files.

    A job draws batch after batch, and all its prompts may follow one file: that is read, parted into stems and made
    chroma of for the first batch alone. What was heard last stays, 4096 melodies at most; a file that has changed since
    (its size or time of change) is heard anew.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Tensor] = {}  # the latest at the end

    def classes(
        self, encoder: MelodyEncoder, melodies: Sequence[Audio], starts: Sequence[int], sample_rate: int
    ) -> Tensor:
        """Pitch classes [B, frames] of melodies, from these samples on and then from their beginning again.

        Args:
            encoder: how they are heard.
            melodies: B files, waveforms [C, N], or None for no melody.
            starts: a sample of each.
            sample_rate: of the waveforms and the starts, Hz.

        Raises:
            InputError: a melody that cannot be read or has no melody in it; it names the file.
        """
        heard: dict[Hashable, Tensor] = {}  # of this call, the waveforms' too
        rows = []
        for given, start in zip(melodies, starts, strict=True):
            key = (_identity(given), start, encoder.config, sample_rate)
            if key not in heard:
                known = self._kept.pop(key, None)
                heard[key] = _hear(encoder, given, start, sample_rate) if known is None else known
                if isinstance(given, str | Path):
                    self._keep(key, heard[key])
            rows.append(heard[key])
        return torch.cat(rows)

    def _keep(self, key: Hashable, classes: Tensor) -> None:
        self._kept[key] = classes
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]


def _identity(given: Audio) -> Hashable:
    """What tells a melody from others: of a waveform only for as long as it is held."""
    if not isinstance(given, str | Path):
        return id(given)
    file = Path(given).absolute()
    try:
        state = file.stat()
    except OSError:
        return str(file)  # whoever reads it says what is wrong
    return str(file), state.st_size, state.st_mtime_ns


def _hear(encoder: MelodyEncoder, given: Audio, start: int, sample_rate: int) -> Tensor:
    """Pitch classes [1, frames] of one melody from a sample on."""
    named = isinstance(given, str | Path)
    wav = read_audio(given, sample_rate=sample_rate, channels=1) if named else given  # type: ignore[arg-type]
    if start and wav is not None:
        assert isinstance(wav, Tensor)
        wav = wrapped(wav, start, encoder.config.frames * ChromaExtractor(sample_rate).hop)
    try:
        return encoder.classes([wav], sample_rate)  # type: ignore[list-item]
    except InputError as error:
        if not named:
            raise
        raise InputError(f"{given}: {error}") from error
