"""Reads a model, whoever wrote it, and writes it to a folder in the format that is wanted."""

from pathlib import Path
from typing import Literal

from datamodules.errors import InputError
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.folder import save_codec
from lightning_modules.codec.stereo import StereoCodec
from lightning_modules.converting import codec_huggingface
from lightning_modules.converting.codec_huggingface import write_huggingface
from lightning_modules.converting.codec_prefix import first_codebooks
from lightning_modules.converting.sources import read_codec
from lightning_modules.model_folders import CONFIG, WEIGHTS, read_config, whole_folder

Format = Literal["native", "hf"]


def convert(
    source: str | Path, out: str | Path, to: Format = "native", codebooks: int | None = None, stereo: bool = False
) -> Codec:
    """Reads a codec and writes it to a folder, which is written whole or not at all.

    Args:
        source: as for ``read_codec``.
        out: the folder; it may hold a codec of the same format, which is replaced.
        to: "native", or "hf" for what transformers reads.
        codebooks: how many to keep, by default all.
        stereo: whether to make a stereo codec of the mono one.

    Returns:
        What was written.

    Raises:
        InputError: the source cannot be read, the format does not have such a codec, or ``out`` holds something else.
    """
    _check_out(Path(out), to)
    codec = read_codec(source)
    if codebooks is not None:
        codec = first_codebooks(codec, codebooks)
    if stereo:
        codec = StereoCodec(codec)
    with whole_folder(out, CONFIG if to == "native" else codec_huggingface.CONFIG) as folder:
        if to == "native":
            save_codec(folder, codec, {"converted_from": str(source)})
        else:
            write_huggingface(folder, codec)
    return codec


def _check_out(out: Path, to: Format) -> None:
    """Nothing is lost there but a codec of the same format."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: is a file; an output folder is wanted here")
    files = {file.name for file in out.iterdir()}
    if not files:
        return
    other = files - set((CONFIG, WEIGHTS) if to == "native" else codec_huggingface.FILES)
    try:
        if not other:
            read_config(out, "codec") if to == "native" else codec_huggingface.model_type(out)
            return
    except InputError as error:
        raise InputError(f"{out}: is not empty, and no codec folder to replace; choose another") from error
    raise InputError(f"{out}: is not empty, and {min(other)} in it is not part of a codec; choose another folder")
