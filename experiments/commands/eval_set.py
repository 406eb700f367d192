"""``mgl eval-set``: references to score against, of one stated length, with a checksum."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

# For each kind the flags that it needs, and the defaults of those that it takes besides. No other has an effect on it.
KINDS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "held-out": (("manifest",), {"split": "test", "seconds": 10.0, "per_track": 1, "tracks": 0, "seed": 0}),
    "melody": (("manifest",), {"split": "test", "seconds": 30.0, "clips": 1000, "seed": 0}),
    "musiccaps": (("csv", "audio"), {"seconds": 10.0, "balanced": False, "whole": False}),
    "song-describer": (("csv", "audio"), {"seconds": 30.0, "valid": False}),
}


def eval_set(
    out: str,
    kind: str = "held-out",
    manifest: str | None = None,
    split: str | None = None,
    seconds: float | None = None,
    per_track: int | None = None,
    tracks: int | None = None,
    clips: int | None = None,
    seed: int | None = None,
    csv: str | None = None,
    audio: str | None = None,
    balanced: bool | None = None,
    whole: bool | None = None,
    valid: bool | None = None,
    sample_rate: int = 32000,
    verify: bool = False,
) -> None:
    """Makes an evaluation set: OUT/manifest.jsonl, its clips, and OUT/set.json with a checksum over all that is scored.

    The result is a reference set and a prompt file in one. Kinds: held-out (clips of a manifest's tracks, no artist of
    which is trained on), melody (the same, and each clip is its own melody), musiccaps and song-describer (from their
    public CSV and the audio you have). What gives no clip is listed in OUT/missing.jsonl. An interrupted run goes on
    where it stopped.

    Args:
        out: folder for the clips and their manifest.
        kind: "held-out", "melody", "musiccaps" or "song-describer".
        manifest: held-out, melody: a manifest.jsonl, or a folder that holds one.
        split: held-out, melody: which tracks; "test" by default.
        seconds: length of every clip; by default 10, for melody and song-describer 30.
        per_track: held-out: clips of a track, at most; they never overlap. 1 by default.
        tracks: held-out: how many tracks, at most; the artists take turns. 0, the default, takes them all.
        clips: melody: how many, at most; 1000 by default.
        seed: held-out, melody: draws the tracks; 0 by default.
        csv: musiccaps: musiccaps-public.csv; song-describer: song_describer.csv.
        audio: musiccaps, song-describer: folder of the audio, searched with the folders in it.
        balanced: musiccaps: true keeps the genre-balanced 1,000 clips only.
        whole: musiccaps: true says that files named after a video alone are the whole video.
        valid: song-describer: true keeps the captions that were found valid only.
        sample_rate: Hz of the clips.
        verify: true makes nothing, but reads the set in OUT again and compares its checksum.
    """
    import datamodules.eval_sets as sets
    from experiments.console import progress, require_folder

    flags = {
        **{"manifest": manifest, "split": split, "seconds": seconds, "per_track": per_track, "tracks": tracks},
        **{"clips": clips, "seed": seed, "csv": csv, "audio": audio},
        **{"balanced": balanced, "whole": whole, "valid": valid},
    }
    made: dict[str, Callable[..., sets.SetRecord]] = {
        "held-out": sets.held_out_set,
        "melody": sets.melody_set,
        "musiccaps": sets.musiccaps_set,
        "song-describer": sets.song_describer_set,
    }
    chosen = _chosen(kind, flags, sample_rate, verify)
    bar = progress()
    task = bar.add_task("checking" if verify else "clips")
    with ExitStack() as stack:

        def advance(done: int, total: int) -> None:
            if not bar.live.is_started:  # with the first clip: what is wrong before is said without a bar
                stack.enter_context(bar)
            bar.update(task, completed=done, total=total)

        if verify:
            record = sets.verify(out, advance)
        else:
            record = made[kind](out=require_folder(out), sample_rate=sample_rate, progress=advance, **chosen)
    _say(record, out)


def _chosen(kind: str, flags: dict[str, Any], sample_rate: int, verify: bool) -> dict[str, Any]:
    """The settings of a kind: what was given, and defaults for the rest."""
    from datamodules.errors import InputError

    if kind not in KINDS:
        raise InputError(f"there is no --kind {kind!r}; choose {', '.join(KINDS)}")
    needed, defaults = KINDS[kind]
    given = {name: value for name, value in flags.items() if value is not None}
    if verify:
        if given:
            raise InputError(f"{', '.join(f'--{name}' for name in given)}: no effect on --verify; leave it out")
        return {}
    missing = [f"--{name}" for name in needed if name not in given]
    if missing:
        raise InputError(f"--kind {kind} needs {' and '.join(missing)}")
    idle = [f"--{name}" for name in given if name not in needed and name not in defaults]
    if idle:
        raise InputError(f"{', '.join(idle)}: no effect on --kind {kind}; leave it out")
    chosen: dict[str, Any] = {**defaults, **given}
    if not 0 < chosen["seconds"] < float("inf") or sample_rate < 1:
        raise InputError("--seconds and --sample_rate must be positive")
    for name, least in (("per_track", 1), ("tracks", 0), ("clips", 1)):
        if chosen.get(name, least) < least:
            raise InputError(f"--{name} must be at least {least}")
    return chosen


def _say(record: Any, out: str) -> None:
    artists = f" by {record.artists} artists" if record.artists else ""
    print(f"reference clips: {record.clips} of {record.seconds:g} s from {record.tracks} tracks{artists} in {out}")
    if record.missing:
        print(f"missing: {record.missing}, listed with their reasons in {out}/missing.jsonl")
    if record.note:
        print(f"note: {record.note}")
    print(f"checksum: {record.checksum}")
