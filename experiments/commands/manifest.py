"""``mgl manifest``: folders of music -> a manifest that training reads."""


def manifest(
    sources: list[str],
    out: str,
    captions: str = "",
    licence: str = "",
    source: str = "",
    min_seconds: float = 5.0,
    valid: float = 0.05,
    test: float = 0.05,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Looks at every audio file, decodes it to its end, and writes what can be trained on and what was refused.

    OUT then holds manifest.jsonl, rejected.jsonl with a reason for each file, and music.html to look at. Sources
    outside OUT are linked into it. Repeating the command looks only at files that are new or have changed.

    Args:
        sources: folders or files: WAV, FLAC, OGG, Opus, MP3, AIFF.
        out: folder of the manifest.
        captions: a .csv, .tsv, .parquet or .jsonl with a column "path" (or file, filename, id), "caption" (or
            description, text) and any others; it wins over a .json beside a track, which wins over the tags in it.
        licence: licence of tracks that state none.
        source: name of the source, for draws by source; by default the folder's name.
        min_seconds: shorter tracks are refused.
        valid: share of the artists for validation; no artist is on two sides.
        test: share of the artists for tests.
        seed: of the split.
        workers: processes; by default one for each CPU core.
    """
    from datamodules.ingest import IngestConfig, ingest
    from datamodules.ingest.judging import Wanted
    from experiments.console import progress, require_folder
    from experiments.ingest_report import ingest_lines

    config = IngestConfig(Wanted(min_seconds), captions, licence, source, valid, test, seed, workers)
    require_folder(out)
    with progress() as bar:
        task = bar.add_task("decoding", total=None)
        summary = ingest(sources, out, config, lambda done, total: bar.update(task, completed=done, total=total))
    print("\n".join(ingest_lines(summary)))
