"""The Song Describer Dataset (arXiv 2311.10057): 706 two-minute excerpts, with one to five captions each."""

from functools import partial
from pathlib import Path, PurePosixPath

from datamodules.errors import InputError
from datamodules.eval_sets.building import build_set
from datamodules.eval_sets.clips import Wanted
from datamodules.eval_sets.published import AudioFolder, Row, file_digest, first_of_each, read_table
from datamodules.eval_sets.record import Progress, SetRecord, no_progress

_COLUMNS = ("caption_id", "track_id", "caption", "is_valid_subset", "artist_id", "path")


def song_describer_set(
    csv: str | Path,
    audio: str | Path,
    out: str | Path,
    *,
    seconds: float = 30.0,
    valid: bool = False,
    sample_rate: int = 32000,
    progress: Progress = no_progress,
) -> SetRecord:
    """Makes an evaluation set of the Song Describer Dataset from its CSV and the audio that is at hand.

    A line of the manifest is a caption, and its id is the caption's; captions of one track share its clip, which is the
    beginning of the excerpt.

    Args:
        csv: ``song_describer.csv``.
        audio: folder of the unpacked ``audio.zip``; "34/1004034.mp3" of the CSV is found as "1004034.2min.mp3" or
            "1004034" with any suffix, in any folder.
        out: folder for the clips and their ``manifest.jsonl``.
        seconds: length of every clip.
        valid: keep the captions that the dataset's authors found valid only (746 of 1,106).
        sample_rate: Hz of the clips.
        progress: called after every caption.

    Returns:
        The set's record; its ``clips`` count captions.

    Raises:
        InputError: the CSV or the folder cannot be used, or not one track is at hand.
    """
    rows = read_table(csv, _COLUMNS)
    folder = AudioFolder(audio, out)
    if valid:
        rows = [row for row in rows if row.is_true("is_valid_subset")]
        if not rows:
            raise InputError(f"{csv}: no line has is_valid_subset; leave --valid out")
    wanted, repeated = first_of_each([(row, _caption(row, folder)) for row in rows], "caption_id")
    return build_set(
        out,
        wanted,
        kind="song-describer",
        seconds=seconds,
        sample_rate=sample_rate,
        settings={"csv_sha256": file_digest(csv), "valid": valid},
        missing=repeated,
        progress=progress,
    )


def _caption(row: Row, folder: AudioFolder) -> Wanted:
    caption, track = row["caption_id"].strip(), row["track_id"].strip()
    if not (caption.isdecimal() and track.isdecimal()):
        raise InputError(f"{row.where}: caption_id and track_id must be whole numbers")
    stem = PurePosixPath(row["path"]).stem.removesuffix(".2min")
    return Wanted(
        id=caption,
        locate=partial(_locate, folder, stem or track),
        caption=row["caption"].strip(),
        facts={
            "track": track,
            "start": 0.0,
            "artist": row["artist_id"].strip(),
            "valid": row.is_true("is_valid_subset"),
        },
        name=f"track-{track}",
    )


def _locate(folder: AudioFolder, stem: str) -> tuple[Path, float]:
    return folder.find([f"{stem}.2min", stem]), 0.0
