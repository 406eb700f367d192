"""``mgl tokens``: a manifest's tracks as codes."""


def tokens(
    manifest: str,
    codec: str,
    out: str,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    batch_size: int | None = None,
    workers: int = 2,
    max_failed: float = 0.01,
    stems: str = "",
) -> None:
    """Encodes every track of a manifest with a codec and writes a token store, which training reads.

    An interrupted run is continued by the same command, on any number of devices: finished shards are kept.

    Args:
        manifest: a manifest.jsonl, or a folder that holds one.
        codec: folder of the codec, or "embedded".
        out: folder of the token store.
        device: where to encode: "cpu", "cuda", or "auto" for a GPU where there is one.
        devices: how many of them, on each machine.
        nodes: machines; under SLURM or torchrun every one runs this command.
        batch_size: windows of 34 s that are encoded at once; by default 8 on a GPU, 1 on a CPU.
        workers: processes that read audio, for each device.
        max_failed: share of tracks that may be unreadable, and are then left out.
        stems: "htdemucs" hears melodies without drums and bass, as the paper does, for a model that is conditioned on
            them; by default in the full mix, which is some hundred times cheaper.
    """
    import time

    from datamodules.manifest import read_manifest
    from datamodules.tokens.plan import encoding
    from datamodules.tokens.writer import TokenWriter
    from experiments.console import require_folder
    from experiments.tokenizing import write_store
    from lightning_modules.codec.folder import load_codec

    require_folder(out)
    tracks = read_manifest(manifest)
    model = load_codec(codec)
    writer = TokenWriter(out, tracks, encoding(model, stems), max_failed)
    begun = time.monotonic()
    result = write_store(
        model, writer, device=device, devices=devices, nodes=nodes, batch_size=batch_size, workers=workers
    )
    if result is None:
        return
    done, encoded = result
    spent = time.monotonic() - begun
    print(
        f"tokens: {done.tracks} tracks, {done.seconds / 3600:.2f} h, {model.codebooks} x {model.entries} codes at "
        f"{model.frame_rate:g} Hz in {out}: {done.shards} shards, {len(done.failed)} tracks left out"
    )
    if encoded:
        print(f"encoded now: {encoded / 3600:.2f} h in {spent:.0f} s, {encoded / spent:.1f} x real time")
    else:
        print("every shard was finished before")
