"""A comparison as stages: clips, cost, perplexity and scores of every system, on the same prompts."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import InputError
from datamodules.manifest import manifest_path
from evaluation.judges.loading import resolve_judge
from experiments.models.subject import read_subject
from experiments.pipeline import Stage
from experiments.planning.dealing import deals
from experiments.planning.gpus import find_gpu
from experiments.planning.links import machines
from experiments.systems.contract import System
from experiments.systems.cost import NETWORK
from experiments.systems.ours import ModelFolder
from experiments.training import GLOBAL_BATCH

_SEED = 0  # of the corpus that the embedded models learnt from: its other splits are held out


@dataclass(frozen=True)
class Comparison:
    """How systems are compared.

    Attributes:
        references: manifest of reference clips; "" for clips of the embedded corpus.
        held_out: manifest whose split "test" perplexity is of; "" for the corpus, or for none where references are
            given.
        judge: who listens; "" for the protocol's.
        protocol: of the evaluation; "" for the default one.
        clips: of the corpus, at most.
        duration: seconds of a clip.
        pieces: of the corpus.
        seed: of generation and evaluation.
        guidance: for sampling.
        temperature: for sampling.
        batch_size: clips at once.
        device: where to generate.
        gpu: that training is counted for.
        gpus: how many.
    """

    references: str = ""
    held_out: str = ""
    judge: str = "embedded"
    protocol: str = ""
    clips: int = 32
    duration: float = 6.0
    pieces: int = 160
    seed: int = 0
    guidance: float = 3.0
    temperature: float = 1.0
    batch_size: int = 16
    device: str = "auto"
    gpu: str = "h100"
    gpus: int = 8

    @property
    def music(self) -> str:
        """The manifest that perplexity is of; "" for none."""
        return self.held_out or ("" if self.references else "OUT/corpus")


@dataclass(frozen=True)
class Places:
    """Where, within the comparison's folder, the results of a system lie; other weights lie elsewhere.

    Attributes:
        root: folder of all that is the system's.
        results: of its evaluation.
    """

    root: str
    results: str

    @property
    def clips(self) -> str:
        """Folder of its clips."""
        return f"{self.root}/clips"

    @property
    def cost(self) -> str:
        """What it costs."""
        return f"{self.root}/cost.json"

    @property
    def held_out(self) -> str:
        """Its cross-entropy on held-out music."""
        return f"{self.root}/held_out.json"


def places(system: System, how: Comparison) -> Places:
    """Where the results of a system lie."""
    root = f"{re.sub(r'[^A-Za-z0-9.-]+', '-', system.name)}-{system.checksum()[:12]}"
    ear = resolve_judge(how.judge).checksum[:12] if how.judge else "own-judges"
    protocol = Path(how.protocol).stem or "default"
    return Places(root, f"{root}/results-{re.sub(r'[^A-Za-z0-9.-]+', '-', protocol)}-{ear}.json")


def comparison_stages(systems: Sequence[System], how: Comparison) -> list[Stage]:
    """The stages for all systems; of one that cannot make clips its cost alone.

    Raises:
        InputError: no such judge or GPU, not so many that can share a batch, or no clips.
    """
    machines(find_gpu(how.gpu), how.gpus, 0, NETWORK)
    deals(GLOBAL_BATCH, how.gpus)
    stages: list[Stage] = []
    needs: tuple[str, ...] = ()
    references = how.references
    if any(not system.missing for system in systems) and not references:
        stages, needs, references = _own_references(how), ("references",), "OUT/references/manifest.jsonl"
    elif references:
        references = str(manifest_path(references))
    for system in systems:
        stages += _system_stages(system, how, references, needs, {stage.name for stage in stages})
    return stages


def _own_references(how: Comparison) -> list[Stage]:
    """Clips of held-out pieces: of as many as there are, and several of each where that is not enough."""
    if how.clips < 1 or how.pieces < 10:
        raise InputError(f"{how.clips} clips of {how.pieces} pieces: give 1 clip and 10 pieces, or more")
    tracks = min(how.clips, how.pieces // 10)
    return [
        Stage("corpus", f"corpus --out OUT/corpus --pieces {how.pieces} --seed {_SEED}", "corpus/manifest.jsonl"),
        Stage(
            "references",
            f"eval-set --manifest OUT/corpus --split test --seconds {how.duration:g} --tracks {tracks} "
            f"--per_track {how.clips // tracks} --out OUT/references",
            "references/set.json",
            ("corpus",),
        ),
    ]


def _system_stages(
    system: System, how: Comparison, references: str, needs: tuple[str, ...], before: set[str]
) -> list[Stage]:
    name, place = system.name, places(system, how)
    word = shlex.quote(f"{name}={system.source}")
    cost = f"system-cost {word} --out OUT/{place.cost} --gpu {shlex.quote(how.gpu)} --gpus {how.gpus}"
    if system.missing:
        return [Stage(f"cost {name}", cost, place.cost)]
    clips = (
        f"system-clips {word} --prompts {shlex.quote(references)} --out OUT/{place.clips} --duration {how.duration:g} "
        f"--seed {how.seed} --melody '' --guidance {how.guidance:g} --temperature {how.temperature:g} "
        f"--batch_size {how.batch_size} --device {shlex.quote(how.device)}"
    )
    judge = f" --judge {shlex.quote(how.judge)}" * bool(how.judge)
    judge += f" --protocol {shlex.quote(how.protocol)}" * bool(how.protocol)
    evaluate = (
        f"evaluate --generated OUT/{place.clips} --reference {shlex.quote(references)}{judge} --seed {how.seed} "
        f"--allow_failed true --out OUT/{place.results}"
    )
    made = f"clips {name}"
    return [
        Stage(made, clips, f"{place.clips}/manifest.jsonl", needs),
        Stage(f"cost {name}", f"{cost} --clips OUT/{place.clips}", place.cost, (made,)),
        *_perplexity(system, how, place, before),
        Stage(f"evaluate {name}", evaluate, place.results, (*needs, made)),
    ]


def _perplexity(system: System, how: Comparison, place: Places, before: set[str]) -> list[Stage]:
    """Of a model folder, on music encoded with its own codec; a codec's tokens are written once."""
    if not isinstance(system, ModelFolder) or not how.music:
        return []
    model = read_subject(str(system.source))
    tokens = f"tokens-{model.codec_checksum[:12]}{model.stems and '-' + model.stems}"
    stems = f" --stems {model.stems}" if model.stems else ""
    write = f"tokens --manifest {shlex.quote(how.music)} --codec {shlex.quote(model.codec)}{stems} --out OUT/{tokens}"
    score = f"perplexity --model {shlex.quote(system.source)} --tokens OUT/{tokens} --split test"
    stages = [
        Stage(tokens, write, f"{tokens}/index.json", () if how.held_out else ("corpus",)),
        Stage(f"perplexity {system.name}", f"{score} --out OUT/{place.held_out}", place.held_out, (tokens,)),
    ]
    return [stage for stage in stages if stage.name not in before]


def read_places(folder: Path, systems: Sequence[System], how: Comparison) -> list[tuple[System, Places]]:
    """The systems that have results in ``folder``."""
    found = [(system, places(system, how)) for system in systems]
    return [(system, place) for system, place in found if (folder / place.results).is_file()]
