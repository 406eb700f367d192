"""The four commands that are killed: what they work on, what they have finished, and what must not happen to it."""

import json
import re
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from datamodules.ingest.journal import FILE_NAME as JOURNAL
from datamodules.ingest.page import FILE_NAME as PAGE
from datamodules.ingest.running import REJECTED
from datamodules.manifest import FILE_NAME as MANIFEST
from datamodules.manifest import Track, write_manifest
from datamodules.sample_order import derived_seed
from experiments.benchmarks.sample_log import log_faults, logged_steps
from experiments.cli import CHECKPOINTS, LAST, MODEL
from lightning_modules.checkpoints import save_model
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.folder import save_codec
from lightning_modules.conditioning.conditioners import Conditioners, build_text_encoder
from lightning_modules.conditioning.text import BYTES, TextEncoderConfig
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig
from lightning_modules.model_folders import CONFIG, WEIGHTS

_FILES, _FILE_SECONDS = 60, 20.0  # of ingest
_TRACKS, _TRACK_SECONDS, _RATE = 48, 300.0, 800  # of the token store: three tracks make a shard
_STEPS, _CHECKPOINT_STEPS = 40, 5
_CLIPS, _CLIP_SECONDS = 120, 4.0


class Subject(ABC):
    """A command that is killed and repeated.

    Attributes:
        what: its name.
        unit: what ``done`` counts.
        total: how many of them there are.
    """

    what: str
    unit: str
    total: int

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed

    @abstractmethod
    def prepare(self) -> None:
        """Makes what the command works on."""

    @abstractmethod
    def command(self, out: Path) -> list[str]:
        """Arguments of the command that begins in the folder ``out``, or goes on in it."""

    @abstractmethod
    def done(self, out: Path) -> dict[str, Any]:
        """The finished units, each with what tells whether it was made anew."""

    @abstractmethod
    def lost(self, before: dict[str, Any], out: Path, said: str | None) -> list[str]:
        """What of ``before`` a later run has not kept; ``said`` is its output if it came to its end."""

    @abstractmethod
    def half_written(self, out: Path, whole: Path) -> list[str]:
        """Files that look finished after a kill and are not those of the undisturbed run in ``whole``."""

    @abstractmethod
    def differing(self, out: Path, whole: Path) -> list[str]:
        """What a run that came to its end has otherwise than the undisturbed one."""


class Ingest(Subject):
    """``mgl manifest`` over WAV, FLAC and Vorbis files with side-cars."""

    what, unit, total = "ingest", "files", _FILES

    def prepare(self) -> None:
        """Writes the files; two are alike and one is silent, so that there is something to refuse."""
        source = self.folder / "music"
        source.mkdir(parents=True)
        for number in range(_FILES):
            end = ("wav", "flac", "ogg")[number % 3]
            audio = _noise(self.seed, 1 if number == 4 else number, _FILE_SECONDS, 22050)
            soundfile.write(source / f"{number:03d}.{end}", audio * (number != 2), 22050)
            facts = {"title": f"Piece {number}", "artist": f"Artist {number % 7}", "description": f"noise {number}"}
            (source / f"{number:03d}.json").write_text(json.dumps(facts), encoding="utf-8")

    def command(self, out: Path) -> list[str]:
        """The same whether it begins or goes on."""
        return ["manifest", str(self.folder / "music"), "--out", str(out)]

    def done(self, out: Path) -> dict[str, Any]:
        """Files in the journal, and how often each stands there."""
        journal = out / JOURNAL
        lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
        return dict(Counter(json.loads(line)["path"] for line in lines if line and _parses(line)))

    def lost(self, before: dict[str, Any], out: Path, said: str | None) -> list[str]:
        """Files that are no longer in the journal, or were decoded twice."""
        now = self.done(out)
        lost = [f"{path}: no longer in the journal" for path in before if path not in now]
        lost += [f"{path}: decoded {count} times" for path, count in now.items() if count > 1]
        decoded = re.search(r"\(([\d,]+) decoded this time\)", said) if said is not None else None
        assert said is None or decoded, "the command no longer says how many files it decoded"
        if decoded and (count := int(decoded[1].replace(",", ""))) != self.total - len(before):
            lost.append(f"{count} files decoded, {self.total - len(before)} were not yet known")
        return lost

    def half_written(self, out: Path, whole: Path) -> list[str]:
        """Manifest, rejects and page are absent or whole; of the journal only the last line may be cut short."""
        names = {path.name for path in out.iterdir() if path.is_file() and path.suffix != ".partial"}
        wrong = [f"{name}: nobody's file" for name in names - {MANIFEST, REJECTED, PAGE, JOURNAL}]
        wrong += [name for name in names & {MANIFEST, REJECTED} if _differ(out / name, whole / name)]
        if JOURNAL in names:
            wrong += [JOURNAL for line in (out / JOURNAL).read_bytes().split(b"\n")[:-1] if not _parses(line)]
        return wrong

    def differing(self, out: Path, whole: Path) -> list[str]:
        """Manifest and rejects, byte for byte."""
        return [name for name in (MANIFEST, REJECTED) if _differ(out / name, whole / name)]


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
            soundfile.write(path, _noise(self.seed, number, _TRACK_SECONDS, _RATE), _RATE)
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
        wrong = [path.name for path in files if _differ(path, whole / path.name)]
        for record in self.done(out):
            stem = record.removesuffix(".json")
            wrong += [path.name for path in whole.glob(f"{stem}.*") if not (out / path.name).exists()]
        return wrong

    def differing(self, out: Path, whole: Path) -> list[str]:
        """Every file of the store, byte for byte."""
        names = sorted({path.name for path in [*out.iterdir(), *whole.iterdir()]})
        return [name for name in names if _differ(out / name, whole / name)]


class Training(Subject):
    """``mgl fit`` on the token store, then ``mgl resume``.

    Args:
        folder: for the runs.
        seed: of the run.
        tokens: whose undisturbed store and codec it trains on.
    """

    what, unit, total = "training", "steps", _STEPS

    def __init__(self, folder: Path, seed: int, tokens: Path) -> None:
        super().__init__(folder, seed)
        self.tokens = tokens

    def prepare(self) -> None:
        """The store is there already."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def command(self, out: Path) -> list[str]:
        """``fit`` until there is a checkpoint."""
        if (out / CHECKPOINTS / LAST).exists():
            return ["resume", "--run", str(out)]
        layers = ["lm", "size/nano", "conditioning/bytes", "cluster/cpu", "demo/lm"]
        options = {
            "--run": out,
            "--seed_everything": self.seed,
            "--data.init_args.seed": self.seed,
            "--data.init_args.store": self.tokens / "whole",
            "--data.init_args.seconds": 5.0,
            "--data.init_args.valid_items": 4,
            "--model.init_args.codec": self.tokens / "codec",
            "--model.init_args.seed": self.seed,
            "--model.init_args.lm.entries": 64,
            "--trainer.max_steps": _STEPS,
            "--trainer.val_check_interval": _STEPS // 2,
            "--checkpoint.every_n_train_steps": _CHECKPOINT_STEPS,
            "--trainer.callbacks+": "experiments.benchmarks.sample_log.SampleLog",
            "--trainer.callbacks.path": out.with_suffix(".log"),
        }
        return ["fit", *(word for layer in layers for word in ("-c", layer))] + [
            f"{name}={value}" for name, value in options.items()
        ]

    def done(self, out: Path) -> dict[str, Any]:
        """Steps in the log, and the samples of each."""
        return {str(step): numbers for step, numbers in logged_steps(_text(out.with_suffix(".log")))}

    def lost(self, before: dict[str, Any], out: Path, said: str | None) -> list[str]:
        """Steps that the log leaves out, or that were made again of other samples."""
        undisturbed = out.with_name("whole.log").read_text(encoding="ascii")
        faults = log_faults(_text(out.with_suffix(".log")), undisturbed)
        return faults if said is not None else [fault for fault in faults if not fault.endswith("is missing")]

    def half_written(self, out: Path, whole: Path) -> list[str]:
        """Checkpoints that cannot be read, and files of the model that are not those of the undisturbed run."""
        wrong = [path.name for path in (out / CHECKPOINTS).glob("*.ckpt") if not _loads(path)]
        files = [path.relative_to(out) for path in (out / MODEL).rglob(WEIGHTS)]
        return wrong + [str(name) for name in files if _differ(out / name, whole / name)]

    def differing(self, out: Path, whole: Path) -> list[str]:
        """The model that training ends in, byte for byte."""
        names = [path.relative_to(whole) for name in (WEIGHTS, CONFIG) for path in (whole / MODEL).rglob(name)]
        assert names, f"{whole / MODEL} holds no model"
        return [str(name) for name in names if _differ(out / name, whole / name)]


class Generation(Subject):
    """``mgl generate`` with a model of random weights, four clips at once."""

    what, unit, total = "generation", "clips", _CLIPS

    def prepare(self) -> None:
        """Writes prompts, codec and model."""
        self.folder.mkdir(parents=True)
        lines = [json.dumps({"id": f"{number:03d}", "caption": f"noise {number}"}) for number in range(_CLIPS)]
        (self.folder / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
        codec = random_codec(self.seed)
        save_codec(self.folder / "codec", codec)
        text = TextEncoderConfig(BYTES, dim=16, layers=1, heads=2)
        config = LanguageModelConfig(dim=32, layers=2, heads=2, codebooks=codec.codebooks, entries=codec.entries)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            conditioners = Conditioners(build_text_encoder(text), None)
            model = LanguageModel(config, conditioners.dims)
        save_model(self.folder / "model", model, text, conditioners, self.folder / "codec")

    def command(self, out: Path) -> list[str]:
        """The same whether it begins or goes on."""
        model, prompts = str(self.folder / "model"), str(self.folder / "prompts.jsonl")
        return [
            "generate", "--model", model, "--prompts", prompts, "--out", str(out), "--duration", str(_CLIP_SECONDS),
            "--batch_size", "4", "--device", "cpu",
        ]  # fmt: skip

    def done(self, out: Path) -> dict[str, Any]:
        """Clips in the journal or the manifest, and when their files were written."""
        lines = [line for name in ("clips.0.jsonl", MANIFEST) for line in _bytes(out / name).split(b"\n")]
        noted = [json.loads(line) for line in lines if line and _parses(line)]
        names = {fields.get("name") or fields["path"] for fields in noted}
        return {name: (out / name).stat().st_mtime_ns if (out / name).exists() else None for name in sorted(names)}

    def lost(self, before: dict[str, Any], out: Path, said: str | None) -> list[str]:
        """Clips that are gone or were made anew."""
        now = self.done(out)
        lost = [f"{name}: gone or made anew" for name, when in before.items() if now.get(name) != when]
        if said is not None and before and f"({len(before)} were finished before)" not in said:
            lost.append(f"{len(before)} clips were finished, and the command says otherwise")
        return lost

    def half_written(self, out: Path, whole: Path) -> list[str]:
        """Every clip that is there is that of the undisturbed run, and so is the manifest."""
        files = [path for path in out.iterdir() if path.suffix != ".partial"] if out.exists() else []
        passing = {"system.json", "clips.0.jsonl", "clips.jsonl"}
        return [path.name for path in files if path.name not in passing and _differ(path, whole / path.name)]

    def differing(self, out: Path, whole: Path) -> list[str]:
        """Clips and manifest, byte for byte; ``system.json`` holds times."""
        names = sorted({path.name for path in [*out.iterdir(), *whole.iterdir()]} - {"system.json"})
        return [name for name in names if _differ(out / name, whole / name)]


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


def _noise(seed: int, number: int, seconds: float, rate: int) -> "np.ndarray[Any, Any]":
    generator = np.random.default_rng(derived_seed(seed, number, "kill table"))
    return generator.normal(0, 0.1, round(seconds * rate)).clip(-1, 1).astype(np.float32)


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii") if path.exists() else ""


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _differ(one: Path, other: Path) -> bool:
    return not (one.is_file() and other.is_file()) or one.read_bytes() != other.read_bytes()


def _parses(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return not line
    return True


def _loads(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes a zip, with a checksum for each of its files
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False
