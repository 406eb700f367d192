"""A page about a codec: its figures, and what it did worst on, to hear and to look at. It needs no other file."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.whole_files import write_whole
from evaluation.media import LARGEST_DIFFERENCE, compare_spectrograms, encode_lossless
from evaluation.tables import ARROWS, interval, number
from experiments.codecs.evaluation import METRICS, Excerpt
from experiments.codecs.results import bitrate_line, codec_line, counted_line, heard_line, speed_line

_MOST_ROWS = 200  # clips in the table; results.json has all
_STYLE = """
:root { color-scheme: light dark; --bar: #4477aa; --dim: #6b6b6b; --line: #d9d7d0; }
@media (prefers-color-scheme: dark) { :root { --dim: #a4a4a4; --line: #3a3d44; --bar: #77aadd; } }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h3 small { display: block; color: var(--dim); font-weight: 400; font-size: .85rem; }
h4 { font-size: .85rem; font-weight: 600; margin: 0 0 .3rem; }
.lead, .quiet { color: var(--dim); margin-top: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
thead th { color: var(--dim); font-weight: 500; font-size: .85rem; vertical-align: bottom; }
tbody th { font-weight: 600; } th small, td small { display: block; color: var(--dim); font-weight: 400; }
th.left { text-align: left; } td[colspan] { white-space: normal; }
td.wide { width: 40%; min-width: 6rem; }
.bar { background: var(--bar); height: .7rem; border-radius: 2px; min-width: 1px; }
.clip { padding: 1.1rem 0; border-bottom: 1px solid var(--line); }
.takes { display: grid; grid-template-columns: repeat(3, 1fr); gap: 1rem; }
.takes.many { grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
.takes.many > div { display: flex; flex-direction: column; justify-content: flex-end; }
.takes > div { min-width: 0; } .takes h4 { overflow-wrap: anywhere; }
.takes audio { width: 100%; height: 2.4rem; display: block; }
.takes img { width: 100%; height: 11rem; display: block; margin-top: .4rem; border-radius: 3px; }
.scale { height: 2.4rem; display: grid; align-content: center; font-size: .8rem; color: var(--dim); }
.colours { height: .7rem; border-radius: 2px;
  background: linear-gradient(90deg, #053061, #4393c3, #f7f7f7, #d6604d, #67001f); }
.ends { display: flex; justify-content: space-between; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; font-size: .9rem; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 44rem) { .takes, .takes.many, dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
"""
# One player at a time; another one of a clip goes on where the first was, so that they can be compared in mid-tune.
_SCRIPT = """
document.addEventListener("play", function (event) {
  document.querySelectorAll("audio").forEach(function (other) {
    if (other === event.target || other.paused) return;
    other.pause();
    if (other.closest(".clip") === event.target.closest(".clip")) event.target.currentTime = other.currentTime;
  });
}, true);
"""


def write_page(path: Path, results: Mapping[str, Any], excerpts: Sequence[Excerpt], sample_rate: int) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: of the page.
        results: what results.json holds.
        excerpts: the worst stretches of the worst clips, in the order of the page.
        sample_rate: of the excerpts, Hz.
    """
    codec = results["codec"]
    title = f"Codec {codec['folder']}"
    parts = [f"<h1>{escape(title)}</h1>", paragraph("lead", codec_line(codec)), _metrics(results)]
    parts += [_codebooks(results), _listen(results, excerpts, sample_rate), _clips(results), left_out(results)]
    parts.append(protocol(results["protocol"], [("checksum of the codec", codec["checksum"])]))
    write_parts(path, title, parts)


def write_parts(path: Path, title: str, parts: Sequence[str]) -> None:
    """Writes a page of HTML parts in this style, whole or not at all."""
    page = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
    page += f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
    page += f"<body>{''.join(parts)}<script>{_SCRIPT}</script></body></html>\n"
    write_whole(path, page.encode())


def _metrics(results: Mapping[str, Any]) -> str:
    rows = []
    for metric in METRICS:
        score = results["metrics"][metric.key]
        what = f"{escape(metric.meaning)}; {metric.better} is better"
        if score["value"] is None:
            told = f'<td colspan="2">not computed: {escape(score["reason"])}</td><td>0</td>'
        else:
            told = f"<td>{number(score['value'])}</td><td>{interval(score) or escape(score['reason'])}</td>"
            told += f"<td>{score['n']:,}</td>"
        rows.append(f"<tr><th>{escape(metric.name)} {ARROWS[metric.better]}<small>{what}</small></th>{told}</tr>")
    head = "<th></th><th>mean</th><th>95 % interval over clips</th><th>clips</th>"
    return f"<h2>Figures</h2>{paragraph('quiet', heard_line(results))}{table(head, rows)}"


def _codebooks(results: Mapping[str, Any]) -> str:
    rows = [
        f'<tr><th>{index}</th><td class="wide"><div class="bar" style="width:{100 * book["use"]:.1f}%"></div></td>'
        f"<td>{book['use']:.1%}</td><td>{book['perplexity']:,.1f}</td><td>{book['bits']:.2f}</td></tr>"
        for index, book in enumerate(results["codebooks"])
    ]
    head = "<th>codebook</th><th class=left colspan=2>entries that occur</th><th>perplexity</th><th>bits a code</th>"
    entries = results["codec"]["entries"]
    said = f"{counted_line(results)}. A code out of {entries:,} can hold {math.log2(entries):.2f} bits."
    lines = [("Bitrate", bitrate_line(results)), ("Speed", speed_line(results))]
    return f"<h2>Codebooks, bitrate, speed</h2>{paragraph('quiet', said)}{table(head, rows)}{facts(lines)}"


def _listen(results: Mapping[str, Any], excerpts: Sequence[Excerpt], sample_rate: int) -> str:
    if not excerpts:
        return ""
    count = f"The {len(excerpts)} clips" if len(excerpts) > 1 else "The clip"
    said = (
        f"{count} of {results['n']:,} with the largest mel distance, worst first, each where it is worst. The sound is "
        "lossless. Starting one player while the other of a pair plays goes on in the same place. Spectrograms are mel "
        f"up to {sample_rate / 2000:g} kHz, low pitches at the bottom, 80 dB deep, both on the scale of the original."
    )
    clips = "".join(_excerpt(one, sample_rate) for one in excerpts)
    return f"<h2>Where it fails</h2>{paragraph('quiet', said)}{clips}"


def _excerpt(one: Excerpt, sample_rate: int) -> str:
    start, length = one.clip["worst_at"], one.original.shape[1] / sample_rate
    where = f"From {clock(start)} to {clock(start + length)} in the track"
    scores = ", ".join(
        f"{metric.name.removesuffix(', dB')} {number(one.clip[metric.key])}{' dB' if metric.key == 'si_sdr' else ''}"
        for metric in METRICS
        if one.clip[metric.key] is not None
    )
    pictures = compare_spectrograms(one.original.mean(0), one.reconstruction.mean(0), sample_rate)
    takes = take("Original", one.original, sample_rate, pictures.original)
    takes += take("Reconstruction", one.reconstruction, sample_rate, pictures.reconstruction)
    scale = f'<div class="scale"><div class="colours"></div><div class="ends"><span>missing, -{LARGEST_DIFFERENCE:g} dB'
    scale += f"</span><span>added, {LARGEST_DIFFERENCE:g} dB</span></div></div>"
    picture = f'<img alt="Difference of the spectrograms" src="{pictures.difference}">'
    takes += f"<div><h4>Difference</h4>{scale}{picture}</div>"
    head = f"<h3>{escape(one.clip['id'])}<small>{where}. The whole clip: {escape(scores)}</small></h3>"
    return f'<article class="clip">{head}<div class="takes">{takes}</div></article>'


def take(name: str, wav: Tensor, sample_rate: int, picture: str) -> str:
    """A player of [C, N] and its spectrogram; names come from users."""
    name = escape(name)
    player = (
        f'<audio controls preload="metadata" aria-label="{name}" src="{encode_lossless(wav, sample_rate)}"></audio>'
    )
    return f'<div><h4>{name}</h4>{player}<img alt="Mel spectrogram, {name.lower()}" src="{picture}"></div>'


def _clips(results: Mapping[str, Any]) -> str:
    clips = sorted(results["clips"], key=lambda clip: -clip["mel_distance"])
    shown = [metric for metric in METRICS if results["metrics"][metric.key]["n"]]
    head = "<th>clip</th><th>length</th>"
    head += "".join(f"<th>{escape(metric.name)} {ARROWS[metric.better]}</th>" for metric in shown)
    rows = [
        f"<tr><td>{escape(clip['id'])}</td><td>{clock(clip['seconds'])}</td>"
        + "".join(f"<td>{number(clip[metric.key])}</td>" for metric in shown)
        + f"<td>{clock(clip['worst_at'])}</td></tr>"
        for clip in clips[:_MOST_ROWS]
    ]
    more = f"The worst {_MOST_ROWS}; results.json has all {len(clips):,}. " if len(clips) > _MOST_ROWS else ""
    said = f"{more}Worst first, by mel distance. A dash: the original is silent, or too short for that measure."
    return f"<h2>Clips</h2>{paragraph('quiet', said)}{table(f'{head}<th>worst at</th>', rows)}"


def left_out(results: Mapping[str, Any]) -> str:
    """What could not be measured, as a section; nothing where all could."""
    if not results["failed"]:
        return ""
    rows = [(failure["id"], failure["reason"]) for failure in results["failed"]]
    return f"<h2>Left out</h2>{paragraph('quiet', 'These are in no figure.')}{facts(rows)}"


def protocol(described: Mapping[str, Any], first: Sequence[tuple[str, str]] = ()) -> str:
    """The part of results.json of that name as a section, after some ``first`` lines."""
    rows = list(first)
    for name, value in described.items():
        if isinstance(value, Mapping):
            rows += [(f"{name}, {part}", str(told)) for part, told in value.items()]
        else:
            rows.append((name, "none" if value is None else str(value)))
    return f"<h2>Protocol</h2>{facts([(name.replace('_', ' '), value) for name, value in rows])}"


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and what is said of them."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in rows)}</dl>"


def table(head: str, rows: Sequence[str]) -> str:
    """A table of HTML rows, scrolled sideways where the page is narrow."""
    content = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{content}</div>'


def paragraph(kind: str, text: str) -> str:
    """Text in a paragraph of a class."""
    return f'<p class="{kind}">{escape(text)}</p>'


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
