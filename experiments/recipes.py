"""Which stages a pipeline has."""

from pathlib import Path

from experiments.pipeline import Stage

DEMO_SIZES = ("nano", "mini")
_CLIP_SECONDS = "6"


def demo_stages(out: Path, pieces: int, seed: int) -> list[Stage]:
    """The demo, from scores to the report, in ``out``."""
    corpus, codec, judge, tokens = out / "corpus", out / "codec", out / "judge", out / "tokens"
    references = out / "references"
    stages = [
        Stage(
            "corpus",
            ("corpus", "--out", str(corpus), "--pieces", str(pieces), "--seed", str(seed)),
            corpus / "manifest.jsonl",
        ),
        Stage(
            "codec",
            _fit(codec, seed, "codec", "codec/nano", "cluster/cpu", "demo/codec")
            + ("--data.init_args.manifest", str(corpus)),
            codec / "model" / "training.json",
            ("corpus",),
        ),
        Stage(
            "judge",
            _fit(judge, seed, "judge", "cluster/cpu", "demo/judge") + ("--data.init_args.manifest", str(corpus)),
            judge / "model" / "training.json",
            ("corpus",),
        ),
        Stage(
            "tokens",
            ("tokens", "--manifest", str(corpus), "--codec", str(codec / "model"), "--out", str(tokens)),
            tokens / "index.json",
            ("corpus", "codec"),
        ),
        Stage(
            "references",
            ("eval-set", "--manifest", str(corpus), "--out", str(references), "--seconds", _CLIP_SECONDS, "--per_track", "3"),
            references / "manifest.jsonl",
            ("corpus",),
        ),
    ]
    for size in DEMO_SIZES:
        stages += _size_stages(out, size, seed)
    results = [str(out / size / "results.json") for size in DEMO_SIZES]
    needs = tuple(f"evaluate {size}" for size in DEMO_SIZES)
    report = out / "report.html"
    return [*stages, Stage("report", ("compare", *results, "--out", str(report)), report, needs)]


def _size_stages(out: Path, size: str, seed: int) -> list[Stage]:
    run, tokens, codec, references = out / size, out / "tokens", out / "codec" / "model", out / "references"
    model, clips = run / "model", run / "clips"
    layers = ("lm", f"size/{size}", "pattern/delay", "conditioning/bytes", "cluster/cpu", "demo/lm")
    return [
        Stage(
            f"train {size}",
            _fit(run, seed, *layers)
            + ("--data.init_args.store", str(tokens), "--model.init_args.codec", str(codec)),
            model / "training.json",
            ("tokens",),
        ),
        Stage(
            f"perplexity {size}",
            ("perplexity", "--model", str(model), "--tokens", str(tokens)),
            model / "held_out.json",
            ("tokens", f"train {size}"),
        ),
        Stage(
            f"generate {size}",
            ("generate", "--model", str(model), "--prompts", str(references / "manifest.jsonl"), "--out", str(clips),
             "--duration", _CLIP_SECONDS),
            clips / "manifest.jsonl",
            ("references", f"train {size}", f"perplexity {size}"),
        ),
        Stage(
            f"evaluate {size}",
            ("evaluate", "--generated", str(clips), "--reference", str(references), "--judge", str(out / "judge" / "model"), "--out", str(run / "results.json")),
            run / "results.json",
            ("judge", "references", f"generate {size}"),
        ),
    ]  # fmt: skip


def _fit(run: Path, seed: int, *layers: str) -> tuple[str, ...]:
    chosen = tuple(word for layer in layers for word in ("-c", layer))
    return (
        "fit", *chosen, "--run", str(run), "--seed_everything", str(seed), "--data.init_args.seed", str(seed),
    )  # fmt: skip
