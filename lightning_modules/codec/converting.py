"""Codecs from wherever they are to wherever they are wanted: native folders, transformers, the hub, audiocraft."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from datamodules.errors import InputError
from lightning_modules.codec import huggingface
from lightning_modules.codec.audiocraft import FILE, read_audiocraft
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.dac import DAC
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.folder import load_codec, save_codec
from lightning_modules.codec.foreign import with_state
from lightning_modules.codec.huggingface import dac_prefix, read_huggingface, write_huggingface
from lightning_modules.codec.stereo import StereoCodec
from lightning_modules.hub import fetch
from lightning_modules.model_folders import CONFIG, WEIGHTS, read_config, whole_folder

Format = Literal["native", "hf"]
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILE_ENDINGS = (".bin", ".th", ".pt", ".pth", ".ckpt", ".safetensors")


def read_codec(source: str | Path) -> Codec:
    """The codec that ``source`` names, whoever wrote it.

    Args:
        source: a codec folder of this suite or of transformers, a file that audiocraft exported, or the name of a
            codec on the hub, of which no more than config and safetensors are fetched.

    Raises:
        InputError: there is no such thing, it is no codec, or one that cannot be converted.
    """
    path = Path(source)
    if path.is_file():
        return read_audiocraft(path)
    if path.is_dir():
        if (path / CONFIG).exists():
            return load_codec(path)
        if (path / huggingface.CONFIG).exists():
            return read_huggingface(path)
        if (path / FILE).exists():
            return read_audiocraft(path / FILE)
        raise InputError(f"{path}: holds no codec: neither {CONFIG} nor {huggingface.CONFIG} is in it")
    name = str(source)
    if not _HUB_NAME.fullmatch(name) or name.endswith(_FILE_ENDINGS):
        raise InputError(f"{name}: there is no such file or folder, and it is no name of the Hugging Face hub")
    # The config first: a language model is refused before its gigabytes are fetched.
    huggingface.model_type(fetch(name, [huggingface.CONFIG]))
    return read_huggingface(fetch(name, [huggingface.CONFIG, "*.safetensors"]))


def first_codebooks(codec: Codec, codebooks: int) -> Codec:
    """The codec of the first ``codebooks`` codebooks, each of which codes what those before it left: a coarser one.

    Args:
        codec: the codec; of a stereo one of two passes the codebooks of each pass are meant.
        codebooks: how many.

    Raises:
        InputError: it has fewer.
    """
    if isinstance(codec, StereoCodec):
        return StereoCodec(first_codebooks(codec.mono, codebooks))
    if not 1 <= codebooks <= codec.codebooks:
        raise InputError(f"{codebooks} codebooks: this codec has {codec.codebooks}, of which 1 or more can be kept")
    if isinstance(codec, DAC):
        return dac_prefix(codec, codebooks)
    assert isinstance(codec, EnCodec), "a codec of an unknown kind"
    with torch.device("meta"):
        made = EnCodec(replace(codec.config, codebooks=codebooks))
    state = codec.state_dict()
    return with_state(made, {name: state[name] for name in made.state_dict()})


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
    with whole_folder(out, CONFIG if to == "native" else huggingface.CONFIG) as folder:
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
    other = files - set((CONFIG, WEIGHTS) if to == "native" else huggingface.FILES)
    try:
        if not other:
            read_config(out, "codec") if to == "native" else huggingface.model_type(out)
            return
    except InputError as error:
        raise InputError(f"{out}: is not empty, and no codec folder to replace; choose another") from error
    raise InputError(f"{out}: is not empty, and {min(other)} in it is not part of a codec; choose another folder")
