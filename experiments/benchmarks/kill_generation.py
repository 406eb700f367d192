"""``mgl generate``, killed."""

import json
from pathlib import Path
from typing import Any

import torch

from datamodules.manifest import FILE_NAME as MANIFEST
from experiments.benchmarks.kill_subject import Subject, bytes_of, differ, parses
from experiments.benchmarks.kill_tokens import random_codec
from lightning_modules.checkpoints import save_model
from lightning_modules.codec.folder import save_codec
from lightning_modules.conditioning.conditioners import Conditioners, build_text_encoder
from lightning_modules.conditioning.text import BYTES, TextEncoderConfig
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig

_CLIPS, _CLIP_SECONDS = 120, 4.0


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
        lines = [line for name in ("clips.0.jsonl", MANIFEST) for line in bytes_of(out / name).split(b"\n")]
        noted = [json.loads(line) for line in lines if line and parses(line)]
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
        return [path.name for path in files if path.name not in passing and differ(path, whole / path.name)]

    def differing(self, out: Path, whole: Path) -> list[str]:
        """Clips and manifest, byte for byte; ``system.json`` holds times."""
        names = sorted({path.name for path in [*out.iterdir(), *whole.iterdir()]} - {"system.json"})
        return [name for name in names if differ(out / name, whole / name)]
