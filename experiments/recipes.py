"""Which stages a pipeline has. In their commands OUT stands for the pipeline's folder."""

import shlex
from collections.abc import Iterator

from experiments.degrading import Degradation
from experiments.pipeline import Stage
from lightning_modules.codec.folder import codec_checksum

DEMO_SIZES = ("nano", "mini")
_CLIP_SECONDS = 6
_CLIPS_PER_TRACK = 3
_CARD_PIECES = 300
_CARD_BASELINES = ("opus@6", "vorbis")
JUDGED_SETS = ("scores", "recordings")
_JUDGED_PIECES, _JUDGED_SEED = 4000, 1  # the judge learns from the training split of the same renditions
_JUDGED_SECONDS, _JUDGED_TRACKS = 10, 96


def demo_stages(pieces: int, seed: int) -> list[Stage]:
    """The demo, from scores to the report."""
    fit_codec = _fit("codec", seed, "codec", "codec/nano", "cluster/cpu", "demo/codec")
    stages = [
        Stage("corpus", f"corpus --out OUT/corpus --pieces {pieces} --seed {seed}", "corpus/manifest.jsonl"),
        Stage("codec", f"{fit_codec} --data.init_args.manifest OUT/corpus", "codec/model/training.json", ("corpus",)),
        Stage(
            "tokens",
            "tokens --manifest OUT/corpus --codec OUT/codec/model --out OUT/tokens",
            "tokens/index.json",
            ("corpus", "codec"),
        ),
        Stage(
            "references",
            f"eval-set --manifest OUT/corpus --out OUT/references --seconds {_CLIP_SECONDS} "
            f"--per_track {_CLIPS_PER_TRACK}",
            "references/manifest.jsonl",
            ("corpus",),
        ),
    ]
    for size in DEMO_SIZES:
        stages += _size_stages(size, seed)
    results = " ".join(f"OUT/{size}/results.json" for size in DEMO_SIZES)
    needs = tuple(f"evaluate {size}" for size in DEMO_SIZES)
    return [*stages, Stage("report", f"compare {results} --out OUT/report.html", "report.html", needs)]


def codec_card_stages(codec: str, recordings: str, twin: str, seconds: float) -> list[Stage]:
    """A codec beside others, on rendered scores and on recordings.

    Raises:
        InputError: a folder holds no codec.
    """
    neural = [codec, twin] if twin else [codec]
    # Other weights under the same name are another result.
    folder = "-".join(codec_checksum(name)[:12] for name in neural)
    evaluate = (
        f"evaluate-codec {shlex.join(f'--codec={name}' for name in [*neural, *_CARD_BASELINES])} --seconds {seconds}"
    )
    corpus = Stage("corpus", f"corpus --out OUT/corpus --pieces {_CARD_PIECES} --seed 0", "corpus/manifest.jsonl")
    stages = [corpus]
    for name, manifest, needs in (("scores", "OUT/corpus", ("corpus",)), ("recordings", recordings, ())):
        if manifest:
            place = f"{folder}/{name}"
            command = f"{evaluate} --manifest {shlex.quote(manifest)} --out OUT/{place}"
            stages.append(Stage(name, command, f"{place}/results.json", needs))
    return stages


def degradations() -> dict[str, tuple[Degradation, ...]]:
    """By kind, from hardly any to much: what a judge is tried with."""
    shares = (0.25, 0.5, 0.75, 1.0)
    return {
        "noise": tuple(Degradation("noise", level) for level in (40, 30, 20, 10)),
        "low-pass": tuple(Degradation("low-pass", level) for level in (6000, 4000, 2000, 1000)),
        "codec": tuple(Degradation("codec", level) for level in (4, 3, 2, 1)),
        "captions": tuple(Degradation("captions", share=share) for share in shares),
        "transpose": tuple(Degradation("transpose", 1, share) for share in shares),
    }


def judge_card_stages(judge: str, recordings: str) -> list[Stage]:
    """A judge on held-out scores and on recordings: what it knows, and how metrics made with it behave."""
    name = shlex.quote(judge)
    every = f"eval-set --seconds {_JUDGED_SECONDS} --manifest"
    stages = [
        Stage(
            "corpus",
            f"corpus --out OUT/corpus --pieces {_JUDGED_PIECES} --seed {_JUDGED_SEED}",
            "corpus/manifest.jsonl",
        ),
        Stage("clips", f"{every} OUT/corpus --out OUT/clips", "clips/set.json", ("corpus",)),
        Stage(
            "coded",
            "degrade --manifest OUT/clips --kind codec --level 4 --out OUT/coded",
            "coded/manifest.jsonl",
            ("clips",),
        ),
    ]
    for title, folder in (("as they are", "clips"), ("through the codec", "coded")):
        command = f"evaluate-judge --manifest OUT/{folder} --judge {name} --out OUT/{folder}.json"
        stages.append(Stage(f"accuracy {title}", command, f"{folder}.json", (folder,)))
    for title, manifest in zip(JUDGED_SETS, ("OUT/corpus", recordings), strict=True):
        if manifest:
            command = f"{every} {shlex.quote(manifest)} --tracks {_JUDGED_TRACKS} --out OUT/{title}"
            stages.append(Stage(title, command, f"{title}/set.json", ("corpus",) if title == "scores" else ()))
            stages += _behaviour_stages(title, name)
    return stages


def _behaviour_stages(title: str, judge: str) -> Iterator[Stage]:
    for how in (how for many in degradations().values() for how in many):
        folder = f"{title}-{how.name.replace(' ', '-')}"
        level = "" if how.level is None else f"--level {how.level:g} "
        yield Stage(
            f"degrade {title} {how.name}",
            f"degrade --manifest OUT/{title} --kind {how.kind} {level}--share {how.share:g} --out OUT/{folder}",
            f"{folder}/manifest.jsonl",
            (title,),
        )
        yield Stage(
            f"evaluate {title} {how.name}",
            f"evaluate --generated OUT/{folder} --reference OUT/{title} --judge {judge} --out OUT/{folder}.json",
            f"{folder}.json",
            (f"degrade {title} {how.name}",),
        )


def _size_stages(size: str, seed: int) -> list[Stage]:
    fit = _fit(size, seed, "lm", f"size/{size}", "pattern/delay", "conditioning/bytes", "cluster/cpu", "demo/lm")
    return [
        Stage(
            f"train {size}",
            f"{fit} --data.init_args.store OUT/tokens --model.init_args.codec OUT/codec/model "
            f"--model.init_args.seed {seed}",
            f"{size}/model/training.json",
            ("tokens",),
        ),
        Stage(
            f"perplexity {size}",
            f"perplexity --model OUT/{size}/model --tokens OUT/tokens",
            f"{size}/model/held_out.json",
            ("tokens", f"train {size}"),
        ),
        Stage(
            f"generate {size}",
            f"generate --model OUT/{size}/model --prompts OUT/references/manifest.jsonl --out OUT/{size}/clips "
            f"--duration {_CLIP_SECONDS} --seed {seed} --batch_size 48",
            f"{size}/clips/manifest.jsonl",
            ("references", f"train {size}", f"perplexity {size}"),
        ),
        Stage(
            f"evaluate {size}",
            f"evaluate --generated OUT/{size}/clips --reference OUT/references --seed {seed} "
            f"--out OUT/{size}/results.json",
            f"{size}/results.json",
            ("references", f"generate {size}"),
        ),
    ]


def _fit(run: str, seed: int, *layers: str) -> str:
    chosen = " ".join(f"-c {layer}" for layer in layers)
    return f"fit {chosen} --run OUT/{run} --seed_everything {seed} --data.init_args.seed {seed}"
