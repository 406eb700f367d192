"""A page about a manifest: how long, how loud, from whom, what was refused. Plain HTML; it loads nothing."""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.ingest.judging import kind_of
from datamodules.manifest import Track
from datamodules.whole_files import write_whole

FILE_NAME = "music.html"
_MOST = 12  # rows of a list before the rest is summed up
_STYLE = """
:root { color-scheme: light dark; --bar: #4477aa; --dim: #777; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.05rem; margin: 0 0 .5rem; }
.lead { color: var(--dim); margin-top: 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 2rem; margin: 2rem 0; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
td { padding: .1rem .4rem .1rem 0; vertical-align: middle; }
td.name { width: 40%; overflow-wrap: anywhere; } td.track { width: 40%; }
td.count { text-align: right; white-space: nowrap; color: var(--dim); }
.bar { background: var(--bar); height: .7rem; border-radius: 2px; min-width: 1px; }
.remark { border-left: 4px solid #cc6677; padding: .3rem .8rem; }
"""


def write_page(
    path: Path,
    tracks: Sequence[Track],
    rejected: Sequence[tuple[str, str]],
    others: Counter[str],
    remarks: Sequence[str],
) -> None:
    """Writes the page, whole or not at all."""
    hours = sum(track.duration for track in tracks) / 3600
    lead = f"{len(tracks):,} tracks, {hours:,.2f} hours; {len(rejected):,} files refused"
    parts = [f"<h1>Music in {escape(path.parent.name or str(path.parent))}</h1>", f'<p class="lead">{lead}</p>']
    parts += [f'<p class="remark">{escape(remark)}</p>' for remark in remarks]
    parts.append('<div class="grid">')
    parts += [_section(title, rows, unit) for title, rows, unit in _sections(tracks, rejected, others) if rows]
    parts.append("</div>")
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(path.parent.name)}: music</title>'
    page += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    page += f"<style>{_STYLE}</style>{''.join(parts)}</html>\n"
    write_whole(path, page.encode())


def _sections(
    tracks: Sequence[Track], rejected: Sequence[tuple[str, str]], others: Counter[str]
) -> list[tuple[str, list[tuple[str, float]], str]]:
    seconds = [track.duration for track in tracks]
    loud = [float(track.facts["loudness"]) for track in tracks if "loudness" in track.facts]
    known = Counter(name for track in tracks for name in _KNOWN if track.facts.get(name))
    known["caption"] = sum(bool(track.caption) for track in tracks)
    shares = [(name, known[name]) for name in ("caption", *_KNOWN) if known[name]]
    return [
        ("Split, hours", _by(tracks, lambda track: track.split), "h"),
        ("Source, hours", _by(tracks, lambda track: str(track.facts.get("source", ""))), "h"),
        ("Duration", _histogram(seconds, [0, 10, 30, 60, 120, 240, 480, 900, 3600], "s"), ""),
        ("Loudness", _histogram(loud, [-60, -35, -30, -25, -20, -17, -14, -11, -8, -5], "LUFS"), ""),
        ("Sample rate", _count(f"{track.sample_rate:,} Hz" for track in tracks), ""),
        ("Channels", _count(str(track.facts.get("channels", "?")) for track in tracks), ""),
        ("Format", _count(str(track.facts.get("format", "?")) for track in tracks), ""),
        ("What is known, tracks", [(name, float(count)) for name, count in shares], ""),
        ("Genre", _count(str(track.facts["genre"]) for track in tracks if track.facts.get("genre")), ""),
        ("Artist, hours", _by(tracks, lambda track: str(track.facts.get("artist", "(not named)"))), "h"),
        ("Licence, hours", _by(tracks, lambda track: str(track.facts.get("licence", "(not named)"))), "h"),
        ("Refused", _count(kind_of(reason) for _, reason in rejected), ""),
        ("Not audio by name", _count(name for name, n in others.items() for _ in range(n)), ""),
    ]


_KNOWN = (
    "title",
    "artist",
    "album",
    "genre",
    "bpm",
    "key",
    "moods",
    "keywords",
    "instrument",
    "licence",
    "attribution",
)


def _by(tracks: Sequence[Track], name: Any) -> list[tuple[str, float]]:
    hours: Counter[str] = Counter()
    for track in tracks:
        hours[name(track)] += track.duration / 3600  # type: ignore[assignment]
    return _most(hours)


def _count(values: Iterable[str]) -> list[tuple[str, float]]:
    return _most(Counter(values))


def _most(counts: Any) -> list[tuple[str, float]]:
    rows = counts.most_common()
    if len(rows) > _MOST:
        rest = rows[_MOST - 1 :]
        rows = [*rows[: _MOST - 1], (f"{len(rest)} others", sum(count for _, count in rest))]
    return [(name, float(count)) for name, count in rows]


def _histogram(values: Sequence[float], borders: Sequence[float], unit: str) -> list[tuple[str, float]]:
    if not values:
        return []
    counts, _ = np.histogram(values, [-np.inf, *borders, np.inf])
    names = [f"under {borders[0]:g} {unit}"]
    names += [f"{low:g} to {high:g} {unit}" for low, high in pairwise(borders)]
    names.append(f"{borders[-1]:g} {unit} and more")
    filled = np.flatnonzero(counts)
    return [(names[place], float(counts[place])) for place in range(filled[0], filled[-1] + 1)]


def _section(title: str, rows: Sequence[tuple[str, float]], unit: str) -> str:
    largest = max(count for _, count in rows) or 1
    lines = [
        f'<tr><td class="name">{escape(name or "(none)")}</td>'
        f'<td class="track"><div class="bar" style="width:{100 * count / largest:.1f}%"></div></td>'
        f'<td class="count">{f"{count:.2f} {unit}" if unit else f"{count:,.0f}"}</td></tr>'
        for name, count in rows
    ]
    return f"<section><h2>{escape(title)}</h2><table>{''.join(lines)}</table></section>"
