"""``mgl evaluate-codec``: how well a codec reconstructs held-out music."""


def evaluate_codec(
    codec: str,
    manifest: str,
    out: str,
    split: str = "test",
    clips: int | None = None,
    seconds: float | None = None,
    examples: int = 8,
    visqol: bool = True,
    device: str = "auto",
) -> None:
    """Encodes and decodes tracks, and measures what became of them from their first second to their last.

    OUT then holds results.json (SI-SDR, mel and STFT distance and ViSQOL with intervals, use of the codebooks, bitrate,
    speed, a row a clip) and index.html, a page on which the worst clips can be heard beside their reconstructions.

    Args:
        codec: folder of the codec.
        manifest: a manifest.jsonl, or a folder that holds one.
        out: folder for results.json and index.html.
        split: which tracks: test, valid, train, or '' for all.
        clips: most tracks to take, spread evenly over the manifest; by default all.
        seconds: most seconds of each, from its middle; by default whole tracks.
        examples: clips on the page, the worst by mel distance.
        visqol: score with ViSQOL where visqol-python is installed; it takes longer than all the rest on a CPU.
        device: where to encode: "cpu", "cuda", or "auto" for a GPU where there is one.
    """
    from datamodules.manifest import read_manifest
    from experiments import codec_evaluation as evaluation
    from experiments.codec_page import write_page
    from experiments.codec_results import described, result_lines, versions, write_results
    from experiments.console import pick_device, progress, require_folder
    from lightning_modules.codec.folder import load_codec
    from lightning_modules.codec.visqol import MISSING, load_visqol

    _check(clips, seconds, examples)
    device = pick_device(device)
    tracks = evaluation.chosen_tracks(read_manifest(manifest), split, clips)
    model = load_codec(codec, device)
    scorer = load_visqol() if visqol else None
    folder = require_folder(out)
    measuring = evaluation.CodecEvaluation(model, device, examples, scorer)
    total = sum(length if seconds is None else min(length, seconds) for length in tracks.durations.tolist())
    with progress() as bar:
        task = bar.add_task("evaluating", total=total)
        failed = evaluation.evaluate_tracks(measuring, tracks, seconds, lambda done: bar.update(task, completed=done))
    results = {
        "codec": described(codec, model),
        "protocol": evaluation.protocol(tracks, split, seconds, versions(scorer)),
        "failed": failed,
        **measuring.results("" if scorer else MISSING if visqol else "--visqol false"),
    }
    write_results(folder / "results.json", results)
    write_page(folder / "index.html", results, measuring.excerpts, model.sample_rate)
    print("\n".join([*result_lines(results), f"{folder}/results.json; to hear and look at: {folder}/index.html"]))


def _check(clips: int | None, seconds: float | None, examples: int) -> None:
    """Refuses settings with which there is nothing to measure, and a machine that cannot draw the page."""
    from importlib.util import find_spec

    from datamodules.errors import InputError

    if clips is not None and clips < 1:
        raise InputError(f"clips={clips}: nothing would be measured; give 1 or more")
    if seconds is not None and not 0 < seconds < float("inf"):
        raise InputError(f"seconds={seconds}: nothing would be heard; give a positive number")
    if examples < 0:
        raise InputError(f"examples={examples}: give 0 or more")
    if find_spec("matplotlib") is None:
        raise InputError("matplotlib, which draws the page, is not installed; make setup EXTRAS=all installs it")
