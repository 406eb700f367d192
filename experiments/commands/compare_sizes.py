"""``mgl compare-sizes`` and the commands that its stages are: systems side by side, quality and cost."""


def system_clips(
    system: str,
    /,
    prompts: str,
    out: str,
    duration: float = 10.0,
    seed: int = 0,
    melody: str | None = None,
    guidance: float = 3.0,
    top_k: int = 250,
    temperature: float = 1.0,
    batch_size: int = 16,
    device: str = "auto",
) -> None:
    """Clips of any system for the same prompts: OUT/<id>.wav, OUT/manifest.jsonl and OUT/system.json.

    Args:
        system: [NAME=]WHAT: a model folder, "embedded", hf:FOLDER or hf:NAME of a MusicGen of transformers,
            diffusers:FOLDER or diffusers:NAME[@STEPS] of a text-to-music pipeline of diffusers, or folder:FOLDER of
            audio files that are called after prompts' ids or captions.
        prompts: as `mgl generate` reads them; a manifest is a prompt file too.
        out: folder for the clips.
        duration: seconds of a clip whose line does not say.
        seed: of the whole job.
        melody: audio file that every clip follows unless its line names another; '' passes over those of the lines.
        guidance: scale of classifier-free guidance.
        top_k: draw from the k likeliest codes only.
        temperature: below 1 more timid, above 1 bolder.
        batch_size: clips at once.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
    """
    from experiments.console import require_folder
    from experiments.jobs import Options
    from experiments.prompts import read_prompts
    from experiments.systems.naming import find_system

    found = find_system(system)
    asked = read_prompts(prompts, duration=duration, seed=seed, melody=melody)
    options = Options(guidance=guidance, top_k=top_k, temperature=temperature, batch_size=batch_size)
    made = found.clips(asked, require_folder(out), options, device)
    print(f"{found.name}: {made.made} clips for {made.asked} prompts in {out}")
    for what, names in (("match no prompt", made.unmatched), ("are no audio", made.unreadable)):
        if names:
            print(f"{len(names)} files {what}: {', '.join(names)}")


def system_cost(system: str, /, out: str, clips: str = "", gpu: str = "h100", gpus: int = 8) -> None:
    """What a system costs to train, as `mgl plan` estimates it, and to generate with, as was measured.

    Args:
        system: as for `mgl system-clips`, or a size.
        out: JSON file for the figures.
        clips: folder of clips that it made.
        gpu: that it would be trained on.
        gpus: how many.
    """
    from pathlib import Path

    from evaluation.runner import write_json
    from experiments.systems.cost import cost_record
    from experiments.systems.naming import find_system

    write_json(out, cost_record(find_system(system), Path(clips) if clips else None, gpu, gpus))
    print(f"wrote {out}")


def compare_sizes(
    systems: list[str],
    out: str = "runs/compare-sizes",
    references: str = "",
    held_out: str = "",
    judge: str = "embedded",
    protocol: str = "",
    clips: int = 32,
    duration: float = 6.0,
    pieces: int = 160,
    seed: int = 0,
    guidance: float = 3.0,
    temperature: float = 1.0,
    batch_size: int = 16,
    device: str = "auto",
    gpu: str = "h100",
    gpus: int = 8,
    players: int = 12,
) -> None:
    """Generates with every system, evaluates it and counts what it costs; one page, report.html, with CSV and Markdown.

    A finished stage is not done again: an interrupted comparison goes on by the same command. Of sizes without trained
    weights the cost alone is told, and what is missing.

    Args:
        systems: [NAME=]WHAT each: small, medium, large (the model of the newest runs/SIZE-*), a model folder,
            "embedded", hf:FOLDER or hf:NAME of transformers, diffusers:FOLDER or diffusers:NAME[@STEPS],
            folder:FOLDER of clips of anything.
        out: folder for everything.
        references: reference clips (`mgl eval-set`), whose captions are the prompts; by default clips of the embedded
            corpus.
        held_out: manifest with splits train and test, encoded with each model's codec for perplexity; by default the
            embedded corpus, unless references are given.
        judge: who listens; "" for the protocol's own.
        protocol: of the evaluation; "" is the default one.
        clips: of the embedded corpus, at most.
        duration: seconds of a clip.
        pieces: of the embedded corpus; a tenth of them are held out, and give one clip each, or several.
        seed: of generation and evaluation.
        guidance: scale of classifier-free guidance.
        temperature: of the sampling.
        batch_size: clips at once.
        device: where to generate.
        gpu: that the cost of training is counted for.
        gpus: how many.
        players: prompts to listen to on the page.
    """
    from experiments.console import require_folder
    from experiments.systems.naming import find_systems
    from experiments.systems.running import run_comparison
    from experiments.systems.stages import Comparison

    how = Comparison(
        references, held_out, judge, protocol, clips, duration, pieces, seed, guidance, temperature, batch_size,
        device, gpu, gpus,
    )  # fmt: skip
    run_comparison(find_systems(systems), how, require_folder(out), players)
