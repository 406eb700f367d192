"""What a source is: a folder of ours or of others, a file of audiocraft's, or a name of the Hugging Face hub."""

import re
from pathlib import Path

from datamodules.errors import InputError
from datamodules.hub import fetch
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.folder import load_codec
from lightning_modules.converting import codec_huggingface
from lightning_modules.converting.codec_audiocraft import FILE, read_audiocraft
from lightning_modules.converting.codec_huggingface import read_huggingface
from lightning_modules.model_folders import CONFIG

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
        if (path / codec_huggingface.CONFIG).exists():
            return read_huggingface(path)
        if (path / FILE).exists():
            return read_audiocraft(path / FILE)
        raise InputError(f"{path}: holds no codec: neither {CONFIG} nor {codec_huggingface.CONFIG} is in it")
    name = str(source)
    if not _HUB_NAME.fullmatch(name) or name.endswith(_FILE_ENDINGS):
        raise InputError(f"{name}: there is no such file or folder, and it is no name of the Hugging Face hub")
    # The config first: a language model is refused before its gigabytes are fetched.
    codec_huggingface.model_type(fetch(name, [codec_huggingface.CONFIG]))
    return read_huggingface(fetch(name, [codec_huggingface.CONFIG, "*.safetensors"]))
