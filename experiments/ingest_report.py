"""What an ingest found, in lines for a terminal."""

from collections import Counter

from datamodules.ingest import Summary
from datamodules.ingest.judging import kind_of


def ingest_lines(summary: Summary) -> list[str]:
    """The lines: what was kept by split, what was refused by reason, remarks, and where it all lies."""
    lines = [f"kept {len(summary.tracks):,} tracks, {summary.hours:.2f} h ({summary.inspected:,} decoded this time)"]
    for split in ("train", "valid", "test"):
        side = [track for track in summary.tracks if track.split == split]
        hours = sum(track.duration for track in side) / 3600
        artists = len({str(track.facts["artist"]) for track in side if track.facts.get("artist")})
        lines.append(f"  {split:<6} {len(side):>7,} tracks {hours:>10.2f} h  {artists:>6,} artists")
    reasons = Counter(kind_of(reason) for _, reason in summary.rejected)
    lines.append(f"refused {len(summary.rejected):,} files")
    lines += [f"  {count:>7,} {reason}" for reason, count in reasons.most_common()]
    if summary.others:
        names = ", ".join(f"{count:,} {suffix}" for suffix, count in summary.others.most_common(6))
        lines.append(f"passed over, no audio by their names: {names}")
    captioned = sum(bool(track.caption) for track in summary.tracks)
    if captioned < len(summary.tracks):
        lines.append(
            f"without a caption: {len(summary.tracks) - captioned:,}; --captions or a .json beside a track gives one"
        )
    lines += [f"note: {remark}" for remark in summary.remarks]
    folder = summary.folder
    return [*lines, f"{folder}/manifest.jsonl, {folder}/rejected.jsonl; to look at: {folder}/music.html"]
