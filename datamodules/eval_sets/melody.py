"""The melody set: clips of held-out tracks that serve as prompt, melody and reference at once.

The paper measures how well a generated melody follows the given one on 1,000 such files (section 3.3 of
arXiv 2306.05284).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.eval_sets.building import build_set
from datamodules.eval_sets.held_out import HeldOut, by_artist, room
from datamodules.eval_sets.record import Progress, SetRecord, no_progress
from datamodules.manifest import Track


def melody_set(
    manifest: str | Path,
    out: str | Path,
    *,
    split: str = "test",
    seconds: float = 30.0,
    clips: int = 1000,
    sample_rate: int = 32000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> SetRecord:
    """Cuts clips of held-out tracks; each line of the manifest has ``melody``, the path of its own audio.

    Every track gives one clip before any gives a second, and among tracks the artists take turns. Clips of a track are
    spread evenly over it and never overlap.

    Args:
        manifest: where the tracks are.
        out: folder for the clips and their ``manifest.jsonl``.
        split: which tracks.
        seconds: length of every clip.
        clips: how many, at most; fewer if the split does not hold as many.
        sample_rate: Hz of the clips.
        seed: draws the tracks; which are drawn does not depend on their order in the manifest.
        progress: called after every clip.

    Returns:
        The set's record.

    Raises:
        InputError: as ``held_out_set``.
    """
    held = HeldOut(manifest, out, split, seconds)
    counts = _share(by_artist(held.long_enough, seed), clips, seconds)
    chosen = [track for track in held.long_enough if counts[track.id]]
    wanted = held.clips(counts)
    return build_set(
        out,
        [replace(one, facts={**one.facts, "melody": one.file}) for one in wanted],
        kind="melody",
        seconds=seconds,
        sample_rate=sample_rate,
        settings={"split": split, "clips": clips, "seed": seed},
        missing=held.too_short,
        note=held.check_artists(chosen),
        progress=progress,
    )


def _share(tracks: Sequence[Track], clips: int, seconds: float) -> Counter[str]:
    """How many clips each track gives: one more of every track that has room, round after round."""
    rooms = {track.id: room(track, seconds) for track in tracks}
    counts: Counter[str] = Counter()
    while clips and any(counts[name] < most for name, most in rooms.items()):
        for track in tracks:
            if clips and counts[track.id] < rooms[track.id]:
                counts[track.id] += 1
                clips -= 1
    return counts
