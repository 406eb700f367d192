"""``mgl train``: the paper's language-model recipe at a size, behind ``make train-small`` and its kin."""

SIZES = ("small", "medium", "large", "mini", "nano")
GLOBAL_BATCH = 192
REHEARSAL_STEPS = 200
# Crops at once on a device: what the paper's 32, 64 and 96 GPUs took. A CPU takes one.
_BATCH = {"small": 6, "medium": 3, "large": 2, "mini": 6, "nano": 6}


def train(
    size: str,
    args: list[str] = [],  # noqa: B006 - a constant default, shown in the help
    data: str | None = None,
    codec: str = "",
    pattern: str = "delay",
    text: str = "",
    cluster: str = "",
    seed: int = 0,
    run: str = "",
    dry: bool = False,
) -> None:
    """Trains a language model by the paper's recipe.

    192 crops of 30 s a step, AdamW, warm-up and cosine, averaged weights, one million steps.

    Without data it is a rehearsal: the demo's corpus, codec and tokens (made first if they are missing) and the
    byte-level text encoder, 200 optimiser steps.

    Args:
        size: small (300M), medium (1.5B), large (3.3B), or mini and nano for a CPU.
        args: further arguments of `mgl fit`, which win over everything here.
        data: a token store, or a manifest, which is encoded first with the codec.
        codec: folder of the codec.
        pattern: how codebooks are interleaved: a layer of pattern/.
        text: "t5" (the paper's) or "bytes"; by default t5, bytes in a rehearsal.
        cluster: a layer of cluster/; by default gpus where there are any, else cpu.
        seed: of initialisation, data order and dropout.
        run: folder of the run; by default runs/SIZE-PATTERN-TEXT-sSEED.
        dry: print the composition, run nothing.
    """
    from datamodules.errors import InputError
    from experiments.training import compose

    if size not in SIZES:
        raise InputError(f"there is no size {size!r}; choose one of {', '.join(SIZES)}")
    composition = compose(
        size, data, codec=codec, pattern=pattern, text=text, cluster=cluster, seed=seed, run=run, batch=_BATCH[size],
        crops=GLOBAL_BATCH, rehearsal_steps=REHEARSAL_STEPS, dry=dry,
    )  # fmt: skip
    print("\n".join(composition.lines), flush=True)
    if not dry:
        from experiments.cli import fit_cli

        fit_cli([*composition.arguments, *args])
