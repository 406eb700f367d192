"""Which stages a pipeline has. In their commands OUT stands for the pipeline's folder."""

import shlex

from experiments.pipeline import Stage
from lightning_modules.codec.folder import codec_checksum

DEMO_SIZES = ("nano", "mini")
_CLIP_SECONDS = 6
_CLIPS_PER_TRACK = 3
_CARD_PIECES = 300
_CARD_BASELINES = ("opus@6", "vorbis")


def demo_stages(pieces: int, seed: int) -> list[Stage]:
    """The demo, from scores to the report."""
    fit_codec = _fit("codec", seed, "codec", "codec/nano", "cluster/cpu", "demo/codec")
    fit_judge = _fit("judge", seed, "judge", "cluster/cpu", "demo/judge")
    stages = [
        Stage("corpus", f"corpus --out OUT/corpus --pieces {pieces} --seed {seed}", "corpus/manifest.jsonl"),
        Stage("codec", f"{fit_codec} --data.init_args.manifest OUT/corpus", "codec/model/training.json", ("corpus",)),
        Stage("judge", f"{fit_judge} --data.init_args.manifest OUT/corpus", "judge/model/training.json", ("corpus",)),
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
            f"evaluate --generated OUT/{size}/clips --reference OUT/references --judge OUT/judge/model "
            f"--out OUT/{size}/results.json --seed {seed}",
            f"{size}/results.json",
            ("judge", "references", f"generate {size}"),
        ),
    ]


def _fit(run: str, seed: int, *layers: str) -> str:
    chosen = " ".join(f"-c {layer}" for layer in layers)
    return f"fit {chosen} --run OUT/{run} --seed_everything {seed} --data.init_args.seed {seed}"
