"""``mgl verify-published``: a published checkpoint through this suite and through transformers, side by side."""


def verify_published(model: str = "facebook/musicgen-small", frames: int = 250, greedy: int = 50) -> None:
    """Converts a checkpoint, asks it and transformers the same, and prints how far they are apart.

    Ends with exit code 1 where they do not agree.

    Args:
        model: a language model on the Hugging Face hub, fetched if need be, or a folder of transformers.
        frames: random codes that both are given, for their logits.
        greedy: frames that are decoded.
    """
    import sys
    import tempfile
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from datamodules.errors import InputError
    from experiments.parity import compare
    from lightning_modules.checkpoints import load_model
    from lightning_modules.converting.run import convert
    from lightning_modules.converting.sources import fetched

    if min(frames, greedy) < 1:
        raise InputError(f"frames={frames}, greedy={greedy}: nothing would be compared; give 1 or more")
    folder = Path(model) if Path(model).is_dir() else fetched(model)
    with tempfile.TemporaryDirectory(prefix="mgl-verify-") as there:
        print(f"converting {model}", flush=True)
        convert(folder, Path(there) / "model")
        ours = load_model(Path(there) / "model")
        findings = compare(folder, ours, frames, greedy, lambda line: print(line, flush=True))
    table = Table(title=f"{model}: this suite beside transformers, float32", title_justify="left")
    for column in ("compared", "found", "wanted", ""):
        table.add_column(column)
    for one in findings:
        table.add_row(one.what, one.found, one.wanted, "yes" if one.good else "NO")
    Console().print(table)
    if not all(one.good for one in findings):
        print("they do not agree: please report this, with the table", file=sys.stderr)
        sys.exit(1)
