"""``mgl tokens``: a manifest's tracks as codes."""


def tokens(manifest: str, codec: str, out: str, device: str = "auto") -> None:
    """Encodes every track of a manifest with a codec and writes a token store, which training reads.

    Args:
        manifest: a manifest.jsonl, or a folder that holds one.
        codec: folder of the codec.
        out: folder of the token store.
        device: where to encode: "cpu", "cuda", or "auto" for a GPU where there is one.
    """
    from datamodules.manifest import read_manifest
    from datamodules.token_writer import write_tokens
    from experiments.console import pick_device, progress, require_folder
    from lightning_modules.checkpoints import load_codec

    require_folder(out)
    tracks = read_manifest(manifest)
    model = load_codec(codec, pick_device(device))
    with progress() as bar:
        task = bar.add_task("tokens", total=sum(track.duration for track in tracks))
        write_tokens(tracks, model, out, lambda track: bar.advance(task, track.duration))
    hours = sum(track.duration for track in tracks) / 3600
    print(
        f"tokens: {len(tracks)} tracks, {hours:.2f} h, {model.codebooks} x {model.entries} codes "
        f"at {model.frame_rate:g} Hz in {out}"
    )
