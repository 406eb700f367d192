"""The grid: which trainings and clips the rows of the studies come to, and the commands that make them."""

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from datamodules.manifest import read_manifest
from evaluation.judges.loading import resolve_judge
from experiments.ablations.rows import BASE, MEMORY, Row, Study, runnable
from experiments.compose import merged
from experiments.pipeline import Stage
from lightning_modules.codec.folder import codec_checksum


@dataclass(frozen=True)
class Settings:
    """What all cells share.

    Attributes:
        pieces: of the corpus that is rendered.
        clips: of the references, at most one for each held-out piece; every model makes as many.
        corpus: a folder of `mgl corpus`, in place of rendering one.
        codec: a codec's folder, or "embedded".
        judge: a judge's folder, or "embedded".
        layers: further ones over the base, before a row's own.
    """

    pieces: int = 400
    clips: int = 40
    corpus: str = ""
    codec: str = "embedded"
    judge: str = "embedded"
    layers: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of all that results depend on besides rows, seeds and steps.

        Raises:
            InputError: no such codec, judge, layer or corpus.
        """
        parts: list[Any] = [asdict(self), merged([*BASE, *self.layers])["data"]]
        parts += [codec_checksum(self.codec), resolve_judge(self.judge).checksum]
        if self.corpus:
            parts.append(hashlib.sha256(read_manifest(self.corpus).path.read_bytes()).hexdigest())
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def manifest(self) -> str:
        """Of the corpus, as a word of a command."""
        return shlex.quote(self.corpus) if self.corpus else "OUT/corpus"


@dataclass(frozen=True)
class Training:
    """A model to train; rows whose layers come to the same recipe share it.

    Attributes:
        layers: its layers.
        seed: of weights, order and dropout.
    """

    layers: tuple[str, ...]
    seed: int

    @property
    def recipe(self) -> dict[str, Any]:
        """What the layers say together."""
        return _recipe(self.layers)

    @property
    def key(self) -> str:
        """Of the recipe: trainings of the same key and seed are the same."""
        return _key(self.layers)

    @property
    def seconds(self) -> float:
        """Length of its crops, and of the clips that it makes."""
        return float(self.recipe["data"]["init_args"]["seconds"])


@dataclass(frozen=True)
class Cell:
    """What is measured of a training.

    Attributes:
        training: which.
        guidance: of its clips.
        melody: whether they follow the references' melodies.
        memory: no clips are made: what it has learnt by heart is measured.
    """

    training: Training
    guidance: float
    melody: bool
    memory: bool

    @property
    def name(self) -> str:
        """Of its folder, below the training's."""
        return "memory" if self.memory else f"guidance-{self.guidance:g}{'-melody' * self.melody}"

    @property
    def identity(self) -> tuple[str, int, str]:
        """Cells of the same identity are the same."""
        return self.training.key, self.training.seed, self.name

    def place(self, steps: int) -> str:
        """The folder of its training, in the grid's folder."""
        return f"trainings/{self.training.key}-s{self.training.seed}-{steps}"


def cell_of(study: Study, row: Row, seed: int, settings: Settings) -> Cell:
    """The cell that a row's figures of one seed come from."""
    layers = study.layers(row, settings.layers)
    # The first row of the recipe gives the command, whichever studies are chosen: another command would train anew.
    others = (one.layers(other, settings.layers) for one, other in runnable())
    layers = next((found for found in others if _key(found) == _key(layers)), layers)
    training = Training(layers, seed)
    return Cell(training, row.guidance, row.melody, set(study.measures) <= set(MEMORY))


@cache
def _recipe(layers: tuple[str, ...]) -> dict[str, Any]:
    return merged(list(layers))


@cache
def _key(layers: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(_recipe(layers), sort_keys=True).encode()).hexdigest()[:8]


def seeds_of(row: Row, seeds: int, tier: int) -> range:
    """The seeds that a row is run with; none where its tier is not run."""
    if not 1 <= row.tier <= tier:
        return range(0)
    return range(seeds if row.tier == 1 else 1)


def cells(studies: Sequence[Study], seeds: int, tier: int, settings: Settings) -> list[Cell]:
    """All that is to be run, each once; seed by seed, so that what an interrupted grid has is balanced."""
    found: dict[tuple[str, int, str], Cell] = {}
    for seed in range(seeds):
        for study in studies:
            for row in study.rows:
                if seed in seeds_of(row, seeds, tier):
                    cell = cell_of(study, row, seed, settings)
                    found.setdefault(cell.identity, cell)
    return list(found.values())


def shared_stages(settings: Settings, seconds: float) -> list[Stage]:
    """Corpus, references of ``seconds`` and tokens."""
    needs: tuple[str, ...] = () if settings.corpus else ("corpus",)
    stages = []
    if not settings.corpus:
        command = f"corpus --out OUT/corpus --pieces {settings.pieces} --seed 0"
        stages.append(Stage("corpus", command, "corpus/manifest.jsonl"))
    command = f"eval-set --kind melody --manifest {settings.manifest} --split test --seconds {seconds:g}"
    command += f" --clips {settings.clips} --out OUT/references"
    stages.append(Stage("references", command, "references/set.json", needs))
    command = f"tokens --manifest {settings.manifest} --codec {shlex.quote(settings.codec)} --out OUT/tokens"
    stages.append(Stage("tokens", command, "tokens/index.json", needs))
    return stages


def cell_stages(cell: Cell, settings: Settings, steps: int) -> list[Stage]:
    """Training of so many steps first, then what is measured of the model."""
    training, place = cell.training, cell.place(steps)
    seconds, named = training.seconds, place.rpartition("/")[2]
    fit = " ".join(f"-c {shlex.quote(name)}" for name in training.layers)
    # A validation of the split "valid" at the end; what is reported is of the split "test".
    fit = (
        f"fit {fit} --run OUT/{place} --seed_everything {training.seed} --data.init_args.seed {training.seed} "
        f"--model.init_args.seed {training.seed} --data.init_args.store OUT/tokens "
        f"--model.init_args.codec {shlex.quote(settings.codec)} --trainer.max_steps {steps} "
        f"--trainer.val_check_interval {steps} --logger csv"
    )
    model, on = f"{named} train", f"--model OUT/{place}/model"
    stages = [Stage(model, fit, f"{place}/model/training.json", ("tokens",))]
    if cell.memory:
        command = f"memorisation {on} --tokens OUT/tokens --split test --given {0.4 * seconds:g}"
        command += f" --seconds {0.6 * seconds:g} --device cpu --out OUT/{place}/memory.json"
        return [*stages, Stage(f"{named} memory", command, f"{place}/memory.json", (model, "tokens"))]
    command = f"perplexity {on} --tokens OUT/tokens --split test --seconds {seconds:g} --device cpu"
    command += f" --out OUT/{place}/perplexity.json"
    stages.append(Stage(f"{named} perplexity", command, f"{place}/perplexity.json", (model, "tokens")))
    return [*stages, *_clip_stages(cell, settings, place, named, model)]


def _clip_stages(cell: Cell, settings: Settings, place: str, named: str, model: str) -> list[Stage]:
    seed, clips, melody = cell.training.seed, f"{place}/{cell.name}", "" if cell.melody else " --melody ''"
    command = (
        f"generate --model OUT/{place}/model --prompts OUT/references/manifest.jsonl --out OUT/{clips} --device cpu "
        f"--duration {cell.training.seconds:g} --guidance {cell.guidance:g} --seed {seed} --batch_size 48{melody}"
    )
    made = Stage(f"{named} {cell.name} clips", command, f"{clips}/manifest.jsonl", (model, "references"))
    heard, needs = f"--generated OUT/{clips} --judge {shlex.quote(settings.judge)}", (made.name, "references")
    return [
        made,
        Stage(
            f"{named} {cell.name} evaluate",
            f"evaluate {heard} --reference OUT/references --out OUT/{clips}.json",
            f"{clips}.json",
            needs,
        ),
        Stage(
            f"{named} {cell.name} prompts",
            f"evaluate-prompts {heard} --prompts OUT/references --device cpu --out OUT/{clips}-prompts.json",
            f"{clips}-prompts.json",
            needs,
        ),
    ]
