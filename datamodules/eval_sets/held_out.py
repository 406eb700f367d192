"""The in-domain set: clips of tracks that no model was trained on, chosen so that no artist dominates.

The paper's has 528 tracks and shares no artist with its training data (section 4.2 of arXiv 2306.05284).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

from datamodules.errors import InputError
from datamodules.eval_sets.building import artist_of, build_set
from datamodules.eval_sets.clips import TOLERANCE, Wanted
from datamodules.eval_sets.record import Progress, SetRecord, no_progress, shortened
from datamodules.manifest import Manifest, Track, read_manifest
from datamodules.sample_order import uniform

TRAINING = "train"
# Facts of a track's file, which are not those of a mono clip of it.
_OF_THE_FILE = ("audio_hash", "channels", "loudness", "peak")
_LONGEST_NAME = 150


def held_out_set(
    manifest: str | Path,
    out: str | Path,
    *,
    split: str = "test",
    seconds: float = 10.0,
    per_track: int = 1,
    tracks: int = 0,
    sample_rate: int = 32000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> SetRecord:
    """Cuts clips from the tracks of a split and writes them with a manifest.

    Clips of a track are spread evenly over it and never overlap; a track that is too short gives fewer, or none.

    Args:
        manifest: where the tracks are.
        out: folder for the clips and their ``manifest.jsonl``.
        split: which tracks.
        seconds: length of every clip.
        per_track: clips of a track, at most.
        tracks: how many tracks, at most: one of every artist before a second of any; 0 takes them all.
        sample_rate: Hz of the clips.
        seed: draws the tracks; which are drawn does not depend on their order in the manifest.
        progress: called after every clip.

    Returns:
        The set's record. Its clips have ids of the form "<track id>-<number>", and their track's caption and facts.

    Raises:
        InputError: not one track is long enough, an artist of the set is also in the training split, or ``out`` is the
            manifest's own folder.
    """
    held = HeldOut(manifest, out, split, seconds)
    chosen = held.long_enough
    if tracks:
        drawn = {track.id for track in by_artist(chosen, seed)[:tracks]}
        chosen = [track for track in chosen if track.id in drawn]
    counts = {track.id: min(per_track, room(track, seconds)) for track in chosen}
    return build_set(
        out,
        held.clips(counts),
        kind="held-out",
        seconds=seconds,
        sample_rate=sample_rate,
        settings={"split": split, "per_track": per_track, "tracks": tracks, "seed": seed},
        missing=held.too_short,
        note=held.check_artists(chosen),
        progress=progress,
    )


class HeldOut:
    """The tracks of a split, and what can be cut from them.

    Attributes:
        manifest: all tracks, those of other splits too.
        long_enough: the split's tracks that hold a clip, in the order of the manifest.
        too_short: the others, as ``{"id", "reason"}``.

    Raises:
        InputError: the manifest has no such split or none of its tracks is long enough, or ``out`` is its folder.
    """

    def __init__(self, manifest: str | Path, out: str | Path, split: str, seconds: float) -> None:
        self.manifest: Manifest = read_manifest(manifest)
        self.seconds = seconds
        if self.manifest.path.parent.resolve() == Path(out).resolve():
            raise InputError(f"{out}: is the manifest's own folder; give another --out")
        self.long_enough: list[Track] = []
        self.too_short: list[dict[str, str]] = []
        for track in self.manifest.split(split):
            if room(track, seconds):
                self.long_enough.append(track)
            else:
                reason = f"lasts {track.duration:.2f} s, shorter than a clip of {seconds:g} s"
                self.too_short.append({"id": track.id, "reason": reason})
        if not self.long_enough:
            raise InputError(f"{manifest}: no track of split {split!r} lasts {seconds:g} s; ask for shorter clips")

    def clips(self, counts: Mapping[str, int]) -> list[Wanted]:
        """So many clips of each track, by its id, in the order of the manifest."""
        return [one for track in self.long_enough for one in self._clips_of(track, counts.get(track.id, 0))]

    def _clips_of(self, track: Track, count: int) -> list[Wanted]:
        gap = max(0.0, track.duration - count * self.seconds) / max(1, count)
        facts = {name: value for name, value in track.facts.items() if name not in _OF_THE_FILE}
        clips = []
        for number in range(count):
            start = number * (self.seconds + gap) + gap / 2
            clips.append(
                Wanted(
                    id=f"{clip_name(track.id)}-{number}",
                    locate=partial(self._locate, track, start),
                    caption=track.caption,
                    split=track.split,
                    facts={**facts, "track": track.id, "start": round(start, 3)},
                )
            )
        return clips

    def _locate(self, track: Track, start: float) -> tuple[Path, float]:
        return self.manifest.file(track), start

    def check_artists(self, chosen: Sequence[Track]) -> str:
        """Makes sure that none of the artists is trained on.

        Returns:
            What could not be made sure of, for the set's record.

        Raises:
            InputError: it lists the artists that are on both sides.
        """
        named = {artist_of(track): str(track.facts.get("artist")) for track in chosen}
        trained = self.manifest.split(TRAINING) if TRAINING in self.manifest.splits else ()
        both = {artist for track in trained if (artist := artist_of(track))} & named.keys()
        if both:
            names = shortened(sorted(named[artist] for artist in both))
            raise InputError(
                f"{self.manifest.path}: artists of the set are also in split {TRAINING!r}: {names}; "
                f"split the manifest by artist (`mgl manifest` does)"
            )
        unnamed = sum(not artist_of(track) for track in chosen)
        if unnamed == len(chosen):
            return f"no track of the set names its artist: whether any is also in split {TRAINING!r} is not known"
        if unnamed:
            return (
                f"{unnamed} of {len(chosen)} tracks name no artist: whether theirs are also in split {TRAINING!r} "
                f"is not known"
            )
        return ""


def room(track: Track, seconds: float) -> int:
    """How many clips fit into a track without overlap."""
    return max(int(track.duration / seconds), int(track.duration >= seconds - TOLERANCE))


def by_artist(tracks: Sequence[Track], seed: int) -> list[Track]:
    """Tracks in an order that has one of every artist before a second of any.

    Where a track comes is a pure function of the seed and of the ids and artists, not of their order. A track without
    an artist counts as one of an artist of its own.
    """
    turns: Counter[str] = Counter()
    keys = {}
    for track in sorted(tracks, key=lambda track: (uniform(seed, 0, f"held-out track {track.id}"), track.id)):
        artist = artist_of(track) or f"\0{track.id}"
        keys[track.id] = (turns[artist], uniform(seed, 0, f"held-out artist {artist}"), artist)
        turns[artist] += 1
    return sorted(tracks, key=lambda track: keys[track.id])


def clip_name(track: str) -> str:
    """A track's id as part of a file's name that every command takes; a hash tells apart what would become alike."""
    name = re.sub(r"[^\w .-]", "_", track.replace("/", "--"))[:_LONGEST_NAME].lstrip(" .-")
    if name == track.replace("/", "--") and len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = sha256(track.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{name.encode()[:_LONGEST_NAME].decode(errors='ignore')}_{digest}"
