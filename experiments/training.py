"""Composes a language-model run: data, codec, layers, batch arithmetic, and what it will need; all checked first."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from datamodules.manifest import read_manifest
from datamodules.tokens.format import INDEX, is_store
from datamodules.tokens.store import TokenStore
from experiments.compose import language_model_layers, merged, overridden
from experiments.finetuning import CROPS, FineTuning
from experiments.ownership import require_same
from experiments.planning.checks import codec_line, data_line, melody_line, text_line
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
from experiments.planning.subject import CodecFacts, codec_facts, codec_layer_facts, subject
from lightning_modules.checkpoints import TEXT_ENCODER

GLOBAL_BATCH = 192
LAUNCHERS = ("slurm", "torchrun")  # clusters that are no layers: who starts the processes, whatever the strategy is
_DEMO = Path("runs/demo")


@dataclass(frozen=True)
class Request:
    """What the user asked for; empty strings mean the default.

    Attributes:
        size: a layer of size/; "" where a model is given.
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
        model: folder of a model to fine-tune, or "embedded"; its shape, texts, melodies and codec take the place of
            ``size``, ``pattern``, ``text``, ``melody`` and ``codec``.
        lora: rank of the adapters that are trained in place of that model.
    """

    size: str = ""
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
    model: str = ""
    lora: int | None = None


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
    begun = FineTuning(request.model, request.lora) if request.model else None
    if begun is not None:
        request = replace(request, data=request.data or "", codec=begun.start.codec)
    here = elsewhere or look()
    nodes_asked = ["--trainer.num_nodes", str(request.nodes)] if request.nodes != 1 else []
    further = [*(begun.arguments() if begun else []), *nodes_asked, *request.arguments]
    layers = _layers(request, begun, _cluster(request, begun, further, here))
    asked = overridden({}, further)
    recipe = overridden(merged(layers), further)
    require_strategy(recipe["trainer"])
    devices, nodes = devices_of(recipe["trainer"], here), recipe["trainer"].get("num_nodes", 1)
    if elsewhere is None:
        require_launcher(devices, nodes)
    require_precision(recipe["trainer"], here)
    run = request.run or _run(request, begun)
    store, codec = _tokens(request, run, begun.stems or "" if begun else "")
    facts = codec_facts(codec)
    whole = subject(_countable(recipe, begun), facts)
    planned = Preflight(whole, recipe, asked, here, devices, nodes, _crops(request)).fitted()
    checked = _checked(request, begun, planned, store, facts)
    words = _words({**_values(request, run, store, codec), **planned.values()})
    require_same(run, overridden(recipe, words))
    arguments = ["fit", *(word for layer in layers for word in ("-c", layer)), *words, *further]
    lines = {
        **({"REHEARSAL": _rehearsal(recipe)} if request.data is None else {}),
        "composition": " + ".join(layers),
        **({"begins with": f"{begun.model}: shape, texts, melodies, codec and window are its own"} if begun else {}),
        **checked,
        **planned.lines(),
        "run": f"{run} (logs, checkpoints, model)",
    }
    told = [f"{name:<14}{line}" for name, line in lines.items()]
    return Composition(arguments, [*told, f"$ mgl {shlex.join(arguments)}"], run, devices, nodes)


def _checked(
    request: Request, begun: FineTuning | None, planned: Preflight, store: TokenStore, codec: CodecFacts
) -> dict[str, str]:
    """A line of each of what a run reads, which has to fit together."""
    checked = {
        "data": data_line(store, planned.recipe["data"]["init_args"]["seconds"]),
        "codec": codec_line(store, codec),
    }
    own = begun.text_line(planned.subject.counts.text_encoder) if begun else None
    checked["text"] = own or text_line(planned.subject, planned.recipe["model"]["init_args"]["text"])
    if request.melody or (begun is not None and begun.stems is not None):
        checked["melody"] = melody_line(store, begun.stems if begun else None)
    return checked


def _layers(request: Request, begun: FineTuning | None, cluster: str) -> list[str]:
    """In their order."""
    if begun is not None:
        return begun.layers(cluster)
    added = ["conditioning/melody"] * request.melody + ["rehearsal"] * (request.data is None)
    return language_model_layers(request.size, request.pattern, _text(request), cluster) + added


def _text(request: Request) -> str:
    return request.text or ("bytes" if request.data is None else "t5")


def _crops(request: Request) -> int:
    """Of an optimiser step."""
    return CROPS if request.model else GLOBAL_BATCH


def _run(request: Request, begun: FineTuning | None) -> str:
    """The folder of a run that is given none."""
    if begun is not None:
        return f"runs/{begun.name}-s{request.seed}"
    heard = f"{_text(request)}-melody" if request.melody else _text(request)
    return f"runs/{request.size}-{request.pattern}-{heard}-s{request.seed}"


def _cluster(request: Request, begun: FineTuning | None, further: list[str], here: Here) -> str:
    """The layer of cluster/ that was asked for, or the one for this machine."""
    if request.cluster and request.cluster not in LAUNCHERS:
        return request.cluster
    if not here.count:
        # A node of a cluster whose GPUs are not to be seen is an error, no reason to train on its CPU.
        return "gpus" if request.cluster else "cpu"
    recipe = _countable(overridden(merged(_layers(request, begun, "gpus")), further), begun)
    codec = codec_facts(request.codec) if request.codec else codec_layer_facts("encodec_32khz")
    return cluster_of(recipe, codec, here, _crops(request))


def _countable(recipe: dict[str, Any], begun: FineTuning | None) -> dict[str, Any]:
    """The recipe with the text encoder of a model's folder by its place, where it has no other name."""
    own = begun.start.text_encoder if begun is not None else None
    if own is None or recipe["model"]["init_args"]["text"]["name"] != TEXT_ENCODER:
        return recipe
    return overridden(recipe, _words({"model.init_args.text.name": own}))


def _words(values: dict[str, Any]) -> list[str]:
    """As a command line has them."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def _values(request: Request, run: str, store: TokenStore, codec: str) -> dict[str, Any]:
    """What the layers leave open; the shape of a model that is fine-tuned is its own."""
    shape = {"model.init_args.lm.codebooks": store.codebooks, "model.init_args.lm.entries": store.entries}
    return {
        "run": run,
        "seed_everything": request.seed,
        "model.init_args.seed": request.seed,
        "model.init_args.codec": codec,
        **({} if request.model else shape),
        **({"model.init_args.melody.stems": store.header.stems} if request.melody else {}),
        "data.init_args.seed": request.seed,
        "data.init_args.store": store.folder,
    }


def _rehearsal(recipe: dict[str, Any]) -> str:
    steps = recipe["trainer"]["max_steps"]
    return f"no DATA was given: {steps} steps on the demo's corpus and codec; DATA= for yours"


def _tokens(request: Request, run: str, stems: str = "") -> tuple[TokenStore, str]:
    """The token store to train on, written first where the data is a manifest, and the codec's folder.

    Args:
        request: what the user asked for.
        run: folder of the run.
        stems: in which the melodies are to be heard.
    """
    if request.data is None:
        return _demo_tokens(request.codec, request.dry)
    if not request.data.strip():
        otherwise = "" if request.model else ", or leave DATA out for a rehearsal"
        raise InputError(f"DATA is empty; give a token store or a manifest{otherwise}")
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
        command = f"make tokens DATA={request.data} CODEC={request.codec} OUT={folder}"
        command += f" ARGS='--stems {stems}'" if stems else ""
        if request.dry:
            raise InputError(
                f"{request.data}: is a manifest, whose tokens are not written yet; DRY=1 cannot count them, nor can a "
                f"job be submitted for them; first `{command}`"
            )
        _alone(command)
        from experiments.commands.tokens import tokens

        tokens(request.data, request.codec, str(folder), stems=stems)
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
