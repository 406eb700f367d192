"""Real music made worse by a known amount: what an evaluation must notice.

Shape letters: C channels, N samples.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from datamodules.audio_io import read_audio, write_audio
from datamodules.errors import InputError
from datamodules.manifest import FILE_NAME, Track, write_manifest
from datamodules.sample_order import derived_seed, uniform
from evaluation.pairing import SYSTEM_FILE
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.folder import load_codec

# kind: what its level is, and what is less of it
KINDS = {
    "noise": "white noise so many dB below the music",
    "low-pass": "nothing above so many Hz",
    "codec": "encoded and decoded with so many codebooks",
    "transpose": "so many semitones higher, at the same tempo",
    "captions": "the caption of another track; no level",
}
_STEEP = 16  # order of the low-pass in power: 48 dB an octave
_FOLDER = "audio"


@dataclass(frozen=True)
class Degradation:
    """What is done to clips.

    Attributes:
        kind: one of ``KINDS``.
        level: how much, in the kind's own unit.
        share: of the clips, 0 to 1; a greater share holds the smaller one's clips.
        seed: draws the share, and the noise.
        codec: for the kind "codec", as ``coarse_codec`` gives it.
    """

    kind: str
    level: float | None = None
    share: float = 1.0
    seed: int = 0
    codec: Codec | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"there is no kind {self.kind!r}; choose one of {', '.join(KINDS)}")
        if (self.level is None) != (self.kind == "captions"):
            raise InputError(f"kind {self.kind}: {KINDS[self.kind]}; give --level accordingly")
        if not 0 <= self.share <= 1:
            raise InputError(f"share={self.share} is no share of the clips; give a number from 0 to 1")
        if self.kind == "low-pass" and not (self.level or 0) > 0:
            raise InputError(f"level={self.level}: nothing would be left; give a frequency in Hz")

    @property
    def name(self) -> str:
        """For people: "noise 20"."""
        share = "" if self.share == 1 else f" of {self.share:g}"
        return f"{self.kind}{'' if self.level is None else f' {self.level:g}'}{share}"

    def drawn(self, track: str) -> bool:
        """Whether a track is one of those it is done to."""
        return uniform(self.seed, derived_seed(track), "degraded") < self.share


def coarse_codec(name: str, codebooks: float) -> Codec:
    """The codec of that name with its first codebooks alone.

    Raises:
        InputError: there is no such codec, or none with so few codebooks.
    """
    codec = load_codec(name)
    if codebooks == codec.codebooks:
        return codec
    if not isinstance(codec, EnCodec) or codebooks != round(codebooks):
        raise InputError(f"{name}: level must be a number of codebooks, and only an EnCodec can do with fewer")
    return codec.with_codebooks(round(codebooks))


def degrade_tracks(
    tracks: Sequence[Track],
    folder: Path,
    how: Degradation,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Writes ``folder`` as ``mgl generate`` would, with the tracks' own ids: FLAC files, manifest and system.json.

    What is not drawn is copied. Lines keep their facts, and say in ``degraded`` what was done.

    Args:
        tracks: of a manifest.
        folder: where they go.
        how: what is done.
        advance: called after each track.

    Raises:
        InputError: a track cannot be read, or there is no other caption to take.
    """
    captions = _Captions(tracks) if how.kind == "captions" else None
    (folder / _FOLDER).mkdir(parents=True, exist_ok=True)
    written = []
    for number, track in enumerate(tracks):
        drawn = how.drawn(track.id)
        path = folder / _FOLDER / f"{number:06d}{'.flac' if drawn and captions is None else track.path.suffix}"
        if not drawn or captions is not None:
            shutil.copyfile(track.path, path)
            duration, rate = track.duration, track.sample_rate
        else:
            wav, rate = _degraded(track, how)
            write_audio(path, wav, rate)
            duration = wav.shape[-1] / rate
        caption = captions.of_another(number) if drawn and captions is not None else track.caption
        facts = dict(track.facts) | ({"degraded": {"kind": how.kind, "level": how.level}} if drawn else {})
        written.append(replace(track, path=path, duration=duration, sample_rate=rate, caption=caption, facts=facts))
        advance()
    write_manifest(folder / FILE_NAME, written)
    (folder / SYSTEM_FILE).write_text(json.dumps({"name": how.name}) + "\n", encoding="utf-8")


class _Captions:
    """Captions of other tracks: each track's next one that reads otherwise."""

    def __init__(self, tracks: Sequence[Track]) -> None:
        self.all = [track.caption for track in tracks]

    def of_another(self, number: int) -> str:
        """A caption that is not the track's own.

        Raises:
            InputError: all captions are equal.
        """
        around = self.all[number + 1 :] + self.all[:number]
        for caption in around:
            if caption != self.all[number]:
                return caption
        raise InputError(f"all captions read {self.all[number]!r}; wrong ones need a manifest with several")


def _degraded(track: Track, how: Degradation) -> tuple[Tensor, int]:
    """[C, N] and its rate."""
    assert how.level is not None, "kinds that change audio have a level"
    if how.kind == "codec":
        assert how.codec is not None, "the kind codec comes with a codec"
        return _reconstructed(track, how.codec)
    wav, rate = read_audio(track.path, sample_rate=track.sample_rate), track.sample_rate
    if how.kind == "noise":
        generator = torch.Generator().manual_seed(derived_seed(how.seed, track.id, "noise"))
        level = wav.square().mean().sqrt() * 10 ** (-how.level / 20)
        return wav + level * torch.randn(wav.shape, generator=generator), rate
    if how.kind == "low-pass":
        return _low_pass(wav, rate, how.level), rate
    from librosa.effects import pitch_shift  # torchaudio's takes a second for each of audio

    return torch.from_numpy(pitch_shift(wav.numpy(), sr=rate, n_steps=how.level)), rate


def _low_pass(wav: Tensor, rate: int, hertz: float) -> Tensor:
    count = 2 * wav.shape[-1]  # what rings must not come round to the beginning
    spectrum = torch.fft.rfft(wav, count)
    above = torch.linspace(0, rate / 2, spectrum.shape[-1]) / hertz
    return torch.fft.irfft(spectrum / (1 + above**_STEEP).sqrt(), count)[..., : wav.shape[-1]]


def _reconstructed(track: Track, codec: Codec) -> tuple[Tensor, int]:
    wav = read_audio(track.path, sample_rate=codec.sample_rate, channels=codec.channels)
    decoded = codec.decode(codec.encode(wav[None]))
    return decoded[0, :, : wav.shape[-1]].cpu(), codec.sample_rate
