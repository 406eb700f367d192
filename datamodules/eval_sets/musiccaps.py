"""MusicCaps (arXiv 2301.11325): 5,521 ten-second clips of videos, with captions and aspects written by musicians.

The CSV is public; the audio is not, so everybody has their own part of it, under names of their own.
"""

import ast
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from datamodules.audio_io import audio_length
from datamodules.errors import InputError
from datamodules.eval_sets.building import build_set
from datamodules.eval_sets.clips import Wanted
from datamodules.eval_sets.published import AudioFolder, Row, file_digest, first_of_each, read_table
from datamodules.eval_sets.record import Progress, SetRecord, no_progress

SECONDS = 10.0
_COLUMNS = ("ytid", "start_s", "end_s", "aspect_list", "caption", "is_balanced_subset")
# A file of up to so many seconds is a clip already; from so many on it is a whole video. Cutters are not exact.
_CLIP_LASTS, _VIDEO_LASTS = 11.0, 20.0


def musiccaps_set(
    csv: str | Path,
    audio: str | Path,
    out: str | Path,
    *,
    seconds: float = SECONDS,
    balanced: bool = False,
    whole: bool = False,
    sample_rate: int = 32000,
    progress: Progress = no_progress,
) -> SetRecord:
    """Makes an evaluation set of MusicCaps from its CSV and the clips that are at hand.

    A clip's id is "Y" and the video's id, as AudioSet names its files: those of videos may begin with "-", which no
    command takes for a name.

    Args:
        csv: ``musiccaps-public.csv``.
        audio: folder with the clips, or the whole videos; see ``file_names`` for what they may be called.
        out: folder for the clips and their ``manifest.jsonl``.
        seconds: length of every clip, 10 at most; a shorter one is the beginning of MusicCaps' own.
        balanced: keep the genre-balanced subset of 1,000 clips only.
        whole: files whose name does not say from when to when are whole videos.
        sample_rate: Hz of the clips.
        progress: called after every clip.

    Returns:
        The set's record.

    Raises:
        InputError: the CSV or the folder cannot be used, or not one clip is at hand.
    """
    if not 0 < seconds <= SECONDS:
        raise InputError(f"--seconds {seconds:g}: the clips of MusicCaps last {SECONDS:g} s; ask for no more")
    rows = read_table(csv, _COLUMNS)
    folder = AudioFolder(audio, out)
    if balanced:
        rows = [row for row in rows if row.is_true("is_balanced_subset")]
        if not rows:
            raise InputError(f"{csv}: no line has is_balanced_subset; leave --balanced out")
    wanted, repeated = first_of_each([(row, _clip(row, folder, whole)) for row in rows], "ytid")
    return build_set(
        out,
        wanted,
        kind="musiccaps",
        seconds=seconds,
        sample_rate=sample_rate,
        settings={"csv_sha256": file_digest(csv), "balanced": balanced, "whole": whole},
        missing=repeated,
        progress=progress,
    )


def _clip(row: Row, folder: AudioFolder, whole: bool) -> Wanted:
    video, start, end = row["ytid"].strip(), row.number_in("start_s"), row.number_in("end_s")
    if not video or end <= start:
        raise InputError(f"{row.where}: ytid, start_s and end_s do not name a part of a video")
    return Wanted(
        id=f"Y{video}",
        locate=partial(_locate, folder, video, start, end, whole),
        caption=row["caption"].strip(),
        facts={
            "track": video,
            "start": start,
            "aspects": _aspects(row),
            "balanced": row.is_true("is_balanced_subset"),
        },
    )


def _aspects(row: Row) -> list[str]:
    """The aspects, which stand in their cell as Python would write a list of strings."""
    try:
        aspects = ast.literal_eval(row["aspect_list"].strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        aspects = None
    if not isinstance(aspects, list) or not all(isinstance(aspect, str) for aspect in aspects):
        raise InputError(f"{row.where}: aspect_list is no list of strings")
    return aspects


def _locate(folder: AudioFolder, video: str, start: float, end: float, whole: bool) -> tuple[Path, float]:
    names = list(file_names(video, start, end))
    path = folder.find(names)
    frames, rate = audio_length(path)
    lasts = frames / rate
    named_after_video = path.stem in (video, f"Y{video}") or path.stem.endswith(f"[{video}]")
    if whole and named_after_video and lasts > _CLIP_LASTS:
        return path, start
    if lasts >= _VIDEO_LASTS:
        raise InputError(f"{path}: lasts {lasts:.0f} s, so it is no clip; for whole videos say --whole true")
    return path, 0.0


def file_names(video: str, start: float, end: float) -> Iterator[str]:
    """What a clip's file may be called, without its suffix, the likeliest name first.

    "[ytid]-[30-40]", "ytid_30_40", "ytid-30-40", "ytid_30-40", "ytid_30", with times in seconds ("30", "30.0",
    "30.000") or milliseconds, with or without AudioSet's "Y" before the id; else "ytid", "Yytid", or, as yt-dlp has it,
    any title followed by "[ytid]".
    """
    times = [
        *((f"{start:g}", f"{end:g}"), (f"{start:.1f}", f"{end:.1f}"), (f"{start:.3f}", f"{end:.3f}")),
        (f"{start * 1000:.0f}", f"{end * 1000:.0f}"),
    ]
    for first, last in times:
        yield f"[{video}]-[{first}-{last}]"
    for name in (video, f"Y{video}"):
        for first, last in times:
            yield from (f"{name}_{first}_{last}", f"{name}-{first}-{last}", f"{name}_{first}-{last}")
    for name in (video, f"Y{video}"):
        yield from (f"{name}_{first}" for first, _ in times)
    yield from (video, f"Y{video}", f"[{video}]")
