"""Composes a language-model run: data, codec, layers, batch arithmetic, and what it will need."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from datamodules.features.chroma import PITCH_CLASSES
from datamodules.manifest import read_manifest
from datamodules.tokens.format import INDEX, is_store
from datamodules.tokens.store import TokenStore
from experiments.compose import language_model_layers, merged
from experiments.console import pick_device
from experiments.plan import Plan, plan
from experiments.plan import lines as plan_lines
from lightning_modules.conditioning.text import BYTES
from lightning_modules.lm.model import LanguageModelConfig

GLOBAL_BATCH = 192
_DEMO = Path("runs/demo")
# Widths of the pretrained encoders that are layers of conditioning/: T5-base and FLAN-T5-base, CLAP.
_WIDTHS = {"t5": 768, "clap": 512}


@dataclass(frozen=True)
class Request:
    """What the user asked for; empty strings mean the default.

    Attributes:
        size: a layer of size/.
        data: token store or manifest; None asks for a rehearsal on the demo's tokens.
        codec: folder of the codec, or "embedded".
        pattern: a layer of pattern/.
        text: a layer of conditioning/; by default t5, in a rehearsal bytes.
        melody: whether it hears melodies too, in the stems in which the tokens' were heard.
        cluster: a layer of cluster/; by default gpus where there are any, else cpu.
        seed: of everything.
        run: folder of the run.
        dry: whether nothing must be made.
    """

    size: str
    data: str | None = None
    codec: str = ""
    pattern: str = "delay"
    text: str = ""
    cluster: str = ""
    seed: int = 0
    run: str = ""
    dry: bool = False
    melody: bool = False


@dataclass(frozen=True)
class Composition:
    """A run that can start: the arguments of ``mgl fit``, and what to tell the user first."""

    arguments: list[str]
    lines: list[str]


def compose(request: Request) -> Composition:
    """Composes a run.

    Raises:
        InputError: whatever is missing or does not fit, before any work.
    """
    rehearsal = request.data is None
    gpus = _gpus()
    text = request.text or ("bytes" if rehearsal else "t5")
    cluster = request.cluster or ("gpus" if gpus else "cpu")
    layers = language_model_layers(request.size, request.pattern, text, cluster)
    layers += ["conditioning/melody"] * request.melody + ["rehearsal"] * rehearsal
    recipe = merged(layers)
    devices = 1 if cluster == "cpu" else gpus
    batch: int = recipe["data"]["init_args"]["batch_size"]
    accumulate = _accumulation(devices, batch, cluster)
    heard = f"{text}-melody" if request.melody else text
    run = request.run or f"runs/{request.size}-{request.pattern}-{heard}-s{request.seed}"
    store, codec = _tokens(request, run)
    values = {
        "run": run,
        "seed_everything": request.seed,
        "model.init_args.seed": request.seed,
        "model.init_args.codec": codec,
        "model.init_args.lm.codebooks": store.codebooks,
        "model.init_args.lm.entries": store.entries,
        "data.init_args.seed": request.seed,
        "data.init_args.store": store.folder,
        "trainer.accumulate_grad_batches": accumulate,
        # Lightning counts micro-batches here.
        "trainer.val_check_interval": 2000 * accumulate,
    }
    if request.melody:
        values["model.init_args.melody.stems"] = store.header.stems
    arguments = ["fit", *(word for layer in layers for word in ("-c", layer))]
    arguments += [word for name, value in values.items() for word in (f"--{name}", str(value))]
    told = [
        f"composition   {' + '.join(layers)}",
        f"data          {store.folder}: {len(store.tracks)} tracks, {store.codebooks} x {store.entries} codes "
        f"at {store.frame_rate:g} Hz; codec {codec}",
        *([f"melody        {store.header.stems or 'the full mix'}, as the tokens have it"] if request.melody else []),
        f"batch         {GLOBAL_BATCH} = {devices} device{'s' * (devices > 1)} x {batch} x {accumulate} micro-batches",
        *plan_lines(_plan(recipe, store)),
        f"run           {run} (logs, checkpoints, model)",
        f"$ mgl {shlex.join(arguments)}",
    ]
    return Composition(arguments, [*_rehearsal_lines(recipe, rehearsal), *told])


def _rehearsal_lines(recipe: dict[str, Any], rehearsal: bool) -> list[str]:
    steps = recipe["trainer"]["max_steps"]
    line = f"REHEARSAL     no DATA was given: {steps} steps on the demo's corpus and codec; DATA= for yours"
    return [line] if rehearsal else []


def _accumulation(devices: int, batch: int, cluster: str) -> int:
    """Micro-batches of an optimiser step, so that it sees the paper's 192 crops on any number of devices."""
    if not devices:
        raise InputError(f"cluster {cluster!r} needs a GPU and this machine has none that is usable; use CLUSTER=cpu")
    if GLOBAL_BATCH % (devices * batch):
        raise InputError(
            f"{GLOBAL_BATCH} crops a step cannot be dealt to {devices} devices x {batch}; use 2^a x 3^b devices"
        )
    return GLOBAL_BATCH // (devices * batch)


def _tokens(request: Request, run: str) -> tuple[TokenStore, str]:
    """The token store to train on, written first where the data is a manifest, and the codec's folder."""
    if request.data is None:
        return _demo_tokens(request.codec, request.dry)
    if not request.data.strip():
        raise InputError("DATA is empty; give a token store or a manifest, or leave DATA out for a rehearsal")
    if not request.codec:
        raise InputError(
            "training on your data needs the codec of its tokens: CODEC=folder (`make train-codec` makes one), or "
            "CODEC=embedded, a small one that was trained on rendered scores alone"
        )
    if is_store(request.data):
        return TokenStore(request.data), request.codec
    read_manifest(request.data)
    folder = Path(run) / "tokens"
    if not (folder / INDEX).is_file():
        if request.dry:
            raise InputError(
                f"{request.data}: is a manifest, whose tokens are not written yet; DRY=1 cannot count them"
            )
        from experiments.commands.tokens import tokens

        tokens(request.data, request.codec, str(folder))
    return TokenStore(folder), request.codec


def _demo_tokens(codec: str, dry: bool) -> tuple[TokenStore, str]:
    if not (_DEMO / "tokens" / INDEX).is_file():
        if dry:
            raise InputError("the rehearsal's tokens are not made yet; run `make demo`, or without DRY=1")
        from experiments.commands.demo import demo

        demo(str(_DEMO), until="tokens")
    return TokenStore(_DEMO / "tokens"), codec or str(_DEMO / "codec" / "model")


def _plan(recipe: dict[str, Any], store: TokenStore) -> Plan:
    model, data = recipe["model"]["init_args"], recipe["data"]["init_args"]
    shape = LanguageModelConfig(**{**model["lm"], "codebooks": store.codebooks, "entries": store.entries})
    text = model.get("text")
    if text is None:
        raise InputError("no text encoder was chosen; TEXT= names one: t5, flan_t5, clap, bytes (melody comes on top)")
    width = text["dim"] if text["name"] == BYTES else _WIDTHS[text.get("kind", "t5")]
    dims = {name: {"text": width, "melody": PITCH_CLASSES}[name] for name in shape.conditions}
    frames = round(data["seconds"] * store.frame_rate)
    return plan(shape, dims, frames=frames, batch_size=data["batch_size"], crops=GLOBAL_BATCH)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if pick_device("auto") == "cuda" else 0
