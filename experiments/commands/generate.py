"""``mgl generate``: prompts to audio files."""


def generate(
    model: str,
    prompts: str,
    out: str,
    duration: float = 10.0,
    seed: int = 0,
    melody: str | None = None,
    negative: str = "",
    guidance: float | dict[str, float] = 3.0,
    top_k: int = 250,
    temperature: float = 1.0,
    top_p: float = 1.0,
    precision: str = "fp32",
    batch_size: int = 16,
    device: str = "auto",
) -> None:
    """Generates a clip for every prompt: OUT/<id>.wav, OUT/manifest.jsonl and OUT/system.json.

    Args:
        model: a model folder.
        prompts: a text file with one prompt a line, or JSON lines with "caption" and optionally "id", "duration",
            "seed", "melody" (an audio file).
        out: folder for the clips.
        duration: seconds of a clip whose line does not say.
        seed: of the whole job; each clip draws from a hash of it and its id.
        melody: audio file whose melody every clip follows unless its line names another, for a model that hears
            melodies; '' passes over those that the lines name.
        negative: a text to guide away from, in place of no text.
        guidance: scale of classifier-free guidance; 1 turns it off and halves the work. One for each condition of a
            melody model: '{text: 3, melody: 2}'.
        top_k: draw from the k likeliest codes only.
        temperature: below 1 more timid, above 1 bolder.
        top_p: of these, draw only from the likeliest that together have this probability.
        precision: of the language model: "fp32", "bf16", or "int8" on a CPU.
        batch_size: clips at once.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
    """
    import torch

    from datamodules.errors import InputError
    from experiments.console import pick_device, require_folder
    from experiments.jobs import Options, generate_clips
    from experiments.prompts import read_prompts
    from lightning_modules.checkpoints import load_model

    precisions = {"fp32": (torch.float32, None), "bf16": (torch.bfloat16, None), "int8": (torch.float32, "int8")}
    if precision not in precisions:
        raise InputError(f"there is no precision {precision!r}; choose from {', '.join(precisions)}")
    dtype, quantize = precisions[precision]
    asked = read_prompts(prompts, duration=duration, seed=seed, melody=melody)
    folder = require_folder(out)
    loaded = load_model(model, pick_device(device), dtype, quantize)
    options = Options(guidance, negative, top_k, temperature, batch_size, top_p, precision)
    generate_clips(loaded, asked, folder, options, name=model)
    print(f"clips: {len(asked)} in {folder}")
