"""``mgl tokens``, killed."""

from pathlib import Path
from typing import Any

import soundfile
import torch

from datamodules.manifest import FILE_NAME as MANIFEST
from datamodules.manifest import Track, write_manifest
from experiments.benchmarks.kill_subject import Subject, differ, noise
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.folder import save_codec

_TRACKS, _TRACK_SECONDS, _RATE = 48, 300.0, 800  # three tracks make a shard


class Tokens(Subject):
    """``mgl tokens`` with a codec of random weights: tracks of five minutes, sixteen shards."""

    what, unit, total = "tokens", "shards", round(_TRACKS * _TRACK_SECONDS / 900)

    def prepare(self) -> None:
        """Writes tracks, manifest and codec."""
        music = self.folder / "music"
        music.mkdir(parents=True)
        tracks = []
        for number in range(_TRACKS):
            path = music / f"{number:03d}.wav"
            soundfile.write(path, noise(self.seed, number, _TRACK_SECONDS, _RATE), _RATE)
            split = "valid" if number % 8 == 7 else "train"
            tracks.append(Track(path.stem, path, _TRACK_SECONDS, _RATE, f"noise {number}", split, {"source": "noise"}))
        write_manifest(music / MANIFEST, tracks)
        save_codec(self.folder / "codec", random_codec(self.seed))

    def command(self, out: Path) -> list[str]:
        """The same whether it begins or goes on."""
        codec, music = str(self.folder / "codec"), str(self.folder / "music")
        return [
            "tokens", "--manifest", music, "--codec", codec, "--out", str(out), "--device", "cpu", "--workers", "1"
        ]  # fmt: skip

    def done(self, out: Path) -> dict[str, Any]:
        """Shards with a record, and when it was written."""
        return {path.name: path.stat().st_mtime_ns for path in out.glob("tokens-*.json")}

    def lost(self, before: dict[str, Any], out: Path, said: str | None) -> list[str]:
        """Shards that are gone or were written anew."""
        now = self.done(out)
        return [f"{name}: written anew" for name, when in before.items() if now.get(name) != when]

    def half_written(self, out: Path, whole: Path) -> list[str]:
        """Every file that is there is that of the undisturbed run; with a record, all of its shard's are there."""
        files = [path for path in out.iterdir() if path.suffix != ".partial"] if out.exists() else []
        wrong = [path.name for path in files if differ(path, whole / path.name)]
        for record in self.done(out):
            stem = record.removesuffix(".json")
            wrong += [path.name for path in whole.glob(f"{stem}.*") if not (out / path.name).exists()]
        return wrong

    def differing(self, out: Path, whole: Path) -> list[str]:
        """Every file of the store, byte for byte."""
        names = sorted({path.name for path in [*out.iterdir(), *whole.iterdir()]})
        return [name for name in names if differ(out / name, whole / name)]


@torch.no_grad()
def random_codec(seed: int) -> EnCodec:
    """A codec of 25 frames a second whose codebooks are residuals of its own latents, so that all are used."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CodecConfig(_RATE, filters=4, ratios=(8, 4), dim=8, lstm_layers=0, codebooks=4, entries=64)
        codec = EnCodec(config).eval()
        residual = codec.encoder(0.3 * torch.randn(1, 1, 4 * config.entries * config.hop))[0].T
        for book in codec.quantizer.codebooks:
            book.entries.copy_(residual[torch.randperm(len(residual))[: config.entries]])
            residual = residual - book.entries[torch.cdist(residual, book.entries).argmin(1)]
        codec.quantizer.initialised.fill_(True)
    return codec
