"""Audio while its codes are still drawn.

A codec's decoder hears a few frames on both sides of its own, and EnCodec's, by its LSTM, all those before. So EnCodec
carries over what it still needs from chunk to chunk, and what comes out is what decoding in one pass gives but for the
rounding of sums. Any other codec decodes each chunk again with frames on both sides of it.

Shape letters: C channels, N samples, K codebooks, T frames, D latent width, H width at the bottleneck.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.inference import Half
from lightning_modules.codec.recurrence import State
from lightning_modules.codec.stereo import StereoCodec


class StreamingDecoder(ABC):
    """Codes to audio, piece by piece."""

    @abstractmethod
    def __call__(self, codes: Tensor, last: bool) -> Tensor:
        """The next codes [B, K, n] -> the audio [B, C, m] of all frames that are certain by now; the rest if last."""


class Carrying(StreamingDecoder):
    """EnCodec's decoder.

    Args:
        codec: the codec.
    """

    def __init__(self, codec: EnCodec) -> None:
        self.quantizer, self.channels = codec.quantizer, codec.channels
        self.half = Half(codec.decoder, codec.hop, encodes=False)
        self.state: State = None
        self.latents: Tensor | None = None  # from frame ``begun`` on
        self.middle: Tensor | None = None  # at the bottleneck, from frame ``held`` on
        self.begun = self.heard = self.held = self.done = 0  # frames

    @property
    def reach(self) -> int:
        """Frames after its own that a frame's audio depends on."""
        return self.half.reach_first[1] + self.half.reach_last[1]

    def __call__(self, codes: Tensor, last: bool) -> Tensor:
        """See ``StreamingDecoder``."""
        half = self.half
        self.latents = _joined(self.latents, self.quantizer.decode(codes).to(half.dtype))
        known = self.begun + self.latents.shape[2]
        stop = known if last else max(known - half.reach_first[1], self.heard)
        if stop > self.heard:
            self._hear(stop)
        ready = stop if last else max(stop - half.reach_last[1], self.done)
        if ready == self.done or self.middle is None:
            return self.latents.new_zeros(len(codes), self.channels, 0)
        y = half.last(self.middle)[..., (self.done - self.held) * half.given : (ready - self.held) * half.given]
        self.done = ready
        keep = max(self.held, ready - half.reach_last[0])
        self.middle, self.held = self.middle[..., keep - self.held :], keep
        return y.float()

    def _hear(self, stop: int) -> None:
        """Passes frames up to ``stop`` through the first layers and the LSTM."""
        assert self.latents is not None
        fresh = self.half.first(self.latents)[..., self.heard - self.begun : stop - self.begun]
        if self.half.recurrence is not None:
            fresh, self.state = self.half.recurrence(fresh, self.state)
        self.middle, self.heard = _joined(self.middle, fresh), stop
        keep = max(self.begun, stop - self.half.reach_first[0])
        self.latents, self.begun = self.latents[..., keep - self.begun :], keep


class TwoSided(StreamingDecoder):
    """Stereo by two passes of a mono codec: its channels go side by side.

    Args:
        mono: what decodes codes [2B, K / 2, n].
    """

    def __init__(self, mono: StreamingDecoder) -> None:
        self.mono = mono

    def __call__(self, codes: Tensor, last: bool) -> Tensor:
        """See ``StreamingDecoder``."""
        sides = codes.unflatten(1, (-1, 2)).transpose(1, 2).flatten(0, 1)
        return self.mono(sides, last).unflatten(0, (-1, 2))[:, :, 0]


class Overlapping(StreamingDecoder):
    """Any codec, of whose frames each is decoded with some on both sides.

    Args:
        codec: the codec.
        context: how many.
    """

    def __init__(self, codec: Codec, context: int) -> None:
        self.codec, self.context = codec, context
        self.codes: Tensor | None = None  # from frame ``begun`` on
        self.begun = self.done = 0

    def __call__(self, codes: Tensor, last: bool) -> Tensor:
        """See ``StreamingDecoder``."""
        self.codes = _joined(self.codes, codes)
        known = self.begun + self.codes.shape[2]
        ready = known if last else max(known - self.context, self.done)
        hop, first = self.codec.hop, self.done - self.begun
        y = self.codec.decode(self.codes)[..., first * hop : (ready - self.begun) * hop]
        keep = max(self.begun, ready - self.context)
        self.codes, self.begun, self.done = self.codes[..., keep - self.begun :], keep, ready
        return y


def streaming_decoder(codec: Codec, ahead: int) -> StreamingDecoder:
    """What decodes a codec's codes piece by piece.

    Args:
        codec: the codec.
        ahead: frames that are known beyond those whose audio is wanted.

    Raises:
        InputError: fewer than the codec hears.
    """
    if isinstance(codec, StereoCodec):
        return TwoSided(streaming_decoder(codec.mono, ahead))
    if not isinstance(codec, EnCodec):
        return Overlapping(codec, max(ahead, 0))
    made = Carrying(codec)
    if ahead < made.reach:
        raise InputError(
            f"ahead is {ahead / codec.frame_rate:g} s, and this codec hears {made.reach / codec.frame_rate:g} s beyond "
            "what it decodes; with less there would be clicks"
        )
    return made


def audio_chunks(
    codec: Codec, drawn: Iterable[Tensor], frames: int, length: int, chunk: float, ahead: float
) -> Iterator[Tensor]:
    """Decodes codes while they come.

    Args:
        codec: of whose codes they are.
        drawn: codes [K, n], one after the other.
        frames: how many there will be.
        length: samples of audio that are wanted, at most those of ``frames``.
        chunk: seconds of each chunk but the last.
        ahead: seconds that are drawn beyond a chunk before it is decoded.

    Returns:
        An iterator of audio [C, n] on the CPU, each chunk as soon as it is certain.

    Raises:
        InputError: a chunk of less than a frame, or a look-ahead of less than the codec hears.
    """
    if not 1 <= chunk * codec.frame_rate < float("inf"):
        raise InputError(f"a chunk of {chunk} s is shorter than one frame ({1 / codec.frame_rate:g} s)")
    if not 0 <= ahead < float("inf"):
        raise InputError(f"ahead must be seconds, 0 or more, got {ahead}")
    whole, more = (int(seconds * codec.frame_rate + 1e-6) for seconds in (chunk, ahead))
    audio = _decoded(streaming_decoder(codec, more), drawn, frames, whole, more)
    return _cut(audio, length, whole * codec.hop)


def _decoded(
    decode: StreamingDecoder, drawn: Iterable[Tensor], frames: int, chunk: int, ahead: int
) -> Iterator[Tensor]:
    """Audio [C, n] each time that the frames of another chunk, and those ahead of it, are there."""
    pending: list[Tensor] = []
    known, wanted = 0, chunk + ahead
    for codes in drawn:
        pending.append(codes)
        known += codes.shape[1]
        if known >= min(wanted, frames):
            yield decode(torch.cat(pending, 1)[None], known == frames)[0].cpu()
            pending = []
            wanted += max(1, (known - wanted) // chunk + 1) * chunk


def _cut(audio: Iterable[Tensor], length: int, chunk: int) -> Iterator[Tensor]:
    """The same audio, ``length`` samples of it, in pieces of ``chunk``."""
    held: Tensor | None = None
    left = length
    for more in audio:
        held = more if held is None else torch.cat([held, more], 1)
        while left and held.shape[1] >= min(chunk, left):
            size = min(chunk, left)
            yield held[:, :size].clone()
            held, left = held[:, size:], left - size


def _joined(before: Tensor | None, more: Tensor) -> Tensor:
    return more if before is None else torch.cat([before, more], 2)
