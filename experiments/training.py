"""Composes a language-model run: data, codec, layers, batch arithmetic, and what it will need."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import InputError
from datamodules.manifest import read_manifest
from datamodules.tokens import INDEX, TokenStore
from experiments.compose import language_model_layers, layer_path
from experiments.console import pick_device
from experiments.plan import lines as plan_lines
from experiments.plan import plan
from lightning_modules.lm.model import LanguageModelConfig

_DEMO = Path("runs/demo")
_SECONDS = 30.0
_TEXT_DIM = {"t5": 768, "bytes": 128}


@dataclass(frozen=True)
class Composition:
    """A run that can start: the arguments of ``mgl fit``, and what to tell the user first."""

    arguments: list[str]
    lines: list[str]


def compose(
    size: str, data: str | None, *, codec: str, pattern: str, text: str, cluster: str, seed: int, run: str, batch: int,
    crops: int, rehearsal_steps: int, dry: bool,
) -> Composition:  # fmt: skip
    """Composes a run; ``data`` None means a rehearsal on the demo's tokens.

    Raises:
        InputError: whatever is missing or does not fit, before any work.
    """
    rehearsal = data is None
    text = text or ("bytes" if rehearsal else "t5")
    if text not in _TEXT_DIM:
        raise InputError(f"there is no text encoder layer {text!r}; choose one of {', '.join(_TEXT_DIM)}")
    devices = _gpus()
    cluster = cluster or ("gpus" if devices else "cpu")
    layers = language_model_layers(size, pattern, text, cluster)
    for layer in layers:
        layer_path(layer)
    if cluster == "cpu":
        batch, devices = 1, 1
    if not devices:
        raise InputError(f"cluster {cluster!r} needs a GPU and this machine has none that is usable; use CLUSTER=cpu")
    per_step = batch * devices
    if crops % per_step:
        raise InputError(f"{crops} crops a step cannot be dealt to {devices} devices x {batch}; use 2^a x 3^b devices")
    run = run or f"runs/{size}-{pattern}-{text}-s{seed}"
    store, codec = _tokens(data, codec, run, dry)
    accumulate = crops // per_step
    values = {
        "run": run,
        "seed_everything": seed,
        "model.init_args.seed": seed,
        "model.init_args.codec": codec,
        "model.init_args.lm.codebooks": store.codebooks,
        "model.init_args.lm.entries": store.entries,
        "data.init_args.seed": seed,
        "data.init_args.store": store.folder,
        "data.init_args.seconds": _SECONDS,
        "data.init_args.batch_size": batch,
        "trainer.accumulate_grad_batches": accumulate,
        "trainer.val_check_interval": 2000 * accumulate,
    }
    if rehearsal:
        values |= {"trainer.max_steps": rehearsal_steps, "trainer.val_check_interval": rehearsal_steps * accumulate,
                   "trainer.num_sanity_val_steps": 0, "checkpoint.every_n_train_steps": 10}  # fmt: skip
    arguments = ["fit", *(word for layer in layers for word in ("-c", layer))]
    arguments += [word for name, value in values.items() for word in (f"--{name}", str(value))]
    shape = _shape(size, pattern, store)
    figures = plan(shape, _TEXT_DIM[text], frames=round(_SECONDS * store.frame_rate), batch_size=batch, crops=crops)
    told = [] if not rehearsal else [
        f"REHEARSAL: no DATA was given, so this trains on the demo's corpus and codec for {rehearsal_steps} steps; "
        "DATA=folder/ trains on yours"
    ]  # fmt: skip
    told += [
        f"composition   {' + '.join(layers)}",
        f"data          {store.folder}: {len(store.tracks)} tracks, {store.codebooks} x {store.entries} codes "
        f"at {store.frame_rate:g} Hz; codec {codec}",
        f"batch         {crops} = {devices} device{'s' * (devices > 1)} x {batch} x {accumulate} micro-batches",
        *plan_lines(figures),
        f"run           {run} (logs, checkpoints, model)",
        f"$ mgl {shlex.join(arguments)}",
    ]
    return Composition(arguments, told)


def _tokens(data: str | None, codec: str, run: str, dry: bool) -> tuple[TokenStore, str]:
    """The token store to train on, written first where ``data`` is a manifest, and the codec's folder."""
    if data is None:
        if not (_DEMO / "tokens" / INDEX).is_file():
            if dry:
                raise InputError("the rehearsal's tokens are not made yet; run `make demo`, or without DRY=1")
            from experiments.commands.demo import demo

            demo(str(_DEMO), until="tokens")
        return TokenStore(_DEMO / "tokens"), codec or str(_DEMO / "codec" / "model")
    if not data.strip():
        raise InputError("DATA is empty; give a token store or a manifest, or leave DATA out for a rehearsal")
    if not codec:
        raise InputError(
            "training on your data needs the codec of its tokens: CODEC=folder (`make train-codec` makes one)"
        )
    if (Path(data) / INDEX).is_file():
        return TokenStore(data), codec
    read_manifest(data)
    folder = Path(run) / "tokens"
    if not (folder / INDEX).is_file():
        if dry:
            raise InputError(
                f"{data}: is a manifest; its tokens are written when the run starts, so DRY=1 cannot count them"
            )
        from experiments.commands.tokens import tokens

        tokens(data, codec, str(folder))
    return TokenStore(folder), codec


def _shape(size: str, pattern: str, store: TokenStore) -> LanguageModelConfig:
    import yaml

    fields = yaml.safe_load(layer_path(f"size/{size}").read_text(encoding="utf-8"))["model"]["init_args"]["lm"]
    return LanguageModelConfig(**fields, codebooks=store.codebooks, entries=store.entries, pattern=pattern)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if pick_device("auto") == "cuda" else 0
