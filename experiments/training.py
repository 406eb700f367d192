"""Composes a language-model run: data, codec, layers, batch arithmetic, and what it will need; all checked first."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from datamodules.manifest import read_manifest
from datamodules.tokens.format import INDEX, is_store
from datamodules.tokens.store import TokenStore
from experiments.compose import language_model_layers, merged, overridden
from experiments.ownership import require_own
from experiments.planning.checks import codec_line, data_line, text_line
from experiments.planning.choosing import cluster_of
from experiments.planning.here import (
    Here,
    devices_of,
    look,
    processes,
    require_launcher,
    require_precision,
    require_strategy,
)
from experiments.planning.preflight import Preflight
from experiments.planning.subject import codec_facts, codec_layer_facts, subject

GLOBAL_BATCH = 192
LAUNCHERS = ("slurm", "torchrun")  # clusters that are no layers: who starts the processes, whatever the strategy is
_DEMO = Path("runs/demo")


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
        cluster: a layer of cluster/; by default cpu without a GPU, else gpus, or sharded where `mgl plan` recommends
            that. One of ``LAUNCHERS`` takes the default.
        seed: of everything.
        run: folder of the run.
        dry: whether nothing must be made.
        arguments: further ones of ``mgl fit``, which win over everything here.
        nodes: how many machines.
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
    arguments: tuple[str, ...] = ()
    nodes: int = 1


@dataclass(frozen=True)
class Composition:
    """A run that can start.

    Attributes:
        arguments: of ``mgl fit``.
        lines: what to tell the user first.
        run: its folder.
        devices: of each node.
        nodes: how many.
    """

    arguments: list[str]
    lines: list[str]
    run: str
    devices: int
    nodes: int


def compose(request: Request, elsewhere: Here | None = None) -> Composition:
    """Composes a run.

    Args:
        request: what the user asked for.
        elsewhere: a node of the cluster that will run it; by default it is this machine, whose launcher is checked.

    Raises:
        InputError: whatever is missing or does not fit, before any work.
    """
    rehearsal = request.data is None
    here = elsewhere or look()
    text = request.text or ("bytes" if rehearsal else "t5")
    further = [*(["--trainer.num_nodes", str(request.nodes)] if request.nodes != 1 else []), *request.arguments]
    added = ["conditioning/melody"] * request.melody + ["rehearsal"] * rehearsal
    named = "" if request.cluster in LAUNCHERS else request.cluster
    cluster = named or _cluster(request, [text, "gpus"], added, further, here)
    layers = language_model_layers(request.size, request.pattern, text, cluster) + added
    asked = overridden({}, further)
    recipe = overridden(merged(layers), further)
    require_strategy(recipe["trainer"])
    devices, nodes = devices_of(recipe["trainer"], here), recipe["trainer"].get("num_nodes", 1)
    if elsewhere is None:
        require_launcher(devices, nodes)
    require_precision(recipe["trainer"], here)
    heard = f"{text}-melody" if request.melody else text
    run = request.run or f"runs/{request.size}-{request.pattern}-{heard}-s{request.seed}"
    store, codec = _tokens(request, run)
    facts = codec_facts(codec)
    checked = {"data": data_line(store, recipe["data"]["init_args"]["seconds"]), "codec": codec_line(store, facts)}
    planned = Preflight(subject(recipe, facts), recipe, asked, here, devices, nodes, GLOBAL_BATCH)
    checked["text"] = text_line(planned.subject, recipe["model"]["init_args"]["text"])
    if request.melody:
        checked["melody"] = f"{store.header.stems or 'the full mix'}, as the tokens have it"
    arguments = ["fit", *(word for layer in layers for word in ("-c", layer))]
    values = {**_values(request, run, store, codec), **planned.values()}
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    require_own(run, overridden(recipe, words))
    arguments += [*words, *further]
    lines = {
        **({"REHEARSAL": _rehearsal(recipe)} if rehearsal else {}),
        "composition": " + ".join(layers),
        **checked,
        **planned.lines(),
        "run": f"{run} (logs, checkpoints, model)",
    }
    told = [f"{name:<14}{line}" for name, line in lines.items()]
    return Composition(arguments, [*told, f"$ mgl {shlex.join(arguments)}"], run, devices, nodes)


def _cluster(request: Request, chosen: list[str], added: list[str], further: list[str], here: Here) -> str:
    if not here.count:
        # A node of a cluster whose GPUs are not to be seen is an error, no reason to train on its CPU.
        return "gpus" if request.cluster else "cpu"
    recipe = overridden(merged(language_model_layers(request.size, request.pattern, *chosen) + added), further)
    codec = codec_facts(request.codec) if request.codec else codec_layer_facts("encodec_32khz")
    return cluster_of(recipe, codec, here, GLOBAL_BATCH)


def _values(request: Request, run: str, store: TokenStore, codec: str) -> dict[str, Any]:
    """What the layers leave open."""
    return {
        "run": run,
        "seed_everything": request.seed,
        "model.init_args.seed": request.seed,
        "model.init_args.codec": codec,
        "model.init_args.lm.codebooks": store.codebooks,
        "model.init_args.lm.entries": store.entries,
        **({"model.init_args.melody.stems": store.header.stems} if request.melody else {}),
        "data.init_args.seed": request.seed,
        "data.init_args.store": store.folder,
    }


def _rehearsal(recipe: dict[str, Any]) -> str:
    steps = recipe["trainer"]["max_steps"]
    return f"no DATA was given: {steps} steps on the demo's corpus and codec; DATA= for yours"


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
                f"{request.data}: is a manifest, whose tokens are not written yet; DRY=1 cannot count them, nor can a "
                f"job be submitted for them; first `make tokens DATA={request.data} CODEC={request.codec} OUT={folder}`"
            )
        _alone(f"make tokens DATA={request.data} CODEC={request.codec} OUT={folder}")
        from experiments.commands.tokens import tokens

        tokens(request.data, request.codec, str(folder))
    return TokenStore(folder), request.codec


def _demo_tokens(codec: str, dry: bool) -> tuple[TokenStore, str]:
    if not (_DEMO / "tokens" / INDEX).is_file():
        if dry:
            raise InputError("the rehearsal's tokens are not made yet; first `mgl demo --until tokens`")
        _alone("mgl demo --until tokens")
        from experiments.commands.demo import demo

        demo(str(_DEMO), until="tokens")
    return TokenStore(_DEMO / "tokens"), codec or str(_DEMO / "codec" / "model")


def _alone(command: str) -> None:
    """Tokens are written by one process, or by the command that deals the work out."""
    if processes() > 1:
        raise InputError(f"the tokens are not written yet, and {processes()} processes are started; first `{command}`")
