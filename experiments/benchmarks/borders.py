"""What becomes of codes at borders: of crops from encoded tracks, and of tracks that are encoded in windows.

A crop that is encoded by itself begins with a silent past and ends in nothing; the same crop out of an encoded track
does not. How far that is heard depends on the codec's convolutions (some frames) and its LSTM (further, to the right of
the left border). The same table tells whether the context that windows are encoded with is enough.

Shape letters: C channels, N samples, K codebooks, T frames.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.audio_io import read_audio
from datamodules.manifest import read_manifest
from datamodules.sample_order import uniform
from datamodules.tokens.plan import Encoding, TokenCodec, encoding
from experiments.benchmarks.measuring import Row

# Frames from the border: from each of these on, up to the next.
DISTANCES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
_NAMES = [str(begin) if begin + 1 == end else f"{begin}-{end - 1}" for begin, end in pairwise(DISTANCES)]
_NAMES.append(f"{DISTANCES[-1]}-")
_CODEC, _CORPUS = "runs/demo/codec/model", "runs/demo/corpus"


@dataclass(frozen=True)
class Border:
    """How many codes are the same with and without a border.

    Attributes:
        what: which border.
        distance: from it, in frames: "0", "2-3", "256-".
        frames: how many were compared.
        equal: for each codebook, the share of equal codes.
    """

    what: str
    distance: str
    frames: int
    equal: tuple[float, ...]


def border_table(codec: TokenCodec, tracks: Iterable[Tensor], seconds: float = 30.0, crops: int = 8) -> list[Border]:
    """Compares codes with those of the whole track, by distance from borders.

    Args:
        codec: whose codes.
        tracks: audio [C, N], longer than a crop; for the seams of windows, several windows long.
        seconds: length of a crop.
        crops: random ones of each track.

    Returns:
        Rows for the left and the right border of crops that are encoded by themselves; behind and before the seams of
        tracks that are encoded in windows, without context and with the token writer's.
    """
    frames = round(seconds * codec.sample_rate / codec.hop)
    ours = encoding(codec)
    none = replace(ours, length=ours.step, left=0, right=0)
    tallies: dict[str, _Tally] = {}
    for number, wav in enumerate(tracks):
        whole = _encode(codec, wav)
        for crop in range(crops):
            start = int(uniform(number, crop, "border") * (whole.shape[1] - frames + 1))
            alone = _encode(codec, wav[:, start * codec.hop : (start + frames) * codec.hop])
            same = alone == whole[:, start : start + frames]
            inside = min(frames // 2, DISTANCES[-1])
            _tally(tallies, f"crops of {seconds:g} s, from the left border", same[:, :-inside])
            _tally(tallies, f"crops of {seconds:g} s, from the right border", same[:, : inside - 1 : -1])
        for shape, context in ((none, "no context"), (ours, "the token writer's context")):
            same, seams = _windowed(codec, wav, shape) == whole, _seams(shape, wav.shape[1])
            for left, seam, right in zip([0, *seams], seams, [*seams[1:], whole.shape[1]], strict=False):
                _tally(tallies, f"windows with {context}, behind a seam", same[:, seam : (seam + right) // 2])
                _tally(tallies, f"windows with {context}, before a seam", same[:, (left + seam) // 2 : seam][:, ::-1])
    return [row for what, tally in tallies.items() for row in tally.rows(what)]


def border_rows(
    quick: bool = False, codec: str = _CODEC, manifest: str = _CORPUS, say: Callable[[str], object] = print
) -> list[Row]:
    """The table as rows of a benchmark, means over the codebooks; none where there is no codec to ask."""
    if not Path(codec).is_dir() or not Path(manifest).exists():
        say(f"borders: left out, for there is no codec in {codec}; `make demo` makes one")
        return []
    return [
        Row(f"equal codes, {row.what}: frames {row.distance}", "%", 100 * float(np.mean(row.equal)))
        for row in _measured(codec, manifest, 1 if quick else 4)
    ]


def borders(codec: str = _CODEC, manifest: str = _CORPUS, tracks: int = 4) -> None:
    """Prints the table.

    Args:
        codec: folder of a codec, or "embedded".
        manifest: tracks, which are put together to longer ones.
        tracks: how many longer ones.
    """
    what = ""
    for row in _measured(codec, manifest, tracks):
        if row.what != what:
            what = row.what
            print(f"{what}\n  frames     compared  {'  '.join(f'book {k}' for k in range(len(row.equal)))}")
        shares = "  ".join(f"{100 * share:5.1f}%" for share in row.equal)
        print(f"  {row.distance:<9} {row.frames:9d}  {shares}")


def _measured(codec: str, manifest: str, tracks: int) -> list[Border]:
    from lightning_modules.codec.folder import load_codec

    model = load_codec(codec)
    return border_table(model, _long_tracks(model, manifest, tracks))


def _long_tracks(codec: TokenCodec, manifest: str, count: int) -> Iterable[Tensor]:
    """The tracks of a manifest put together until they are three windows long."""
    wanted = encoding(codec).length + 2 * encoding(codec).step
    parts: list[Tensor] = []
    for track in read_manifest(manifest):
        parts.append(read_audio(track.path, sample_rate=codec.sample_rate, channels=codec.channels))
        if sum(part.shape[1] for part in parts) >= wanted and count:
            yield torch.cat(parts, 1)[:, :wanted]
            parts, count = [], count - 1


def _encode(codec: TokenCodec, wav: Tensor) -> "np.ndarray[Any, Any]":
    """Audio [C, N] -> codes [K, T]."""
    return codec.encode(wav[None])[0].cpu().numpy()


def _windowed(codec: TokenCodec, wav: Tensor, shape: Encoding) -> "np.ndarray[Any, Any]":
    """Codes [K, T] of a track that is encoded in windows."""
    count = shape.windows(wav.shape[1])
    parts = []
    for window in range(count):
        codes = _encode(codec, wav[:, window * shape.step :][:, : shape.length])
        parts.append(codes[:, shape.kept(window == 0, window == count - 1, codes.shape[1], shape.hop)])
    return np.concatenate(parts, axis=1)


def _seams(shape: Encoding, samples: int) -> list[int]:
    """Frames at which one window's codes end and the next one's begin."""
    return [(window * shape.step + shape.left) // shape.hop for window in range(1, shape.windows(samples))]


class _Tally:
    """Counts equal codes by distance."""

    def __init__(self, codebooks: int) -> None:
        self.equal = np.zeros((len(DISTANCES), codebooks), dtype=np.int64)
        self.frames = np.zeros(len(DISTANCES), dtype=np.int64)

    def add(self, same: "np.ndarray[Any, Any]") -> None:
        """[K, T] bool, frame 0 at the border."""
        for place, (begin, end) in enumerate(zip(DISTANCES, [*DISTANCES[1:], None], strict=True)):
            part = same[:, begin:end]
            self.equal[place] += part.sum(1)
            self.frames[place] += part.shape[1]

    def rows(self, what: str) -> Sequence[Border]:
        """One for each distance that was seen."""
        return [
            Border(what, distance, int(frames), tuple((equal / frames).tolist()))
            for distance, frames, equal in zip(_NAMES, self.frames, self.equal, strict=True)
            if frames
        ]


def _tally(tallies: dict[str, _Tally], what: str, same: "np.ndarray[Any, Any]") -> None:
    tallies.setdefault(what, _Tally(len(same))).add(same)


if __name__ == "__main__":
    import sys

    from experiments.call import call

    call(borders, "borders", sys.argv[1:])
