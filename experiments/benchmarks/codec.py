"""``mgl bench codec``: the published codec's shape beside transformers' EncodecModel with the same weights.

Shape letters: B items, C channels, N samples, K codebooks, T frames, D latent width.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torchaudio.functional import resample

from datamodules.hub import quiet_transformers
from experiments.benchmarks.made_up import RATE, music
from experiments.benchmarks.measuring import Row, rates
from experiments.benchmarks.memory import in_fresh_process, peak_memory, start_memory
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.quantizer import ResidualVectorQuantizer
from lightning_modules.codec.seanet import PaddedConv1d, TrimmedConvTranspose1d
from lightning_modules.converting.codec_huggingface import read_huggingface, to_transformers

_SECONDS = 10
_WANTED = {"encode": "ratio >= 1.4", "decode": "ratio >= 1.25"}


def codec_rows(repeats: int, quick: bool = False, say: Callable[[str], object] = lambda text: None) -> list[Row]:
    """Everything `mgl bench codec` measures.

    Args:
        repeats: turns of the interleaved functions.
        quick: a tenth of the work: the figures mean little.
        say: is told what is being done.
    """
    shape = CodecConfig(filters=8, dim=32, entries=64) if quick else CodecConfig()
    say("codec: random weights, codebooks filled from latents")
    audio = made_up_music(20 if quick else 120, shape.sample_rate)
    with TemporaryDirectory(prefix="mgl-bench-") as folder:
        peer = alive_peer(shape, audio)
        with quiet_transformers():
            peer.save_pretrained(folder)
        ours = read_huggingface(folder).eval()
        assert isinstance(ours, EnCodec)
        say("codec: the same codes and audio")
        rows = parity_rows(ours, peer, audio)
        say("codec: speed")
        rows += speed_rows(ours, peer, audio[..., : _SECONDS * shape.sample_rate], repeats, torch.float32)
        # Without instructions for bfloat16 transformers takes minutes.
        fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        seconds, turns = (_SECONDS, repeats) if fast else (1, min(3, repeats))
        say("codec: speed in bfloat16")
        rows += speed_rows(ours, peer, audio[..., : seconds * shape.sample_rate], turns, torch.bfloat16)
        say("codec: memory")
        rows += memory_rows(Path(folder), quick)
    return rows


def made_up_music(seconds: int, sample_rate: int) -> Tensor:
    """[1, 1, N] at this rate."""
    parts = [torch.from_numpy(music(begin, 10)).mean(1) for begin in range(0, seconds, 10)]
    return resample(torch.cat(parts), RATE, sample_rate)[None, None]


@torch.no_grad()
def alive_peer(shape: CodecConfig, audio: Tensor, seed: int = 0) -> Any:
    """A transformers EncodecModel of this shape with random weights, alive: it hears the difference between sounds.

    A fresh one has codebooks of zeros, on which every codec agrees with every other, and latents that are one constant
    with a ripple, on which no two ways of adding up agree. Here weights keep the variance of the audio [1, C, N], and
    codebooks are filled from its latents.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peer: Any = to_transformers(EnCodec(shape))[0].eval()
        residual = torch.cat([peer.encoder(part)[0].T for part in _pieces(audio, shape.sample_rate)])
        for layer in peer.quantizer.layers:
            book = layer.codebook
            near = residual[torch.randperm(len(residual))[: shape.entries]]
            # Entries that are latents would leave nothing of them, and the next codebook would hold nothing many times.
            book.embed.copy_(near + 0.1 * residual.std(0) * torch.randn_like(near))
            residual = residual - book.decode(book.encode(residual))
    return peer


@torch.no_grad()
def parity_rows(ours: EnCodec, peer: Any, audio: Tensor) -> list[Row]:
    """Whether both say the same about [1, C, N] in pieces of ten seconds: codes, and the audio of the peer's codes."""
    differ, unexplained, worst, codes = 0, 0, 0.0, []
    for part in _pieces(audio, ours.sample_rate):
        theirs = peer.encode(part).audio_codes[0]
        mine = ours.encode(part)
        differ += int((mine != theirs).sum())
        unexplained += _unexplained(ours, peer, part, mine, theirs)
        decoded = peer.decode(theirs[None], [None]).audio_values
        worst = max(worst, float((ours.decode(theirs) - decoded).abs().max()))
        codes.append(theirs)
    every = torch.cat(codes, -1)[0]
    used = min(len(book.unique()) for book in every) / ours.entries
    return [
        Row("codebook in use, the least used of all", "share", used, wanted=">= 0.5"),
        Row(f"codes unlike transformers', of {every.numel():,}", "codes", differ, wanted="< 1 in 10,000"),
        Row("of these not between two entries equally near", "codes", unexplained, wanted="0", small_is_good=True),
        Row("decoded audio, largest difference", "1e-6", worst * 1e6, wanted="< 10", small_is_good=True),
    ]


def _unexplained(ours: EnCodec, peer: Any, part: Tensor, mine: Tensor, theirs: Tensor) -> int:
    """First differences of a frame where the two entries are further apart in distance than rounding explains."""
    x, y = ours._halves()[0](part)[0].T, peer.encoder(part)[0].T  # [T, D]
    count = 0
    for frame in (mine != theirs).any(1)[0].nonzero()[:, 0].tolist():
        k = int((mine != theirs)[0, :, frame].nonzero()[0, 0])
        entries = torch.stack([book.entries for book in ours.quantizer.codebooks])
        residual = y[frame] - sum(entries[j, theirs[0, j, frame]] for j in range(k))
        a, b = entries[k, mine[0, k, frame]], entries[k, theirs[0, k, frame]]
        gap = ((residual - a).square().sum() - (residual - b).square().sum()).abs()
        rounding = 2 * (a - b).norm() * (x - y)[frame].norm()
        rounding += 64 * torch.finfo(torch.float32).eps * (residual.square().sum() + a.square().sum())
        count += bool(gap > rounding)
    return count


def speed_rows(ours: EnCodec, peer: Any, audio: Tensor, repeats: int, dtype: torch.dtype) -> list[Row]:
    """Seconds of audio a second of one core, for [1, C, N]."""
    for module in (ours.encoder, ours.decoder, peer):
        module.to(dtype)
    codes, seconds = ours.encode(audio), round(audio.shape[-1] / ours.sample_rate)
    given = audio.to(dtype)
    calls: dict[str, dict[str, Callable[[], Any]]] = {
        "encode": {"ours": lambda: ours.encode(audio), "peer": lambda: peer.encode(given)},
        "decode": {"ours": lambda: ours.decode(codes), "peer": lambda: peer.decode(codes[None], [None])},
    }
    rows = []
    for what, half in (("encode", ours.encoder), ("decode", ours.decoder)):
        functions = {name: _counted(call, seconds) for name, call in calls[what].items()}
        with torch.no_grad():
            measured = rates(functions, repeats)
        name = f"{what} {seconds} s, batch 1, {str(dtype).removeprefix('torch.')}"
        floor = 1 / least_seconds(half, ours, ours._halves()[0].dtype)
        rows.append(Row(name, "x real time", measured["ours"], measured["peer"], floor, _WANTED[what]))
    for module in (ours.encoder, ours.decoder, peer):
        module.float()
    return rows


def _counted(call: Callable[[], Any], items: int) -> Callable[[], int]:
    def once() -> int:
        call()
        return items

    return once


def least_seconds(half: nn.Sequential, codec: EnCodec, dtype: torch.dtype) -> float:
    """Seconds that a second of audio takes at least: products at the rate of large ones, and the LSTM's matrices read.

    The recurrence of one item is bound by reading its weights, everything else by arithmetic; activations, padding and
    copies count for nothing.
    """
    products, states = work(half, codec)
    size = torch.finfo(dtype).bits // 8
    return products / product_rate(dtype) + states * size / read_rate(dtype)


def work(half: nn.Sequential, codec: EnCodec) -> tuple[float, float]:
    """Multiplications in products of many rows, and values read of the LSTM's state matrices, a second of audio."""
    rate = codec.frame_rate if half is codec.decoder else codec.sample_rate
    products = states = 0.0
    for layer in half:
        for module in layer.modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                steps = rate / module.stride[0] if isinstance(module, nn.Conv1d) else rate
                products += module.weight.numel() * steps
            elif isinstance(module, nn.LSTM):
                values = module.num_layers * 4 * module.hidden_size**2
                products, states = products + values * rate, values * rate
        if isinstance(layer, PaddedConv1d):
            rate /= layer.stride
        elif isinstance(layer, TrimmedConvTranspose1d):
            rate *= layer.conv.stride[0]
    return products, states


def product_rate(dtype: torch.dtype) -> float:
    """Multiplications a second of this core in large matrix products, at its best of a few shapes."""
    best = 0.0
    for rows, inner, columns in ((1536, 1536, 1536), (500, 8192, 1024), (4096, 512, 256)):
        a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
        functions = {"": _counted(lambda a=a, b=b: a @ b, rows * inner * columns)}  # type: ignore[misc]
        best = max(best, rates(functions, 5)[""])
    return best


def read_rate(dtype: torch.dtype, width: int = 1024) -> float:
    """Bytes a second of this core in products of one row with the LSTM's matrix, the better way round."""
    row, matrix = torch.randn(1, width, dtype=dtype), torch.randn(width, 4 * width, dtype=dtype)
    turned = matrix.T.contiguous()
    size = matrix.numel() * matrix.element_size()
    functions = {
        "row": _counted(lambda: [row @ matrix for _ in range(20)], 20 * size),
        "column": _counted(lambda: [turned @ row[0] for _ in range(20)], 20 * size),
    }
    return max(rates(functions, 5).values())


def memory_rows(folder: Path, quick: bool) -> list[Row]:
    """Temporary memory of encoding long audio and of the codebooks' initialisation, each in a fresh process."""
    short, long = (5, 20) if quick else (60, 600)
    rows = []
    for what in ("encode", "decode"):
        mine, theirs = (in_fresh_process(_grown, str(folder), who, what, short) for who in ("ours", "peer"))
        rows.append(Row(f"{what} {short} s: memory for that", "MB", mine, theirs, small_is_good=True))
        grown = in_fresh_process(_grown, str(folder), "ours", what, long)
        rows.append(Row(f"{what} {long} s: memory for that", "MB", grown, small_is_good=True))
    entries = 64 if quick else 2048
    grown = in_fresh_process(_kmeans, entries)
    name = f"k-means of 4 x {entries} entries from 64 crops of 1 s: memory for that"
    rows.append(Row(name, "MB", grown, wanted="< 300", small_is_good=True))
    return rows


@torch.no_grad()
def _grown(folder: str, who: str, what: str, seconds: int) -> float:
    torch.set_num_threads(1)
    ours = read_huggingface(folder).eval()
    wav = torch.randn(1, 1, seconds * ours.sample_rate) * 0.1
    codes = torch.randint(ours.entries, (1, ours.codebooks, round(seconds * ours.frame_rate)))
    calls: dict[str, Callable[[int], Any]] = {
        "encode": lambda n: ours.encode(wav[..., : n * ours.hop]),
        "decode": lambda n: ours.decode(codes[..., :n]),
    }
    if who == "peer":
        from transformers import EncodecModel

        with quiet_transformers():
            peer = EncodecModel.from_pretrained(folder).eval()
        calls = {
            "encode": lambda n: peer.encode(wav[..., : n * ours.hop]),
            "decode": lambda n: peer.decode(codes[None, ..., :n], [None]),
        }
    calls[what](50)  # what is made once is not counted
    before = start_memory()
    calls[what](codes.shape[-1])
    return peak_memory() - before


def _kmeans(entries: int) -> float:
    torch.set_num_threads(1)
    quantizer = ResidualVectorQuantizer(4, entries, 128).train()
    crops = torch.randn(64, 128, 50)  # latents of 64 one-second crops
    before = start_memory()
    while not quantizer.initialised:
        quantizer(crops)
    return peak_memory() - before


def _pieces(audio: Tensor, sample_rate: int) -> tuple[Tensor, ...]:
    return audio.split(_SECONDS * sample_rate, -1)
