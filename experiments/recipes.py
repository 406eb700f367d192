"""Which stages a pipeline has. In their commands OUT stands for the pipeline's folder."""

import json
import shlex
from collections.abc import Iterator, Sequence

from datamodules.errors import InputError
from evaluation.judges.loading import resolve_judge
from experiments.degrading import Degradation
from experiments.models.subject import Subject, read_subject
from experiments.pipeline import Stage
from lightning_modules.codec.folder import codec_checksum
from lightning_modules.generation.guidance import Guidance

DEMO_SIZES = ("nano", "mini")
_CLIP_SECONDS = 6
_CLIPS_PER_TRACK = 3
_CARD_PIECES = 300
_CARD_BASELINES = ("opus@6", "vorbis")
JUDGED_SETS = ("scores", "recordings")
_JUDGED_PIECES, _JUDGED_SEED = 4000, 1  # the judge learns from the training split of the same renditions
_JUDGED_SECONDS, _JUDGED_TRACKS = 10, 96
# Clips on a model's card: the key in stages' names, and what they are.
MODEL_SETS = {
    "text": "from captions",
    "melody": "from captions and melodies",
    "untrained": "from captions, untrained model",
    "coded": "references through the codec",
    "strangers": "real clips of other prompts",
    "references": "references",
}
# The language model learns from the training split of the same renditions.
_MODEL_SEED, _MODEL_SECONDS = 0, 10


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
        stages += _heard_stages(size, f"OUT/{size}/model", (f"train {size}", f"perplexity {size}"), seed)
    stages += _heard_stages("embedded", "embedded", (), seed)
    heard = (*DEMO_SIZES, "embedded")
    results = " ".join(f"OUT/{name}/results.json" for name in heard)
    needs = tuple(f"evaluate {name}" for name in heard)
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


def model_card_stages(
    model: str, judge: str, pieces: int, guidance: Guidance = 3.0, temperature: float = 1.0
) -> list[Stage]:
    """A text-to-music model: its clips beside an untrained one's and its codec's, and what it has learnt by heart.

    Args:
        model: a model folder, or "embedded".
        judge: "embedded", or a judge's folder.
        pieces: of the corpus; a tenth of them are held out, and give a clip each.
        guidance: for sampling.
        temperature: for sampling.

    Raises:
        InputError: no such model or judge.
    """
    subject = read_subject(model)
    # Other weights under the same name are another result.
    place, codec = subject.checksum[:12], subject.codec_checksum[:12]
    coded, tokens = f"coded-{codec}", f"tokens-{codec}{subject.stems and '-' + subject.stems}"
    stages = [
        _model_corpus(pieces),
        _references("references", "test", pieces // 10),
        _references("others", "valid", pieces // 10),
        Stage(
            "strangers clips",
            "lend-ids --clips OUT/others --references OUT/references --out OUT/strangers",
            "strangers/manifest.jsonl",
            ("references", "others"),
        ),
        *_codec_stages(subject, coded, tokens),
        Stage(
            "untrained",
            f"untrained-model --model {shlex.quote(model)} --out OUT/{place}/untrained",
            f"{place}/untrained/config.yaml",
        ),
    ]
    folders = {"references": "references", "coded": coded, "strangers": "strangers"}
    sampling = _sampling(guidance, temperature)
    needs: tuple[str, ...]
    for name in ("text", "melody", "untrained") if subject.melody else ("text", "untrained"):
        by, needs = model, ("references",)
        if name == "untrained":
            by, needs = f"OUT/{place}/untrained", ("references", "untrained")
        folders[name] = f"{place}/{name}-clips"
        heard = "" if name == "melody" else " --melody ''"
        stages.append(_clips(f"{name} clips", by, "references", folders[name], sampling + heard, needs))
    results = f"{place}/{resolve_judge(judge).checksum[:12]}"
    for name in (name for name in MODEL_SETS if name in folders):
        needs = ("references",) if name == "references" else ("references", f"{name} clips")
        stages += _listening(name, folders[name], "references", judge, f"{results}/{name}", needs)
    return [*stages, *_token_stages(subject, place, tokens, sampling)]


def sampling_search_stages(
    model: str, judge: str, pieces: int, clips: int, guidances: Sequence[float], temperatures: Sequence[float]
) -> list[Stage]:
    """One model's clips at several guidances and temperatures, from captions of the validation split.

    Args:
        model: a model folder, or "embedded".
        judge: "embedded", or a judge's folder.
        pieces: of the corpus.
        clips: at each setting, at most.
        guidances: to try.
        temperatures: to try with each.

    Raises:
        InputError: no such model or judge, or nothing to try.
    """
    if not guidances or not temperatures:
        raise InputError("there is nothing to try; give --guidances and --temperatures, as in '[1, 3]'")
    place, ear = read_subject(model).checksum[:12], resolve_judge(judge).checksum[:12]
    stages = [_model_corpus(pieces), _references("valid", "valid", min(clips, pieces // 10))]
    for guidance in dict.fromkeys(guidances):
        for temperature in dict.fromkeys(temperatures):
            name = setting_name(guidance, temperature)
            folder = f"{place}/{name.replace(', ', '-').replace(' ', '-')}"
            sampling = f"{_sampling(guidance, temperature)} --melody ''"
            stages.append(_clips(f"{name} clips", model, "valid", folder, sampling, ("valid",)))
            stages += _listening(name, folder, "valid", judge, f"{folder}-{ear}", ("valid", f"{name} clips"))
    return stages


def setting_name(guidance: float, temperature: float) -> str:
    """What stages call a setting of the search."""
    return f"guidance {guidance:g}, temperature {temperature:g}"


def _model_corpus(pieces: int) -> Stage:
    return Stage("corpus", f"corpus --out OUT/corpus --pieces {pieces} --seed {_MODEL_SEED}", "corpus/manifest.jsonl")


def _references(name: str, split: str, clips: int) -> Stage:
    """Each clip is its own melody, which generating from captions passes over."""
    command = f"eval-set --kind melody --manifest OUT/corpus --split {split} --seconds {_MODEL_SECONDS} --clips {clips}"
    return Stage(name, f"{command} --out OUT/{name}", f"{name}/set.json", ("corpus",))


def _codec_stages(subject: Subject, coded: str, tokens: str) -> Iterator[Stage]:
    """What a model's codec leaves of the references, and the corpus as its codes."""
    codec = shlex.quote(subject.codec)
    command = f"degrade --manifest OUT/references --kind codec --level {subject.codebooks} --codec {codec}"
    yield Stage("coded clips", f"{command} --out OUT/{coded}", f"{coded}/manifest.jsonl", ("references",))
    stems = f" --stems {subject.stems}" if subject.stems else ""
    command = f"tokens --manifest OUT/corpus --codec {codec}{stems} --out OUT/{tokens}"
    yield Stage("tokens", command, f"{tokens}/index.json", ("corpus",))


def _sampling(guidance: Guidance, temperature: float) -> str:
    return f"--guidance {shlex.quote(json.dumps(guidance))} --temperature {temperature:g}"


def _clips(name: str, model: str, prompts: str, folder: str, sampling: str, needs: tuple[str, ...]) -> Stage:
    command = (
        f"generate --model {shlex.quote(model)} --prompts OUT/{prompts}/manifest.jsonl --duration {_MODEL_SECONDS} "
        f"--batch_size 48 --out OUT/{folder} {sampling}"
    )
    return Stage(name, command, f"{folder}/manifest.jsonl", needs)


def _listening(
    name: str, folder: str, references: str, judge: str, result: str, needs: tuple[str, ...]
) -> Iterator[Stage]:
    """What the metrics say of clips, and whether they follow their prompts; of the references only the latter."""
    on = f"--generated OUT/{folder} --judge {shlex.quote(judge)}"
    if folder != references:
        command = f"evaluate {on} --reference OUT/{references} --out OUT/{result}.json"
        yield Stage(f"evaluate {name}", command, f"{result}.json", needs)
    command = f"evaluate-prompts {on} --prompts OUT/{references} --out OUT/{result}-prompts.json"
    yield Stage(f"prompts {name}", command, f"{result}-prompts.json", needs)


def _token_stages(subject: Subject, place: str, tokens: str, sampling: str) -> Iterator[Stage]:
    """What a model makes of held-out codes and of training ones, and how long it takes."""
    on = f"--model {shlex.quote(subject.name)} --tokens OUT/{tokens}"
    for name in ("perplexity", "bigram", "memorisation"):
        worth = " --worth true" if name == "perplexity" else ""
        command = f"{name} {on} --split test{worth} --out OUT/{place}/{name}.json"
        yield Stage(name, command, f"{place}/{name}.json", ("tokens",))
    guidance = sampling.partition(" --temperature")[0]
    command = f"generation-time --model {shlex.quote(subject.name)} --duration {_MODEL_SECONDS} {guidance}"
    yield Stage("time", f"{command} --out OUT/{place}/time.json", f"{place}/time.json")


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
    ]


def _heard_stages(name: str, model: str, needs: tuple[str, ...], seed: int) -> list[Stage]:
    """The demo's prompts through a model, and how that compares with the real thing."""
    return [
        Stage(
            f"generate {name}",
            f"generate --model {model} --prompts OUT/references/manifest.jsonl --out OUT/{name}/clips "
            f"--duration {_CLIP_SECONDS} --seed {seed} --batch_size 48",
            f"{name}/clips/manifest.jsonl",
            ("references", *needs),
        ),
        Stage(
            f"evaluate {name}",
            f"evaluate --generated OUT/{name}/clips --reference OUT/references --seed {seed} "
            f"--out OUT/{name}/results.json",
            f"{name}/results.json",
            ("references", f"generate {name}"),
        ),
    ]


def _fit(run: str, seed: int, *layers: str) -> str:
    chosen = " ".join(f"-c {layer}" for layer in layers)
    return f"fit {chosen} --run OUT/{run} --seed_everything {seed} --data.init_args.seed {seed}"
