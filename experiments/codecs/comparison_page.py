"""A page about several codecs: their figures in one table, and clips to hear and to look at in every version."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from evaluation.media import spectrograms_on_one_scale
from evaluation.tables import ARROWS, interval, number
from experiments.codecs.comparison import SharedExcerpt, perplexity_text, signed
from experiments.codecs.evaluation import METRICS
from experiments.codecs.page import clock, facts, left_out, paragraph, protocol, table, take, write_parts
from experiments.codecs.results import codec_line, heard_line, speed_line


def write_comparison_page(
    path: Path, results: Mapping[str, Any], excerpts: Sequence[SharedExcerpt], sample_rate: int
) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: of the page.
        results: what results.json holds.
        excerpts: stretches in every version, in the order of the page.
        sample_rate: of the excerpts, Hz.
    """
    names = [one["name"] for one in results["systems"]]
    checksums = [
        (f"checksum of {one['name']}", one["codec"]["checksum"])
        for one in results["systems"]
        if "checksum" in one["codec"]
    ]
    parts = [f"<h1>{len(names)} codecs on the same clips</h1>", paragraph("lead", ", ".join(names))]
    parts += [_figures(results), _differences(results), _systems(results), _listen(results, excerpts, sample_rate)]
    parts += [left_out(results), protocol(results["protocol"], checksums)]
    write_parts(path, "Codecs: " + ", ".join(names), parts)


def _figures(results: Mapping[str, Any]) -> str:
    head = "<th>codec</th><th>kbit/s, measured</th>"
    head += "".join(f"<th>{escape(metric.name)} {ARROWS[metric.better]}</th>" for metric in METRICS)
    rows = []
    for one in results["systems"]:
        scores = [one["bitrate"]["measured"], *(one["metrics"][metric.key] for metric in METRICS)]
        cells = "".join(f"<td>{number(score['value'])}<small>{interval(score)}</small></td>" for score in scores)
        rows.append(f"<tr><th>{escape(one['name'])}</th>{cells}<td>{escape(perplexity_text(one))}</td></tr>")
    said = f"{heard_line({**results['systems'][0], **results})}. Means with 95 % intervals over clips. "
    said += " ".join(f"{metric.name}: {metric.meaning}." for metric in METRICS)
    return f"<h2>Figures</h2>{paragraph('quiet', said)}{table(f'{head}<th>perplexity of codebooks</th>', rows)}"


def _differences(results: Mapping[str, Any]) -> str:
    head = "<th>codec</th>" + "".join(f"<th>{escape(metric.name)} {ARROWS[metric.better]}</th>" for metric in METRICS)
    rows = []
    for one in results["differences"]:
        scores = [one["metrics"][metric.key] for metric in METRICS]
        cells = "".join(f"<td>{number(None) if s['value'] is None else signed(s)}</td>" for s in scores)
        rows.append(f"<tr><th>{escape(one['name'])}</th>{cells}</tr>")
    base = results["systems"][0]["name"]
    said = (
        f"Each minus {base}, clip by clip, with 95 % intervals: two codecs differ where the interval leaves zero out."
    )
    return f"<h2>Differences</h2>{paragraph('quiet', said)}{table(head, rows)}"


def _systems(results: Mapping[str, Any]) -> str:
    rows = []
    for one in results["systems"]:
        codec = one["codec"]
        if "codebooks" in codec:
            said = codec_line(codec)
        else:
            asked = codec["asked_kbit_per_second"]
            wish = "lowest quality" if asked is None else f"{asked:g} kbit/s asked for"
            said = f"{codec['architecture'].title()}, {codec['encoder']}, {wish}, coded at {codec['coded_at']:,} Hz; "
            said += f"{one['bitrate']['container']:.2f} kbit/s are the Ogg container and the file's headers"
        rows.append((one["name"], f"{said}; {speed_line(one)}"))
    return f"<h2>Codecs</h2>{facts(rows)}"


def _listen(results: Mapping[str, Any], excerpts: Sequence[SharedExcerpt], sample_rate: int) -> str:
    if not excerpts:
        return ""
    names = [one["name"] for one in results["systems"]]
    said = (
        f"{len(excerpts)} of {results['systems'][0]['n']:,} clips: those with the largest mel distance, averaged over "
        f"codecs, each where {names[0]} is worst. The sound is lossless. Starting one player while another of the clip "
        f"plays goes on in the same place. Spectrograms are mel up to {sample_rate / 2000:g} kHz, low pitches at the "
        "bottom, 80 dB deep, all on the scale of the original."
    )
    clips = "".join(_excerpt(names, one, sample_rate) for one in excerpts)
    return f"<h2>To hear and to look at</h2>{paragraph('quiet', said)}{clips}"


def _excerpt(names: Sequence[str], one: SharedExcerpt, sample_rate: int) -> str:
    length = one.original.shape[1] / sample_rate
    where = f"From {clock(one.start)} to {clock(one.start + length)} in the track"
    pictures = spectrograms_on_one_scale(
        one.original.mean(0), [wav.mean(0) for wav in one.reconstructions], sample_rate
    )
    takes = take("Original", one.original, sample_rate, pictures[0])
    for name, clip, wav, picture in zip(names, one.clips, one.reconstructions, pictures[1:], strict=True):
        takes += take(f"{name}, mel distance {number(clip['mel_distance'])}", wav, sample_rate, picture)
    head = f"<h3>{escape(one.clips[0]['id'])}<small>{where}; mel distances are of the whole clip</small></h3>"
    return f'<article class="clip">{head}<div class="takes many">{takes}</div></article>'
