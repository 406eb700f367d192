"""``mgl perplexity``: cross-entropy on held-out tokens."""

from typing import Any


def perplexity(
    model: str, tokens: str, split: str = "valid", seconds: float = 10.0, out: str = "", device: str = "auto"
) -> None:
    """Scores a model on the tokens of a split, per codebook, beside the unigram distribution of the training tokens.

    The intervals are 95 % bootstrap intervals over windows.

    Args:
        model: a model folder.
        tokens: a token store written with the model's codec.
        split: the split to score.
        seconds: length of the windows that the tracks are cut into.
        out: JSON file for the figures; by default held_out.json in the model folder.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
    """
    import json
    from pathlib import Path

    from datamodules.tokens import TokenStore
    from experiments.console import pick_device, progress
    from lightning_modules.checkpoints import load_model
    from lightning_modules.lm.held_out import held_out

    store = TokenStore(tokens)
    loaded = load_model(model, pick_device(device))
    with progress() as bar:
        task = bar.add_task("perplexity", total=None)
        scores = held_out(
            loaded, store, split, seconds, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    rows = [_row(k, scores) for k in range(store.codebooks)]
    record = {"split": split, "n": len(scores.counts), "window_seconds": seconds, "cross_entropy": rows}
    path = Path(out or Path(model) / "held_out.json")
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(f"cross-entropy in nats on {len(scores.counts)} windows of {split!r} ({path})")
    for row in rows:
        print(
            f"  codebook {row['codebook']}: {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            f"   unigram {row['unigram']:.3f} [{row['unigram_low']:.3f}, {row['unigram_high']:.3f}]"
        )


def _row(k: int, scores: Any) -> dict[str, float]:
    """One codebook's figures: every code counts the same, so a window weighs as many codes as it has."""
    row: dict[str, float] = {"codebook": k}
    for name, sums in (("", scores.model[:, k]), ("unigram_", scores.unigram[:, k])):
        value, low, high = _ratio_interval(sums.double().numpy(), scores.counts[:, k].double().numpy())
        row |= {name.removesuffix("_") or "value": value, f"{name}low": low, f"{name}high": high}
    return row


def _ratio_interval(sums: Any, counts: Any, resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    import numpy as np

    picks = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    ratios = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(sums.sum() / counts.sum()), float(low), float(high)
