"""``mgl generate``: prompts to audio files."""


def generate(
    model: str,
    prompts: str,
    out: str,
    duration: float = 10.0,
    seed: int = 0,
    melody: str | None = None,
    continuation: str | None = None,
    stride: float | None = None,
    negative: str = "",
    guidance: float | dict[str, float] = 3.0,
    top_k: int = 250,
    temperature: float = 1.0,
    top_p: float = 1.0,
    precision: str = "fp32",
    batch_size: int = 16,
    format: str = "wav",
    loudness: float | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
) -> None:
    """Generates a clip for every prompt: OUT/<id>.wav, OUT/manifest.jsonl and OUT/system.json.

    An interrupted job is continued by the same command, on any number of devices: a clip that lies there and was made
    of the same model, prompt, melody and settings is left alone.

    Args:
        model: a model folder, or "embedded".
        prompts: a text file with one prompt a line, or JSON lines with "caption" and optionally "id", "duration",
            "seed", "melody" and "continuation" (audio files).
        out: folder for the clips.
        duration: seconds of a clip whose line does not say.
        seed: of the whole job; each clip draws from a hash of it and its id.
        melody: audio file whose melody every clip follows unless its line names another, for a model that hears
            melodies; '' passes over those that the lines name.
        continuation: audio file that every clip begins with and goes on from, unless its line names another; ''
            passes over those that the lines name. The duration is that of the whole.
        stride: seconds by which windows move on in clips that are longer than what the model was trained on; 18 of 30
            by default.
        negative: a text to guide away from, in place of no text.
        guidance: scale of classifier-free guidance; 1 turns it off and halves the work. One for each condition of a
            melody model: '{text: 3, melody: 2}'.
        top_k: draw from the k likeliest codes only.
        temperature: below 1 more timid, above 1 bolder.
        top_p: of these, draw only from the likeliest that together have this probability.
        precision: of the language model: "fp32", "bf16", or "int8" on a CPU.
        batch_size: clips at once, on each device; halved where they do not fit into its memory.
        format: of the files: "wav" or "flac", both of 16 bit, or "ogg" (Vorbis).
        loudness: LUFS that every clip is brought to, as -14; by default they stay as they were decoded, which is what
            evaluation wants. Peaks beyond full scale go through a soft limiter either way.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
        devices: how many of them, on each machine.
        nodes: machines; under SLURM or torchrun every one runs this command.
    """
    import sys

    import torch

    from datamodules.errors import InputError
    from experiments.console import require_folder
    from experiments.jobs.job import Job
    from experiments.jobs.predicting import run_job
    from experiments.jobs.requests import Options, settle_stems
    from experiments.predicting import predicting_trainer
    from experiments.prompts import read_prompts
    from lightning_modules.checkpoints import load_model

    precisions = {"fp32": (torch.float32, None), "bf16": (torch.bfloat16, None), "int8": (torch.float32, "int8")}
    if precision not in precisions:
        raise InputError(f"there is no precision {precision!r}; choose from {', '.join(precisions)}")
    dtype, quantize = precisions[precision]
    options = Options(guidance, negative, top_k, temperature, batch_size, top_p, precision, format, loudness, stride)
    asked = read_prompts(prompts, duration=duration, seed=seed, melody=melody, continuation=continuation)
    folder = require_folder(out)
    trainer = predicting_trainer(device, devices, nodes)
    loaded = load_model(model, trainer.strategy.root_device, dtype, quantize, alone=True)
    if any(prompt.melody for prompt in asked) and (reason := settle_stems(loaded)) and trainer.is_global_zero:
        print(f"melodies are heard in the full mix: {reason}", file=sys.stderr)
    run_job(trainer, Job(loaded, asked, folder, options, trainer.global_rank), model)
