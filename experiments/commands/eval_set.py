"""``mgl eval-set``: reference clips from held-out tracks."""


def eval_set(manifest: str, out: str, split: str = "test", seconds: float = 10.0, per_track: int = 1) -> None:
    """Cuts reference clips of one length from the tracks of a split.

    The result is a reference set and a prompt file in one.

    Args:
        manifest: a manifest.jsonl, or a folder that holds one.
        out: folder for the clips and their manifest.
        split: which tracks.
        seconds: length of every clip.
        per_track: clips of a track, at most; they never overlap.
    """
    from datamodules.errors import InputError
    from datamodules.eval_sets import held_out_set
    from experiments.console import require_folder

    if seconds <= 0 or per_track < 1:
        raise InputError("--seconds must be positive and --per_track at least 1")
    clips = held_out_set(manifest, require_folder(out), split=split, seconds=seconds, per_track=per_track)
    print(f"reference clips: {len(clips)} of {seconds:g} s in {out}")
