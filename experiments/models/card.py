"""The tables on a model's card, made of what the stages of ``experiments.recipes.model_card_stages`` wrote."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.tables import METRICS, judges_text, number
from experiments.models.aims import aims
from experiments.models.following import KINDS
from experiments.pipeline import Stage
from experiments.recipes import MODEL_SETS

Results = Mapping[str, Any]
_SCORED = [metric for metric in METRICS if metric.key in ("fad", "kld", "clap", "chroma")]
# On the search's table; the first is the one to choose by.
_SEARCHED = ("families", "instruments", "drums", "no drums", "tempo")


def card_lines(folder: Path, stages: Sequence[Stage]) -> list[str]:
    """Markdown: what is aimed at, what is heard in the clips, the metrics, the codes, and the time.

    Args:
        folder: of the pipeline.
        stages: of ``model_card_stages``, all of which have run.
    """
    results = read_results(folder, stages)
    sampling = next(stage.command for stage in stages if stage.name == "text clips").partition("--guidance")
    tables = [
        [_head(results, sampling[1] + sampling[2].partition(" --melody")[0])],
        _table(["aim", "wanted", "reached", "met"], [[*row[:3], "yes" if row[3] else "no"] for row in aims(results)]),
        _following(results),
        _metrics(results),
        _cross_entropy(results),
        _memorisation(results["memorisation"]),
        [_time(results["time"])],
    ]
    return "\n\n".join("\n".join(table) for table in tables).split("\n")


def search_lines(folder: Path, stages: Sequence[Stage]) -> list[str]:
    """Markdown: a row for each setting of ``sampling_search_stages``."""
    results = read_results(folder, stages)
    settings = [name.partition(" ")[2] for name in results if name.startswith("evaluate ")]
    kinds = [kind for kind in _SEARCHED if kind in results[f"prompts {settings[0]}"]["followed"]]
    rows = []
    for name in settings:
        followed, metrics = results[f"prompts {name}"]["followed"], results[f"evaluate {name}"]["metrics"]
        scores = [metrics.get(metric.key) for metric in _SCORED if metric.key != "chroma"]
        rows.append([name, *(score_text(followed[kind]) for kind in kinds), *map(score_text, scores)])
    heads = [KINDS[kind] for kind in kinds] + [metric.name for metric in _SCORED if metric.key != "chroma"]
    return _table(["", *heads], rows)


def read_results(folder: Path, stages: Sequence[Stage]) -> dict[str, Any]:
    """By stage what it measured, of those that measure."""
    measured = ("evaluate ", "prompts ", "perplexity", "bigram", "memorisation", "time")
    found = [stage for stage in stages if stage.name.startswith(measured)]
    return {stage.name: json.loads((folder / stage.result).read_text("utf-8")) for stage in found}


def score_text(score: Results | None) -> str:
    """A figure with its bounds, in brackets, where it has any."""
    if score is None or score["value"] is None:
        return number(None)
    bounds = "" if score.get("low") is None else f" ({number(score['low'])} to {number(score['high'])})"
    return f"{number(score['value'])}{bounds}"


def _head(results: Results, sampling: str) -> str:
    """What was measured, and with whose ears."""
    made, heard = results["evaluate text"], results["prompts text"]
    return (
        f"Model {made['system']['checksum'][:12]}, `{sampling}`: {heard['n']} clips of "
        f"{made['protocol']['seconds']['longest']:g} s from {heard['tracks']} held-out tracks, "
        f"{judges_text(made['protocol'])}, 95 % intervals."
    )


def _following(results: Results) -> list[str]:
    """What a judge hears of what was asked for: a column for each set of clips, and chance."""
    sets = [name for name in MODEL_SETS if f"prompts {name}" in results]
    first = results[f"prompts {sets[0]}"]
    rows = []
    for kind in first["followed"]:
        reached = [score_text(results[f"prompts {name}"]["followed"].get(kind)) for name in sets]
        # Of the clips that the kind is about: the melody's chance is that of clips which hear melodies.
        of = results.get("prompts melody", first) if kind == "melody" else first
        rows.append([KINDS[kind], *reached, score_text(of["chance"][kind])])
    return _table(["heard", *(MODEL_SETS[name] for name in sets), "chance"], rows)


def _metrics(results: Results) -> list[str]:
    """The metrics of each set of clips against the references, which themselves have but captions to fit."""
    rows = []
    for name, title in MODEL_SETS.items():
        if (one := results.get(f"evaluate {name}")) is not None:
            rows.append([title, *(score_text(one["metrics"].get(metric.key)) for metric in _SCORED)])
    captioned = results["evaluate text"]["context"]["reference"].get("clap")
    own = [score_text(captioned if metric.key == "clap" else None) for metric in _SCORED]
    rows.append([MODEL_SETS["references"], *own])
    return _table(["", *(metric.name for metric in _SCORED)], rows)


def _cross_entropy(results: Results) -> list[str]:
    """By codebook, in nats; the perplexity is that of the model."""
    rows = []
    for model, bigram in zip(results["perplexity"]["cross_entropy"], results["bigram"]["cross_entropy"], strict=True):
        unigram = {"value": model["unigram"], "low": model["unigram_low"], "high": model["unigram_high"]}
        rows.append(
            [
                str(model["codebook"] + 1),
                score_text(model),
                f"{math.exp(model['value']):.0f}",
                score_text(bigram),
                score_text(unigram),
            ]
        )
    worth = [
        f"Another track's {name} in place of its own costs {score_text(cost)} nats a code."
        for name, cost in results["perplexity"]["worth"].items()
    ]
    return [*_table(["codebook", "cross-entropy", "perplexity", "bigram", "unigram"], rows), "", " ".join(worth)]


def _memorisation(found: Results) -> list[str]:
    """Training tracks and held-out ones side by side."""
    train, held = found["sides"]["train"], found["sides"][found["split"]]
    rows = [["tracks", *(str(side["n"]) for side in (train, held))]]
    for key, title in (
        ("equal", "codes of the first codebook that are the track's own"),
        ("partial", "tracks with 80 % of them"),
        ("exact", "tracks with all of them"),
        ("run", "longest run of them, mean"),
    ):
        rows.append([title, *(score_text(side[key]) for side in (train, held))])
    rows.append([f"longest run of them, of {train['codes']}", *(str(side["longest"]) for side in (train, held))])
    head = f"{found['seconds']:g} s continued greedily from {found['given']:g} s"
    return _table([head, "training tracks", "held-out tracks"], rows)


def _time(spent: Results) -> str:
    machine = spent["machine"]
    return (
        f"{spent['duration']:g} s from a prompt: {spent['cold']:.1f} s as a command, {spent['warm']:.1f} s once the "
        f"model is loaded ({machine['threads']} threads of {machine['cores']} cores, {machine['cpu']}, load "
        f"{machine['load']:g})."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return list(_rows([head, ["---"] * len(head), *rows]))


def _rows(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in rows:
        yield f"| {' | '.join(row)} |"
