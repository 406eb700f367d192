"""``mgl finetune``: a trained model goes on learning from your music, behind ``make finetune``."""


def finetune(
    model: str,
    data: str,
    lora: int | None = None,
    cluster: str = "",
    seed: int = 0,
    run: str = "",
    dry: bool = False,
    args: str = "",
    nodes: int = 1,
) -> None:
    """Trains a model further on your music, whole or with adapters (LoRA), and exports it as a model folder.

    32 crops a step of as many seconds as the model was trained on, 2,000 steps, AdamW with a short warm-up and cosine,
    averaged weights. Shape, texts, melodies and codec are the model's. With ``lora`` its own weights stay as they are,
    and small matrices beside those of the blocks are trained: far less memory, nearly the same result; the exported
    model has them merged, and is like any other.

    Given again it goes on from the run's newest checkpoint.

    Args:
        model: folder of a language model, or "embedded".
        data: a token store that was written with the model's codec, or a manifest, which is encoded first.
        lora: rank of the adapters, 16 say; by default the whole model is trained.
        cluster: a layer of cluster/; by default cpu without a GPU, else gpus, or sharded where `mgl plan` recommends
            that. "slurm" and "torchrun" take the default, and submit or start the run.
        seed: of data order, dropout and adapters.
        run: folder of the run; by default runs/finetune-MODEL-sSEED, or runs/finetune-MODEL-loraRANK-sSEED.
        dry: check everything and print the composition, run nothing.
        args: further arguments of `mgl fit` in one string, which win over everything here.
        nodes: machines of the cluster; with slurm or torchrun.
    """
    import shlex

    from datamodules.errors import InputError
    from experiments.cluster.launch import start
    from experiments.training import Request

    if not model.strip():
        raise InputError("MODEL is empty; give a model folder, or embedded")
    further = tuple(shlex.split(args))
    start(
        Request(
            data=data, pattern="", cluster=cluster, seed=seed, run=run, dry=dry, arguments=further, nodes=nodes,
            model=model, lora=lora,
        )
    )  # fmt: skip
