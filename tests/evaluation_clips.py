"""Small folders of clips for the tests of the evaluation."""

import math
from pathlib import Path

import torch

from datamodules.audio_io import write_audio
from datamodules.manifest import Track, write_manifest
from evaluation.judges.embedded import EmbeddedJudge, JudgeConfig

RATE = 16_000
IDS = [f"clip{index}" for index in range(6)]
CAPTIONS = ("a calm flute", "a loud trumpet", "slow strings", "fast piano", "a dark organ", "a bright guitar")


def sine(pitch, seconds=2.0, level=0.3, rate=RATE):
    hz = 440 * 2 ** ((pitch - 69) / 12)
    return level * torch.sin(2 * math.pi * hz * torch.arange(round(seconds * rate)) / rate)[None]


def write_clips(folder, clips, captions=None):
    """{id: [1, N]} -> files and a manifest, in the order of the mapping."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tracks = []
    for index, (name, wav) in enumerate(clips.items()):
        path = folder / f"{name}.wav"
        write_audio(path, wav, RATE)
        caption = CAPTIONS[index % len(CAPTIONS)] if captions is None else captions[name]
        tracks.append(Track(name, path, max(wav.shape[-1], 1) / RATE, RATE, caption))
    write_manifest(folder / "manifest.jsonl", tracks)
    return folder


def random_judge(folder, seed=0, **config):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        judge = EmbeddedJudge(
            JudgeConfig(labels=("family:a", "family:b", "drums"), channels=(8, 16), dim=16, buckets=64, **config)
        )
    judge.save(folder)
    return folder


def noisy(level, seconds=2.0):
    generator = torch.Generator().manual_seed(1)
    clips = {}
    for k, name in enumerate(IDS):
        wav = sine(60 + 2 * k, seconds)
        clips[name] = wav + level * torch.randn(wav.shape, generator=generator)
    return clips
