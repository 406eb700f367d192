"""``mgl plan``: what a run at a size would cost on GPUs that need not be here."""


def plan(
    size: str,
    gpus: int = 8,
    gpu: str = "h100",
    gpus_per_node: int = 0,
    batch_per_gpu: int | None = None,
    global_batch: int | None = None,
    text: str = "t5",
    melody: bool = False,
    pattern: str = "delay",
    codec: str = "encodec_32khz",
    optim: str = "",
    precision: str = "",
    steps: int | None = None,
    mfu: float = 0.4,
    recompute: int = 2,
    network: float = 400.0,
    lora: int | None = None,
    json: str = "",
) -> None:
    """Counts what a run of the paper's recipe, or a fine-tuning, needs: memory, arithmetic, traffic, days.

    Nothing is run. Parameters, weights, gradients, optimiser state and average are exact; activations are what autograd
    keeps. Times follow from stated speeds: nothing of them was measured.

    Args:
        size: a layer of size/.
        gpus: how many, over all nodes.
        gpu: which: h100, a100, a100-40, h200, l40s, rtx4090, v100 and others; an unknown one lists them all.
        gpus_per_node: how many to a node; by default 8, or all of fewer.
        batch_per_gpu: crops at once; by default the most that fit.
        global_batch: crops of an optimiser step, over all GPUs; by default 192, with ``lora`` 32.
        text: a layer of conditioning/.
        melody: melody and text as a prefix.
        pattern: a layer of pattern/.
        codec: a layer of codec/, a codec's folder, or "embedded".
        optim: a layer of optim/ in place of AdamW.
        precision: a layer of precision/ in place of bf16-mixed.
        steps: optimiser steps of the run; by default the recipe's.
        mfu: share of the GPUs' peak that the arithmetic is assumed to reach.
        recompute: blocks between kept activations, where not all are kept.
        network: Gbit/s each way of a GPU between nodes.
        lora: rank of adapters that are trained in place of the model, as `mgl finetune` does.
        json: file for the figures.
    """
    from pathlib import Path

    from rich.console import Console

    from datamodules.errors import InputError
    from experiments.compose import language_model_layers, merged, overridden
    from experiments.compose import layers as all_layers
    from experiments.finetuning import CROPS, lora_arguments
    from experiments.planning import plan as planning
    from experiments.planning.gpus import find_gpu
    from experiments.planning.links import machines
    from experiments.planning.subject import codec_facts, codec_layer_facts, subject
    from experiments.planning.tables import report, write
    from experiments.training import GLOBAL_BATCH

    if json and not Path(json).parent.is_dir():
        raise InputError(f"{json}: its folder does not exist; make it first")
    kind = find_gpu(gpu)
    layers = language_model_layers(size, pattern, text, "gpus") + ["conditioning/melody"] * melody
    layers += ["finetune"] * (lora is not None)
    layers += [f"optim/{optim}"] * bool(optim) + [f"precision/{precision}"] * bool(precision)
    recipe = overridden(merged(layers), lora_arguments(lora))
    if steps is not None:
        recipe["trainer"]["max_steps"] = steps
    if recipe["trainer"]["max_steps"] < 1:
        raise InputError(f"steps is {steps}; give 1 or more")
    if recipe["trainer"]["precision"] == "bf16-mixed" and not kind.bfloat16:
        raise InputError(f"{kind.key} does not multiply bfloat16; plan with --precision 16-mixed")
    facts = codec_layer_facts(codec) if f"codec/{codec}" in all_layers() else codec_facts(codec)
    made = planning.plan(
        subject(recipe, facts),
        machines(kind, gpus, gpus_per_node, network),
        crops=(CROPS if lora else GLOBAL_BATCH) if global_batch is None else global_batch,
        utilisation=mfu,
        batch=batch_per_gpu,
        recompute=recompute,
    )
    Console().print(report(made), highlight=False)
    if json:
        write(made, Path(json))
        print(f"wrote {json}")
