"""``mgl train``: the paper's language-model recipe at a size, behind ``make train-small`` and its kin."""


def train(
    size: str,
    data: str | None = None,
    codec: str = "",
    pattern: str = "delay",
    text: str = "",
    cluster: str = "",
    seed: int = 0,
    run: str = "",
    dry: bool = False,
    args: str = "",
    melody: bool = False,
) -> None:
    """Trains a language model by the paper's recipe.

    192 crops of 30 s a step, AdamW, warm-up and cosine, averaged weights, one million steps.

    Without data it is a rehearsal: the demo's corpus, codec and tokens (made first if they are missing) and the
    byte-level text encoder, 200 optimiser steps.

    Args:
        size: small (300M), medium (1.5B), large (3.3B), or mini and nano for a CPU.
        data: a token store, or a manifest, which is encoded first with the codec.
        codec: folder of the codec, or "embedded".
        pattern: how codebooks are interleaved: a layer of pattern/.
        text: a layer of conditioning/: "t5" (the paper's), "flan_t5", "clap" or "bytes"; by default t5, bytes in a
            rehearsal.
        cluster: a layer of cluster/; by default gpus where there are any, else cpu.
        seed: of initialisation, data order and dropout.
        run: folder of the run; by default runs/SIZE-PATTERN-TEXT-sSEED, or runs/SIZE-PATTERN-TEXT-melody-sSEED.
        dry: check everything and print the composition, run nothing.
        args: further arguments of `mgl fit` in one string, which win over everything here.
        melody: melody and text as a prefix, as the paper's melody model hears them; melodies in the stems in which
            the tokens' were heard (`mgl tokens --stems htdemucs` hears them as the paper does).
    """
    import shlex

    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from experiments.cli import fit_cli
    from experiments.training import Request, compose

    further = tuple(shlex.split(args))
    composition = compose(Request(size, data, codec, pattern, text, cluster, seed, run, dry, melody, further))
    rank_zero_only(print)("\n".join(composition.lines), flush=True)
    if not dry:
        fit_cli(composition.arguments)
