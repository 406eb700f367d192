"""Codecs to stand beside a neural one: Opus and Vorbis, as libsndfile writes them into Ogg files.

A clip is written as a file in memory and read again. Its bitrate is that of the file, whatever was asked for. The
container is part of it: the heads of Ogg's pages, some 0.6 kbit/s for Opus, and headers once a file, 1 kB for Opus and
3 to 5 kB for Vorbis, whose codebooks they hold; in a short clip they weigh. ``container_bytes`` counts all of them.

Shape letters: C channels, N samples at the codec's rate, M samples at the file's.
"""

import io
import re
from typing import NamedTuple

import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample

from datamodules.errors import InputError

OPUS_RATE = 48_000
# libsndfile's compression level 1 asks Opus for 6 kbit/s a channel, level 0 for 256, in equal steps (its ogg_opus.c).
LOWEST, HIGHEST = 6.0, 256.0
_BLOCK_SECONDS = 10  # libsndfile crashes on one very long Vorbis write
_HIGHEST_VORBIS_RATE = 192_000  # above 200 kHz libsndfile crashes
_MOST_SHIFT = 12  # samples at 48 kHz, 0.25 ms
_NAME = re.compile(r"(opus|vorbis)(?:@(.*))?")
_PAGE = b"OggS"


class CodedClip(NamedTuple):
    """A clip as a file, and what its decoder lines it up with.

    Attributes:
        content: the file.
        wav: the clip at the file's rate [C, M].
        samples: N.
    """

    content: bytes
    wav: Tensor
    samples: int


def is_baseline(name: str) -> bool:
    """Whether a name means a baseline: "opus", "opus@6", "vorbis". A folder of such a name is "./opus"."""
    return _NAME.fullmatch(name) is not None


class FileCodec:
    """Opus or Vorbis by way of a file.

    Opus ("opus@6": 6 kbit/s for all channels together; "opus": its lowest, 6 a channel) codes at 48 kHz; clips of
    another rate are resampled before and after. Its files decode to as many samples as were written. From some 16
    kbit/s a channel on they are in place; below, its speech layer is 2 to 5 samples off, which nobody hears and which
    costs up to 3 dB of SI-SDR: it is found by cross-correlation with the clip, and undone. Vorbis codes at the clips'
    rate, at the lowest quality that libsndfile has (libvorbis's 0); its samples are in place.

    Args:
        name: one that ``is_baseline`` knows.
        sample_rate: of the clips, Hz.
        channels: of the clips.

    Attributes:
        level: libsndfile's compression level, 0 to 1.
        file_rate: Hz, at which it codes.
        asked: kbit/s asked for; None for Vorbis, which has qualities.

    Raises:
        InputError: a bitrate that it does not have, or a libsndfile or a rate without it.
    """

    def __init__(self, name: str, sample_rate: int, channels: int) -> None:
        found = _NAME.fullmatch(name)
        assert found is not None, f"{name} is no baseline"
        self.name, self.sample_rate, self.channels = name, sample_rate, channels
        self.subtype = found[1].upper()
        if self.subtype not in soundfile.available_subtypes("OGG"):
            raise InputError(f"{name}: this libsndfile writes no {found[1].title()}; pip install soundfile>=0.13")
        self.level, self.asked, self.file_rate = 1.0, None, sample_rate
        if self.subtype == "OPUS":
            self.file_rate = OPUS_RATE
            self.asked = _asked(name, found[2], channels)
            self.level = min(1.0, max(0.0, 1 - (self.asked / channels - LOWEST) / (HIGHEST - LOWEST)))
        elif found[2] is not None:
            raise InputError(f"{name}: Vorbis is taken at its lowest quality and has no bitrate; write vorbis")
        elif sample_rate > _HIGHEST_VORBIS_RATE:
            raise InputError(f"vorbis: has no {sample_rate:,} Hz, {_HIGHEST_VORBIS_RATE:,} at most; leave it out")
        self._to_file = _resampling(sample_rate, self.file_rate)
        self._from_file = _resampling(self.file_rate, sample_rate)

    def encode(self, wav: Tensor) -> CodedClip:
        """A clip [1, C, N] as a file."""
        clip = self._to_file(wav[0].float().cpu())
        buffer, samples, block = io.BytesIO(), clip.T.numpy(), _BLOCK_SECONDS * self.file_rate
        shape = {"samplerate": self.file_rate, "channels": self.channels, "subtype": self.subtype, "format": "OGG"}
        with soundfile.SoundFile(buffer, "w", **shape, compression_level=self.level) as file:
            for start in range(0, len(samples), block):
                file.write(samples[start : start + block])
        return CodedClip(buffer.getvalue(), clip, wav.shape[-1])

    def decode(self, coded: CodedClip) -> Tensor:
        """A file -> [1, C, N], lined up with its clip, cut or padded with zeros to its length."""
        samples, _ = soundfile.read(io.BytesIO(coded.content), dtype="float32", always_2d=True)
        made = _as_long(torch.from_numpy(samples.T.copy()), coded.wav.shape[-1])
        if self.subtype == "OPUS":
            made = shifted(made, -delay(made, coded.wav))
        return _as_long(self._from_file(made), coded.samples)[None]

    def described(self) -> dict[str, object]:
        """What it is, for results.json."""
        return {
            "architecture": self.subtype.lower(),
            "encoder": f"libsndfile {soundfile.__libsndfile_version__}",
            "compression_level": self.level,
            "asked_kbit_per_second": self.asked,
            "coded_at": self.file_rate,
            "sample_rate": self.sample_rate,
            "channels": self.channels,
        }


def _asked(name: str, text: str | None, channels: int) -> float:
    """kbit/s of an Opus baseline."""
    low, high = LOWEST * channels, HIGHEST * channels
    if text is None:
        return low
    try:
        asked = float(text)
    except ValueError as error:
        raise InputError(f"{name}: write opus@KBIT, for instance opus@{low:g}, or opus for its lowest") from error
    if not low <= asked <= high:
        span = f"{low:g} to {high:g} kbit/s for {channels} channel{'s' * (channels > 1)}"
        raise InputError(f"{name}: libsndfile's Opus has {span}; write opus@{low:g}, say")
    return asked


def _resampling(rate: int, wanted: int) -> torch.nn.Module:
    if rate == wanted:
        return torch.nn.Identity()
    # Long filters: what the way there and back loses must be far below what any codec does.
    return Resample(rate, wanted, lowpass_filter_width=64, rolloff=0.98)


def _as_long(wav: Tensor, samples: int) -> Tensor:
    return torch.nn.functional.pad(wav, (0, max(0, samples - wav.shape[-1])))[..., :samples]


def delay(made: Tensor, wav: Tensor, most: int = _MOST_SHIFT) -> int:
    """Samples by which ``made`` [C, M] lags behind ``wav`` [C, M]: where they correlate best, within ``most``."""
    length = wav.shape[-1]
    products = {}
    for lag in sorted(range(-most, most + 1), key=abs):  # of equals the smallest: silence has no delay
        left, right = made[:, max(0, lag) : length + min(0, lag)], wav[:, max(0, -lag) : length + min(0, -lag)]
        products[lag] = float((left * right).sum())
    return max(products, key=products.__getitem__)


def shifted(wav: Tensor, by: int) -> Tensor:
    """[C, M] later by so many samples, or earlier for negative ones; zeros move in."""
    length = wav.shape[-1]
    return torch.nn.functional.pad(wav, (max(0, by), max(0, -by)))[..., max(0, -by) :][..., :length]


def container_bytes(content: bytes) -> int:
    """Bytes of an Ogg file that carry no sound: heads of pages, and the pages that hold headers (RFC 3533)."""
    place, total, heading = 0, 0, True
    while place < len(content):
        assert content[place : place + 4] == _PAGE, "libsndfile writes Ogg pages without gaps"
        parts = content[place + 26]
        head = 27 + parts
        body = sum(content[place + 27 : place + head])
        # Pages of headers have position 0, those that no packet ends on -1.
        heading = heading and content[place + 6 : place + 14] in (b"\0" * 8, b"\xff" * 8)
        total += head + body * heading
        place += head + body
    return total
