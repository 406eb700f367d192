"""What is asked for, in seconds and files, as frames and codes.

Shape letters: C channels, N samples, K codebooks, P given frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.audio_io import read_audio
from datamodules.errors import InputError
from datamodules.sample_order import derived_seed
from lightning_modules.codec.contract import Codec

Audio = Tensor | str | Path | None
_LONGEST = 3600.0  # seconds


@dataclass(frozen=True)
class Sample:
    """One sample that is asked for.

    Attributes:
        length: its samples.
        frames: of codes that these need.
        seed: its own.
        given: codes [K, P] that it begins with; P is 0 where nothing is given.
    """

    length: int
    frames: int
    seed: int
    given: Tensor


def samples(
    codec: Codec,
    count: int,
    duration: float | Sequence[float],
    seed: int | Sequence[int],
    ids: Sequence[str] | None,
    continuation: Audio | Sequence[Audio],
) -> list[Sample]:
    """Reads the options of ``MusicModel.generate_codes`` that are one for all prompts or one for each.

    Args:
        codec: whose frames they are counted in, and which encodes what is given.
        count: prompts.
        duration: seconds.
        seed: seeds.
        ids: names.
        continuation: audio that samples begin with.

    Raises:
        InputError: another number of them than of prompts; a duration that is no number, shorter than a frame, longer
            than an hour or no longer than the given audio; or audio that cannot be read.
    """
    if ids is not None and len(ids) != count:
        raise InputError(f"there are {len(ids)} ids for {count} prompts; give one each")
    names = ids if ids is not None else [str(number) for number in range(count)]
    durations, seeds = each(duration, count, "durations"), each(seed, count, "seeds")
    encoded: dict[object, Tensor] = {}
    made = []
    for name, seconds, own, audio in zip(names, durations, seeds, each(continuation, count, "audios"), strict=True):
        length = _length(codec, seconds)
        key = id(audio) if isinstance(audio, Tensor) else str(audio)
        if key not in encoded:
            encoded[key] = _given(codec, audio)
        frames, given = -(-length // codec.hop), encoded[key]
        if given.shape[1] >= frames:
            raise InputError(
                f"a duration of {seconds:g} s counts the audio that is continued, and that lasts "
                f"{given.shape[1] / codec.frame_rate:g} s; ask for more"
            )
        made.append(Sample(length, frames, derived_seed(own, name), given))
    return made


def each(given: Any, count: int, what: str) -> list[Any]:
    """One for all prompts, or one for each -> one for each.

    Raises:
        InputError: another number of them.
    """
    if given is None or isinstance(given, str | Path | Tensor) or not isinstance(given, Sequence):
        return [given] * count
    if len(given) not in (1, count):
        raise InputError(f"there are {len(given)} {what}; give one, or one for each prompt")
    return list(given) * (count if len(given) == 1 else 1)


def _length(codec: Codec, seconds: float) -> int:
    """Samples of a duration."""
    if not seconds <= _LONGEST:  # also what is no number
        raise InputError(f"a duration of {seconds} s cannot be drawn; give seconds, {_LONGEST:g} at most")
    length = round(seconds * codec.sample_rate)
    if length < codec.hop:
        raise InputError(f"a duration of {seconds} s is shorter than one frame ({1 / codec.frame_rate:g} s)")
    return length


def _given(codec: Codec, audio: Audio) -> Tensor:
    """Codes [K, P] of the whole frames of a recording: what is begun is drawn, rather than filled up with silence."""
    if audio is None:
        return torch.empty(codec.codebooks, 0, dtype=torch.int64)
    named = isinstance(audio, str | Path)
    if named:
        wav = read_audio(audio, sample_rate=codec.sample_rate, channels=codec.channels)  # type: ignore[arg-type]
    else:
        assert isinstance(audio, Tensor)
        wav = audio
    device = next(codec.parameters()).device
    try:
        whole = wav[..., : max(wav.shape[-1] // codec.hop, 1) * codec.hop]
        return codec.encode(whole[None].to(device))[0].cpu()
    except InputError as error:
        where = f"{audio}" if named else "the audio to continue"
        raise InputError(f"{where}: {error}") from error
