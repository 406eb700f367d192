"""The rows that a card has on a training: each a name and a text, None where that is not recorded."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from datamodules.manifest import read_manifest
from datamodules.tokens.store import TokenStore
from experiments.cards.recorded import Recorded
from experiments.cards.subject import LANGUAGE_MODEL, Subject
from experiments.console import in_words
from lightning_modules.lm.adapters import AdapterConfig
from lightning_modules.optim import OptimConfig, learning_rate_factor

Row = tuple[str, str | None]
_ALGORITHMS = {"adamw": "AdamW", "dadaptation": "D-Adaptation"}


def training_rows(recorded: Recorded, subject: Subject) -> list[Row]:
    """All of them, whether recorded or not: a reader sees what is missing."""
    trainer = recorded.config["trainer"]
    most = trainer.get("max_steps") or -1
    rows = [
        ("optimiser steps", f"{recorded.step:,} of {most:,}" if most > 0 else f"{recorded.step:,}"),
        ("training samples", _heard(recorded, subject)),
        ("data", _data(recorded.data)),
        ("batch", _batch(recorded)),
        ("optimiser", _optimiser(recorded)),
        ("learning rate", _learning_rate(recorded, most)),
        ("averaged weights", _average(recorded.config.get("average"))),
    ]
    if subject.kind == LANGUAGE_MODEL:
        rows += [("conditions left out", _dropout(recorded.model)), ("begun with", _origin(subject))]
    return [
        *rows,
        ("precision", str(trainer.get("precision") or "32-true")),
        ("devices", _each(recorded, _devices)),
        ("time", None if recorded.seconds is None else f"{in_words(recorded.seconds)}, validations included"),
        ("seed", _text(recorded.config.get("seed_everything"))),
        ("code", _each(recorded, _code)),
        ("software", _each(recorded, _software)),
    ]


def _many(count: int, name: str, more: str = "s") -> str:
    return f"{count:,} {name}{more if count != 1 else ''}"


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _heard(recorded: Recorded, subject: Subject) -> str | None:
    """Windows and, of a language model, the codes in them: padding of short tracks is counted too."""
    seconds = recorded.data.get("seconds")
    if recorded.samples is None or seconds is None:
        return None
    said = f"{_many(recorded.samples, 'window')} of {seconds:g} s, {in_words(recorded.samples * seconds)} together"
    if subject.kind != LANGUAGE_MODEL:
        return said
    codes = recorded.samples * round(seconds * subject.codec.frame_rate) * subject.codec.codebooks
    return f"{said}; {codes:,} tokens, {subject.codec.codebooks} a frame"


def _data(data: Mapping[str, Any]) -> str | None:
    """Name of store or manifest, and how much of it is to train on, as long as it lies where the run had it."""
    place = data.get("store") or data.get("manifest")
    if not place:
        return None
    # A card is for others, to whom this machine's folders say nothing.
    name = f"`{Path(str(place)).name}`"
    if not Path(str(place)).exists():
        return f"{name}; hours not recorded"
    try:
        tracks, hours = _store_hours(place) if data.get("store") else _manifest_hours(place)
    except InputError:
        return f"{name}; hours not recorded"
    return f"{name}, {_many(tracks, 'track')} to train on, {hours:.3g} h, counted at export"


def _store_hours(place: str) -> tuple[int, float]:
    store = TokenStore(place)
    tracks = store.split("train")
    return len(tracks), float(tracks.column("frames").sum()) / store.frame_rate / 3600


def _manifest_hours(place: str) -> tuple[int, float]:
    tracks = read_manifest(place, "train")
    return len(tracks), float(tracks.durations.sum()) / 3600


def _batch(recorded: Recorded) -> str | None:
    """Of the last start, which has the run's present settings."""
    if not recorded.starts or "batch_size" not in recorded.data:
        return None
    at_once, devices = recorded.data["batch_size"], recorded.starts[-1]["devices"]
    parts = recorded.config["trainer"].get("accumulate_grad_batches") or 1
    dealt = f"{_many(devices, 'device')} x {_many(parts, 'micro-batch', 'es')} x {at_once}"
    return f"{_many(at_once * parts * devices, 'window')}: {dealt}"


def _optim(recorded: Recorded) -> OptimConfig | None:
    settings = recorded.model.get("optim")
    return OptimConfig(**{**settings, "betas": tuple(settings["betas"])}) if settings else None


def _optimiser(recorded: Recorded) -> str | None:
    optim, clip = _optim(recorded), recorded.config["trainer"].get("gradient_clip_val")
    if optim is None:
        return None
    betas = ", ".join(f"{beta:g}" for beta in optim.betas)
    clipped = f", gradients clipped at norm {clip:g}" if clip else ""
    return f"{_ALGORITHMS[optim.algorithm]}, betas {betas}, weight decay {optim.weight_decay:g}{clipped}"


def _learning_rate(recorded: Recorded, most: int) -> str | None:
    optim = _optim(recorded)
    if optim is None or most <= 0:
        return None
    warmup = 1 + next(step for step in range(most) if learning_rate_factor(step, optim, most) == 1)
    found = "that which D-Adaptation finds times " if optim.algorithm == "dadaptation" else ""
    end = f"{optim.lr * optim.min_lr_ratio:g} at step {most:,}"
    return f"{found}{optim.lr:g} after {_many(warmup, 'step')} of warm-up, then a cosine to {end}"


def _average(settings: Mapping[str, Any] | None) -> str | None:
    if not settings:
        return None
    every = "every step" if settings["every"] == 1 else f"every {settings['every']} steps"
    return f"exponential moving average, decay {settings['decay']:g}, {every}"


def _dropout(model: Mapping[str, Any]) -> str | None:
    if "condition_dropout" not in model:
        return None
    each = [f"{name} in {share:.3g}" for name, share in (model.get("attribute_dropout") or {}).items()]
    return ", ".join([f"all in {model['condition_dropout']:.3g} of the windows", *each])


def _origin(subject: Subject) -> str:
    """The model that a fine-tuning went on from; its config says so wherever there was one."""
    origin = subject.about.get("fine_tuned_from")
    if origin is None:
        return "random weights"
    adapters = AdapterConfig(**origin["lora"]) if origin.get("lora") else None
    how = f", with adapters of rank {adapters.rank} (LoRA), merged" if adapters else ""
    return f"`{Path(origin['model']).name}`, weights `{origin['checksum'][:12]}`{how}"


def _each(recorded: Recorded, said: Any) -> str | None:
    """Of every start what differs from the one before."""
    found: Iterator[str] = (text for start in recorded.starts if (text := said(start)) is not None)
    return "; then ".join(dict.fromkeys(found)) or None


def _devices(start: Mapping[str, Any]) -> str:
    if str(start["device"]).startswith("cuda") and start["gpus"]:
        return f"{start['devices']} x {start['gpus'][0]}"
    return f"{_many(start['devices'], 'process', 'es')} on CPUs, {_many(start['cpus'], 'core')} a machine"


def _code(start: Mapping[str, Any]) -> str | None:
    git = start.get("git")
    return git and f"git {git['revision'][:12]}{', with changes' if git['changed'] else ''}"


def _software(start: Mapping[str, Any]) -> str:
    versions = {name.lower(): version for name, version in start["packages"].items()}
    named = [f"{name} {versions[name]}" for name in ("torch", "lightning") if name in versions]
    return ", ".join([*named, f"Python {start['python']}"])
