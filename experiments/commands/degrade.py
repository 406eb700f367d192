"""``mgl degrade``: real music made worse, to see whether an evaluation notices."""


def degrade(
    manifest: str,
    out: str,
    kind: str,
    level: float | None = None,
    share: float = 1.0,
    split: str = "",
    codec: str = "embedded",
    seed: int = 0,
) -> None:
    """Writes tracks made worse by a known amount, as a folder that `mgl evaluate --generated` takes.

    Every metric of an evaluation that can be trusted gets worse with the amount. The tracks keep their ids, so they
    pair with those they were made of.

    Args:
        manifest: manifest.jsonl, or a folder that holds one.
        out: folder for the clips, their manifest and system.json.
        kind: "noise" (level: dB that white noise lies below the music), "low-pass" (Hz), "codec" (codebooks that are
            decoded), "transpose" (semitones up) or "captions" (those of other tracks; no level).
        level: how much, in the kind's unit.
        share: of the tracks that it is done to; the others are copied.
        split: only the tracks of this split; by default all.
        codec: folder of a codec, or "embedded", for the kind "codec".
        seed: draws the share, and the noise.
    """
    from dataclasses import replace
    from pathlib import Path

    from datamodules.manifest import read_manifest
    from experiments.console import progress, require_folder
    from experiments.degrading import Degradation, coarse_codec, degrade_tracks

    tracks = read_manifest(manifest, split or None)
    how = Degradation(kind, level, share, seed)
    if how.kind == "codec":
        how = replace(how, codec=coarse_codec(codec, how.level or 0))
    folder: Path = require_folder(out)
    with progress() as bar:
        task = bar.add_task("degrading", total=len(tracks))
        degrade_tracks(tracks, folder, how, lambda: bar.advance(task))
    print(f"{folder}: {len(tracks)} tracks, {how.name}")
