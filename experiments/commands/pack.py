"""``mgl pack``: a token store made small for transport, and back."""


def pack(store: str, out: str, unpack: bool = False) -> None:
    """Packs a token store for transport: 11 bits a code instead of 16 where codebooks have 2,048 entries.

    A packed store has to be unpacked before it can be trained on; unpacking compares every file with its checksum.

    Args:
        store: folder or URL of the token store.
        out: folder for the result.
        unpack: turn a packed store back into one that can be read.
    """
    from datamodules.storage import open_folder
    from datamodules.tokens.format import read_header
    from datamodules.tokens.packing import pack_store, unpack_store
    from experiments.console import progress, require_folder

    require_folder(out)
    shards = read_header(open_folder(store)).shards
    with progress() as bar:
        task = bar.add_task("unpack" if unpack else "pack", total=sum(shard.bytes["bin"] for shard in shards))
        header = (unpack_store if unpack else pack_store)(
            store, out, lambda shard: bar.advance(task, shard.bytes["bin"])
        )
    codes = header.frames * header.codebooks
    size = codes * (header.packed or 16) / 8
    print(f"{out}: {header.tracks} tracks, {codes} codes of {header.packed or 16} bits, {size / 1e6:.1f} MB")
