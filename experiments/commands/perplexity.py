"""``mgl perplexity``: cross-entropy on held-out tokens."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datamodules.tokens.store import TokenStore
    from lightning_modules.generation.model import MusicModel
    from lightning_modules.lm.held_out import HeldOut


def perplexity(
    model: str,
    tokens: str,
    split: str = "valid",
    seconds: float = 10.0,
    out: str = "",
    precision: str = "fp32",
    device: str = "auto",
    worth: bool = False,
) -> None:
    """Scores a model on the tokens of a split, per codebook, beside the unigram distribution of the training tokens.

    The intervals are bootstrap intervals over tracks; the last column is paired.

    Args:
        model: a model folder, or "embedded".
        tokens: a token store written with the model's codec.
        split: the split to score.
        seconds: length of the windows that the tracks are cut into.
        out: JSON file for the figures; by default held_out.json in the model folder, or held_out-PRECISION.json.
        precision: of the language model: "fp32", "bf16", or "int8" on a CPU, one step after the other as it generates.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
        worth: says, too, what each condition is worth to the model: how much worse it predicts a track when it hears
            another's text, or melody, in place of its own. Near 0 it does not listen.
    """
    import json
    from pathlib import Path

    import torch

    from datamodules.errors import InputError
    from datamodules.tokens.store import TokenStore
    from experiments.console import pick_device
    from lightning_modules.checkpoints import load_model

    precisions = {"fp32": (torch.float32, None), "bf16": (torch.bfloat16, None), "int8": (torch.float32, "int8")}
    if precision not in precisions:
        raise InputError(f"there is no precision {precision!r}; choose from {', '.join(precisions)}")
    if not out and not Path(model).is_dir():
        raise InputError(f"{model!r} is no folder to write the figures into; name a file for them: --out held_out.json")
    store = TokenStore(tokens)
    dtype, quantize = precisions[precision]
    loaded = load_model(model, pick_device(device), dtype, quantize)
    named = loaded.lm.config.conditions if worth else ()
    made = {swapped: _scored(loaded, store, split, seconds, swapped) for swapped in ("", *named)}
    scores = made.pop("")
    costs = {name: _difference(scores, other) for name, other in made.items()}
    rows = [_row(k, scores) for k in range(store.codebooks)]
    record = {
        "split": split,
        "precision": precision,
        "n": len(scores.counts),
        "window_seconds": seconds,
        "cross_entropy": rows,
        **({"worth": costs} if worth else {}),
    }
    name = "held_out.json" if precision == "fp32" else f"held_out-{precision}.json"
    path = Path(out or Path(model) / name)
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(f"cross-entropy in nats on {len(scores.counts)} tracks of {split!r}, 95 % intervals over tracks ({path})")
    for row in rows:
        print(
            f"  codebook {row['codebook']}: {_said(row, 'value', '')}   unigram {_said(row, 'unigram', 'unigram_')}"
            f"   below it by {_said(row, 'gain', 'gain_')}"
        )
    for name, cost in costs.items():
        print(f"  another track's {name} costs {_said(cost, 'value', '')} nats a code")


def _scored(model: "MusicModel", store: "TokenStore", split: str, seconds: float, swapped: str) -> "HeldOut":
    from experiments.console import progress
    from lightning_modules.lm.held_out import held_out

    with progress() as bar:
        task = bar.add_task(f"another's {swapped}" if swapped else "perplexity", total=None)
        return held_out(
            model,
            store,
            split,
            seconds,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            swapped=swapped,
        )


def _difference(own: "HeldOut", other: "HeldOut") -> dict[str, float | None]:
    """By how much the cross-entropy of all codes is higher where a condition was another track's."""
    from evaluation.uncertainty import bootstrap_ratio

    interval = bootstrap_ratio((other.model - own.model).sum(1).numpy(), own.counts.sum(1).numpy())
    return interval._asdict()


def _row(k: int, scores: "HeldOut") -> dict[str, float | None]:
    """One codebook's figures: every code counts the same, so a track weighs as many codes as it has."""
    from evaluation.uncertainty import bootstrap_ratio

    row: dict[str, float | None] = {"codebook": k}
    model, unigram, counts = (column[:, k].numpy() for column in (scores.model, scores.unigram, scores.counts))
    for name, prefix, sums in (
        ("value", "", model),
        ("unigram", "unigram_", unigram),
        ("gain", "gain_", unigram - model),
    ):
        if len(counts) < 2:
            row |= {name: float(sums.sum() / counts.sum()), f"{prefix}low": None, f"{prefix}high": None}
        else:
            interval = bootstrap_ratio(sums, counts)
            row |= {name: interval.value, f"{prefix}low": interval.low, f"{prefix}high": interval.high}
    return row


def _said(row: dict[str, float | None], name: str, prefix: str) -> str:
    """A figure with its interval, or without one where a single track gives none."""
    low, high = row[f"{prefix}low"], row[f"{prefix}high"]
    return f"{row[name]:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")
