"""``mgl recordings``: hours of freely licensed music out of Debian packages."""


def recordings(
    out: str = "data/recordings",
    debs: str = "",
    packages: list[str] | None = None,
    valid: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Fetches 16 hours of music that comes with free games in Debian and Ubuntu, and makes a manifest of it.

    The packages are downloaded and unpacked, never installed. OUT then holds the music with a side-car JSON each in
    audio/, what `mgl manifest` writes (manifest.jsonl, rejected.jsonl, music.html), ATTRIBUTION.md, which names
    everybody, the copyright files in LICENCES/, and left_out.jsonl: what was not taken, and why. A run that was broken
    off is taken up by repeating it.

    Args:
        out: folder for everything.
        debs: folder of .deb files to use instead of downloading them, for machines without a network.
        packages: names of the packages to take; by default all sixteen.
        valid: share of the artists for validation; no artist is on two sides.
        test: share of the artists for tests.
        seed: of the split.
        workers: processes to decode with; by default one for each CPU core.
    """
    from pathlib import Path

    from datamodules.errors import InputError
    from datamodules.ingest import IngestConfig, ingest
    from datamodules.ingest.judging import Wanted
    from datamodules.recordings import all_unpacked, choose, collect, fetch, write_attribution
    from datamodules.recordings.attribution import LEFT_OUT
    from datamodules.recordings.collecting import AUDIO, MIN_SECONDS
    from experiments.console import progress, require_folder
    from experiments.ingest_report import ingest_lines

    config = IngestConfig(Wanted(MIN_SECONDS), valid=valid, test=test, seed=seed, workers=workers)
    wanted = choose(packages)
    folder = require_folder(out)
    failed = fetch(wanted, folder / "packages", Path(debs) if debs else None)
    with progress() as bar:
        task = bar.add_task("collecting", total=None)
        found = collect(
            all_unpacked(folder / "packages"),
            folder,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    page = write_attribution(found, folder)
    with progress() as bar:
        task = bar.add_task("decoding", total=None)
        summary = ingest(
            [str(folder / AUDIO)],
            folder,
            config,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    print("\n".join(ingest_lines(summary)))
    print(f"left out before: {len(found.left_out)} files, see {folder / LEFT_OUT}; who made the music: {page}")
    if failed:
        raise InputError(f"{len(failed)} packages could not be had, the rest is there: {'; '.join(failed)}")
