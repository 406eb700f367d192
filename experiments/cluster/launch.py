"""How a composed run is started: here, in a job of SLURM, or under torchrun."""

import os
import shlex
import sys
from dataclasses import replace

from lightning.fabric.utilities.rank_zero import rank_zero_only

from datamodules.errors import InputError
from experiments.cluster.site import read_site
from experiments.cluster.slurm import job, submit
from experiments.cluster.torchrun import ENVIRONMENT, torchrun
from experiments.planning.here import processes
from experiments.resuming import checkpoint_of, goes_on_from, is_finished
from experiments.training import LAUNCHERS, Composition, Request, compose

# What a launcher's processes find in their environment.
_LAUNCHED = dict(zip(LAUNCHERS, ("SLURM_NTASKS", "LOCAL_WORLD_SIZE"), strict=True))


def start(request: Request) -> None:
    """Starts a run, or goes on with it; where its cluster has a launcher that has not started this process, by that.

    Raises:
        InputError: it cannot be composed, came to its end, or cannot be launched so.
    """
    if request.nodes < 1:
        raise InputError(f"nodes is {request.nodes}; give at least 1")
    if request.cluster not in _LAUNCHED and request.nodes > 1 and processes() == 1:
        raise InputError(f"{request.nodes} nodes want a launcher: CLUSTER=slurm or CLUSTER=torchrun")
    if is_launched(request.cluster):
        _run(request)
    elif request.cluster == "slurm":
        _submit(request)
    else:
        _exec_torchrun(request)


def is_launched(cluster: str) -> bool:
    """Whether this process is one that the cluster's launcher started, or the cluster has none."""
    interactive = cluster == "slurm" and os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return cluster not in _LAUNCHED or (_LAUNCHED[cluster] in os.environ and not interactive)


def _run(request: Request) -> None:
    from experiments.cli import fit_cli

    composition = compose(request)
    _say(composition, request.dry)
    if request.dry:
        return
    checkpoint = checkpoint_of(composition.run)
    fit_cli(composition.arguments + (goes_on_from(checkpoint) if checkpoint else []))


def _submit(request: Request) -> None:
    site = read_site()
    # Tokens are not written on a login node.
    composition = compose(replace(request, dry=True), site.here)
    _say(composition, request.dry)
    text = job(site, composition.run, composition.nodes, _command(request, composition), composition.devices)
    if request.dry:
        print(text, end="")
        return
    for name, what in submit(text, composition.run).items():
        print(f"{name:<14}{what}")


def _exec_torchrun(request: Request) -> None:
    composition = compose(replace(request, dry=True))
    words = torchrun(_command(request, composition), composition.devices, composition.nodes, os.environ)
    settings = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
    if request.dry:
        _say(composition, request.dry)
    print(f"$ {settings} {shlex.join(words)}", flush=True)
    if not request.dry:
        os.execve(sys.executable, words, {**os.environ, **ENVIRONMENT})


def _say(composition: Composition, dry: bool) -> None:
    """What was composed, and where it goes on; a run that came to its end is an error unless nothing is run."""
    lines = list(composition.lines)
    if dry and is_finished(composition.run):
        lines.insert(-1, f"{'':<14}this run came to its end")
    elif (checkpoint := checkpoint_of(composition.run)) is not None:
        lines.insert(-1, f"{'':<14}goes on from {checkpoint}")
    rank_zero_only(print)("\n".join(lines), flush=True)


def _command(request: Request, composition: Composition) -> list[str]:
    """The arguments of ``mgl`` that start this run in the launcher's processes, in the same folder."""
    given = {
        "size": request.size, "data": request.data, "codec": request.codec, "pattern": request.pattern,
        "text": request.text, "cluster": request.cluster, "seed": str(request.seed), "run": composition.run,
        "nodes": str(request.nodes), "melody": "true" if request.melody else "", "args": shlex.join(request.arguments),
        "model": request.model, "lora": "" if request.lora is None else str(request.lora),
    }  # fmt: skip
    return ["finetune" if request.model else "train", *(f"--{name}={value}" for name, value in given.items() if value)]
