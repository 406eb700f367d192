"""The smallest codec, language model, text encoder, manifest and token store that work, with weights that are alive."""

import hashlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile
import torch

from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.conditioning.conditioners import Conditioners, build_text_encoder
from lightning_modules.conditioning.conditions import Condition, Conditions
from lightning_modules.conditioning.melody import MelodyConfig, MelodyEncoder
from lightning_modules.conditioning.text import TextEncoderConfig
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig

RATE = 800  # Hz of the tiny codec; its hop is 8 samples: 100 frames a second
CODEBOOKS, ENTRIES = 4, 16
TEXT = TextEncoderConfig("bytes", dim=16, layers=1, heads=2)


def codec(**shape):
    """A codec whose codebooks were filled from its own latents: fresh ones are all zero, and then every test passes."""
    fields = {"sample_rate": RATE, "filters": 4, "ratios": (4, 2), "dim": 8, "lstm_layers": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = EnCodec(CodecConfig(**{**fields, "codebooks": CODEBOOKS, "entries": ENTRIES, **shape})).eval()
        fill_codebooks(made)
    return made


@torch.no_grad()
def fill_codebooks(made):
    """Gives every codebook vectors that its own residuals are near to."""
    entries = made.config.entries
    wav = torch.randn(1, made.config.channels, 4 * entries * made.config.hop) * 0.3
    residual = made.encoder(wav)[0].T
    for book in made.quantizer.codebooks:
        book.entries.copy_(residual[torch.randperm(len(residual))[:entries]])
        residual = residual - book.entries[torch.cdist(residual, book.entries).argmin(1)]
    made.quantizer.initialised.fill_(True)


def language_model(pattern="delay", codebooks=CODEBOOKS, entries=ENTRIES, text_dim=16, seed=0, **shape):
    fields = {"dim": 32, "layers": 2, "heads": 2, "ff_ratio": 2, **shape}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LanguageModelConfig(**fields, codebooks=codebooks, entries=entries, pattern=pattern)
        dims = {"text": text_dim, "melody": 12}
        model = LanguageModel(config, {name: dims[name] for name in config.conditions}).eval()
        # Norms and biases away from the 1 and 0 that hide a mistake.
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def text_encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_text_encoder(TEXT)


def conditioners(melody=False):
    """The byte-level text encoder, and the full-mix melody encoder if asked for."""
    return Conditioners(text_encoder(), MelodyEncoder(MelodyConfig(frames=9, stems="")) if melody else None)


def conditions(lengths, dim=16, seed=0):
    """Random text conditions with ``lengths`` tokens a row, padded to the longest."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(*lengths, 1)) < torch.tensor(lengths)[:, None]
    embeddings = torch.randn(*mask.shape, dim, generator=generator)
    return Conditions({"text": Condition(embeddings * mask[..., None], mask)})


def codes(batch, frames, codebooks=CODEBOOKS, entries=ENTRIES, seed=0):
    return torch.randint(entries, (batch, codebooks, frames), generator=torch.Generator().manual_seed(seed))


def sine(seconds, rate, hz=110.0, channels=1):
    """[N, C] as soundfile wants it."""
    wave = 0.4 * np.sin(2 * math.pi * hz * np.arange(round(seconds * rate)) / rate)
    return np.stack([wave / (channel + 1) for channel in range(channels)], 1)


def write_manifest(folder, tracks, rate=RATE):
    """[(id, split, seconds, caption)] -> sine waves and a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, (name, split, seconds, caption) in enumerate(tracks):
        soundfile.write(folder / f"{name}.wav", sine(seconds, rate, 60 + 20 * index), rate)
        fields = {"id": name, "path": f"{name}.wav", "duration": seconds, "sample_rate": rate}
        lines.append(json.dumps({**fields, "caption": caption, "split": split}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def write_store(folder, frames=(40, 13, 25, 31, 8, 30, 22), codebooks=2, entries=8, frame_rate=10.0):
    """A token store written by hand, not by our writer; the last two tracks are for validation.

    Two frames of codes last as long as one of chroma, and every other track comes from the source "odd".
    """
    folder = Path(folder)
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows, files = [], {"bin": b"", "jsonl": b"", "chroma": b""}
    for index, count in enumerate(frames):
        split = "valid" if index >= len(frames) - 2 else "train"
        codes = generator.integers(entries, size=(codebooks, count)).astype("<u2")
        chroma = generator.integers(12, size=-(-count // 2)).astype("u1")
        facts = {"id": f"t{index}", "caption": f"caption {index}", "split": split, "bpm": 60 + index}
        line = json.dumps(facts).encode() + b"\n"
        places = 0, len(files["bin"]) // 2, count, int(split == "valid"), index % 2
        rows.append((*places, len(files["jsonl"]), len(line), len(files["chroma"]), len(chroma)))
        for kind, data in (("bin", codes.tobytes()), ("jsonl", line), ("chroma", chroma.tobytes())):
            files[kind] += data
    for kind, data in files.items():
        (folder / f"tokens-00000.{kind}").write_bytes(data)
    types = [
        ("shard", "<u4"), ("offset", "<u8"), ("frames", "<u4"), ("split", "<u2"), ("source", "<u2"), ("line", "<u8"),
        ("line_bytes", "<u4"), ("chroma_offset", "<u8"), ("chroma_frames", "<u4"),
    ]  # fmt: skip
    np.save(folder / "tracks.npy", np.array(rows, dtype=types))
    shard = {
        "name": "tokens-00000",
        "tracks": len(rows),
        "bytes": {kind: len(data) for kind, data in files.items()},
        "sha256": {kind: sha256(folder / f"tokens-00000.{kind}") for kind in files},
    }
    header = {
        "version": 1, "codec": "c" * 64, "sample_rate": round(8 * frame_rate), "frame_rate": frame_rate,
        "codebooks": codebooks, "entries": entries, "chroma": {"frame_rate": frame_rate / 2, "classes": 12},
        "tracks": len(rows), "frames": sum(frames), "splits": ["train", "valid"], "sources": ["even", "odd"],
        "shards": [shard], "places_sha256": sha256(folder / "tracks.npy"), "failed": [], "packed": None,
    }  # fmt: skip
    (folder / "index.json").write_text(json.dumps(header))
    return folder


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def trainer(step=0, rank=0, world=1, accumulate=1):
    """What a datamodule asks of a trainer."""
    return SimpleNamespace(global_step=step, global_rank=rank, world_size=world, accumulate_grad_batches=accumulate)
