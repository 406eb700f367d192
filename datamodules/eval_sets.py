"""Evaluation sets: a manifest of reference clips of one length, cut from held-out tracks."""

from pathlib import Path

from datamodules.audio_io import read_audio, write_audio
from datamodules.errors import InputError
from datamodules.manifest import FILE_NAME, Track, read_manifest, write_manifest


def held_out_set(
    manifest: str | Path, out: str | Path, *, split: str, seconds: float, per_track: int, sample_rate: int = 32000
) -> list[Track]:
    """Cuts clips from the tracks of a split and writes them with a manifest.

    Clips of a track are spread evenly over it and never overlap; a track that is too short gives fewer, or none.

    Args:
        manifest: where the tracks are.
        out: folder for the clips and their ``manifest.jsonl``.
        split: which tracks.
        seconds: length of every clip.
        per_track: clips of a track, at most.
        sample_rate: Hz of the clips.

    Returns:
        The clips, of the form "<track id>-<number>", each with its track's caption and facts.

    Raises:
        InputError: not one track is long enough.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for track in read_manifest(manifest, split):
        count = min(per_track, int(track.duration / seconds))
        gap = (track.duration - count * seconds) / max(1, count)
        for number in range(count):
            start = number * (seconds + gap) + gap / 2
            wav = read_audio(track.path, sample_rate=sample_rate, start=start, duration=seconds)
            name = f"{track.id.replace('/', '--')}-{number}"
            path = folder / f"{name}.flac"
            write_audio(path, wav, sample_rate)
            facts = {**track.facts, "track": track.id, "start": round(start, 3)}
            clips.append(Track(name, path, wav.shape[-1] / sample_rate, sample_rate, track.caption, split, facts))
    if not clips:
        raise InputError(f"{manifest}: no track of split {split!r} lasts {seconds} s; ask for shorter clips")
    write_manifest(folder / FILE_NAME, clips)
    return clips
