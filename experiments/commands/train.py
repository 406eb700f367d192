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
    nodes: int = 1,
) -> None:
    """Trains a language model by the paper's recipe.

    192 crops of 30 s a step, AdamW, warm-up and cosine, averaged weights, one million steps.

    Given again it goes on from the run's newest checkpoint, on as many devices as there are now.

    Without data it is a rehearsal: the demo's corpus, codec and tokens (made first if they are missing) and the
    byte-level text encoder, 200 optimiser steps.

    Args:
        size: small (300M), medium (1.5B), large (3.3B), or mini and nano for a CPU.
        data: a token store, or a manifest, which is encoded first with the codec.
        codec: folder of the codec, or "embedded".
        pattern: how codebooks are interleaved: a layer of pattern/.
        text: a layer of conditioning/: "t5" (the paper's), "flan_t5", "clap" or "bytes"; by default t5, bytes in a
            rehearsal.
        cluster: a layer of cluster/; by default cpu without a GPU, else gpus, or sharded where `mgl plan` recommends
            that. "slurm" and "torchrun" take the default: "slurm" submits the run as a job that queues itself again
            until it is done, "torchrun" starts it under torchrun. Within such a job they only run it.
        seed: of initialisation, data order and dropout.
        run: folder of the run; by default runs/SIZE-PATTERN-TEXT-sSEED, or runs/SIZE-PATTERN-TEXT-melody-sSEED.
        dry: check everything and print the composition, run nothing.
        args: further arguments of `mgl fit` in one string, which win over everything here.
        melody: melody and text as a prefix, as the paper's melody model hears them; melodies in the stems in which
            the tokens' were heard (`mgl tokens --stems htdemucs` hears them as the paper does).
        nodes: machines of the cluster; with slurm or torchrun.
    """
    import shlex

    from experiments.cluster.launch import start
    from experiments.training import Request

    further = tuple(shlex.split(args))
    start(Request(size, data, codec, pattern, text, cluster, seed, run, dry, melody, further, nodes))
