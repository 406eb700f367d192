"""``mgl generate``: prompts to audio files."""


def generate(
    model: str,
    prompts: str,
    out: str,
    duration: float = 10.0,
    seed: int = 0,
    guidance: float = 3.0,
    top_k: int = 250,
    temperature: float = 1.0,
    batch_size: int = 16,
    device: str = "auto",
) -> None:
    """Generates a clip for every prompt: OUT/<id>.wav, OUT/manifest.jsonl and OUT/system.json.

    Args:
        model: a model folder.
        prompts: a text file with one prompt a line, or JSON lines with "caption" and optionally "id", "duration",
            "seed".
        out: folder for the clips.
        duration: seconds of a clip whose line does not say.
        seed: of the whole job; each clip draws from a hash of it and its id.
        guidance: scale of classifier-free guidance; 1 turns it off and halves the work.
        top_k: draw from the k likeliest codes only.
        temperature: below 1 more timid, above 1 bolder.
        batch_size: clips at once.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
    """
    from experiments.console import pick_device, require_folder
    from experiments.jobs import Options, generate_clips
    from experiments.prompts import read_prompts
    from lightning_modules.checkpoints import load_model

    asked = read_prompts(prompts, duration=duration, seed=seed)
    folder = require_folder(out)
    loaded = load_model(model, pick_device(device))
    options = Options(guidance=guidance, top_k=top_k, temperature=temperature, batch_size=batch_size)
    generate_clips(loaded, asked, folder, options, name=model)
    print(f"clips: {len(asked)} in {folder}")
