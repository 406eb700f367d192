"""``mgl evaluate-codec``: how well codecs reconstruct held-out music."""

from collections.abc import Mapping
from typing import Any


def evaluate_codec(
    codec: str | list[str],
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
    With several codecs both hold all of them, measured on the same clips at the rate of the first neural one.

    Args:
        codec: folder of a codec, or "embedded"; or, beside one, "opus@6" (Opus, 6 kbit/s asked for), "opus" (its
            lowest), "vorbis" (at its lowest quality). Several may be given; the others are compared with the first.
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
    from experiments.codecs import evaluation
    from experiments.codecs.comparison import CodecComparison, load_systems
    from experiments.codecs.results import versions
    from experiments.console import pick_device, progress, require_folder
    from lightning_modules.codec.visqol import MISSING, load_visqol

    _check(clips, seconds, examples)
    names = [codec] if isinstance(codec, str) else codec
    tracks = evaluation.chosen_tracks(read_manifest(manifest), split, clips)
    scorer = load_visqol() if visqol else None
    systems = load_systems(names, pick_device(device), scorer)
    measuring: evaluation.CodecEvaluation | CodecComparison = CodecComparison(systems, examples)
    if len(names) == 1:
        measuring = systems[names[0]]
        measuring.examples = examples
    folder = require_folder(out)
    total = sum(length if seconds is None else min(length, seconds) for length in tracks.durations.tolist())
    with progress() as bar:
        task = bar.add_task("evaluating", total=total)
        failed = evaluation.evaluate_tracks(measuring, tracks, seconds, lambda done: bar.update(task, completed=done))
    about = {"protocol": evaluation.protocol(tracks, split, seconds, versions(scorer)), "failed": failed}
    missing = "" if scorer else MISSING if visqol else "--visqol false"
    if isinstance(measuring, CodecComparison):
        _write_comparison(folder, measuring, {**about, **measuring.results(missing)})
    else:
        _write(folder, names[0], measuring, {**about, **measuring.results(missing)})
    print(f"{folder}/results.json; to hear and look at: {folder}/index.html")


def _write(folder: Any, name: str, measured: Any, results: Mapping[str, Any]) -> None:
    """Results and page of one codec."""
    from experiments.codecs.page import write_page
    from experiments.codecs.results import described, result_lines, write_results

    results = {"codec": described(name, measured.codec), **results}
    write_results(folder / "results.json", results)
    write_page(folder / "index.html", results, measured.excerpts, measured.codec.sample_rate)
    print("\n".join(result_lines(results)))


def _write_comparison(folder: Any, measured: Any, results: Mapping[str, Any]) -> None:
    """Results and page of several."""
    from rich.console import Console

    from experiments.codecs.comparison import comparison_lines, comparison_table
    from experiments.codecs.comparison_page import write_comparison_page
    from experiments.codecs.results import heard_line, write_results

    write_results(folder / "results.json", results)
    write_comparison_page(folder / "index.html", results, measured.excerpts, measured.rate_and_channels[0])
    print(heard_line({**results["systems"][0], **results}))
    Console().print(comparison_table(results))
    print("\n".join(comparison_lines(results)))


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
