"""``mgl corpus``: the embedded corpus, rendered on this machine."""


def corpus(
    *, out: str, pieces: int = 120, seed: int = 0, workers: int | None = None, soundfont: str | None = None
) -> None:
    """Renders public-domain scores to captioned audio: FLAC files and a manifest, with nothing downloaded.

    The scores are Bach's chorales, quartets by Mozart, Haydn and Beethoven, and the tune books of Ryan, O'Neill and
    Aird from music21's corpus. Instruments, tempi and accompaniments are drawn by the seed, so the captions are true.
    The same seed gives the same files on any number of processes, a larger corpus begins with the smaller one, and
    what is already in the folder is not rendered again.

    Args:
        out: folder to write manifest.jsonl and audio/ to.
        pieces: how many pieces to render, 12 to 40 seconds each, split 8 : 1 : 1 into train, valid and test.
        seed: draws scores, excerpts, tempi, instruments and the wording of captions.
        workers: processes to render with; by default one for each CPU core.
        soundfont: General MIDI SoundFont (.sf2 or .sf3) to play with instead of the one that pretty_midi ships.

    Raises:
        InputError: a number or folder that cannot be used, or a package that is missing.
    """
    from datamodules.corpus import build_corpus
    from datamodules.manifest import read_manifest

    manifest = build_corpus(out, pieces=pieces, seed=seed, workers=workers, soundfont=soundfont)
    tracks = read_manifest(manifest)
    minutes = sum(track.duration for track in tracks) / 60
    sides = {split: sum(track.split == split for track in tracks) for split in ("train", "valid", "test")}
    print(f"{manifest}: {len(tracks)} pieces, {minutes:.1f} min ({', '.join(f'{n} {s}' for s, n in sides.items())})")
