"""Reads a model, whoever wrote it, and writes it to a folder in the format that is wanted."""

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from datamodules.errors import InputError
from lightning_modules.checkpoints import TEXT_ENCODER
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.folder import save_codec
from lightning_modules.codec.stereo import StereoCodec
from lightning_modules.converting import codec_huggingface
from lightning_modules.converting.codec_huggingface import write_huggingface
from lightning_modules.converting.codec_prefix import first_codebooks
from lightning_modules.converting.huggingface_files import CONFIG as HF_CONFIG
from lightning_modules.converting.huggingface_files import INDEX, LANGUAGE_MODELS
from lightning_modules.converting.huggingface_files import read_config as read_hf_config
from lightning_modules.converting.lm_names import Progress
from lightning_modules.converting.lm_native import CODEC, ConvertedModel, is_language_model, write_native
from lightning_modules.converting.lm_to_huggingface import write_huggingface_lm
from lightning_modules.converting.sources import read_model
from lightning_modules.model_folders import CONFIG, WEIGHTS, read_config, whole_folder

Format = Literal["native", "hf"]
_LM, _CODEC = "language model", "codec"
# What the folders of each kind and format are made of; beside anything else nothing is replaced.
_FILES = {
    (_CODEC, "native"): (CONFIG, WEIGHTS),
    (_CODEC, "hf"): codec_huggingface.FILES,
    (_LM, "native"): (CONFIG, WEIGHTS, CODEC, TEXT_ENCODER),
    (_LM, "hf"): (
        HF_CONFIG, "generation_config.json", WEIGHTS, INDEX, "model-*-of-*.safetensors", "processor_config.json",
        "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "added_tokens.json",
        "special_tokens_map.json", "spiece.model",
    ),
}  # fmt: skip


def convert(
    source: str | Path,
    out: str | Path,
    to: Format = "native",
    codebooks: int | None = None,
    stereo: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> Codec | ConvertedModel:
    """Reads a codec or a language model and writes it to a folder, which is written whole or not at all.

    Args:
        source: as for ``read_model``.
        out: the folder; it may hold a model of the same kind and format, which is replaced.
        to: "native", or "hf" for what transformers reads.
        codebooks: how many of a codec to keep, by default all.
        stereo: whether to make a stereo codec of the mono one.
        tell: told what the format says otherwise than the model, a line each.
        progress: called with (tensors of a language model read, all).

    Returns:
        What was written.

    Raises:
        InputError: the source cannot be read, the format does not have such a model, or ``out`` holds something else.
    """
    there = _kind_there(Path(out), to)

    def known(language_model: bool) -> None:
        kind = _LM if language_model else _CODEC
        if there is not None and there != kind:
            raise InputError(f"{out}: is a {there}'s folder, and the source is a {kind}; choose another folder")
        if language_model and (codebooks is not None or stereo):
            raise InputError("--codebooks and --stereo are for codecs; a language model has the codec of its codes")

    model = read_model(source, progress, known)
    kind = _LM if isinstance(model, ConvertedModel) else _CODEC
    if not isinstance(model, ConvertedModel):
        model = _shaped(model, codebooks, stereo)
    old = [file.name for file in Path(out).iterdir() if _is_part(file.name, kind, to)] if there else []
    with whole_folder(out, CONFIG if to == "native" else HF_CONFIG, old) as folder:
        _write(folder, model, to, str(source), tell)
    return model


def _shaped(codec: Codec, codebooks: int | None, stereo: bool) -> Codec:
    codec = first_codebooks(codec, codebooks) if codebooks is not None else codec
    return StereoCodec(codec) if stereo else codec


def _write(folder: Path, model: Codec | ConvertedModel, to: Format, source: str, tell: Callable[[str], None]) -> None:
    origin = {"converted_from": source}
    if isinstance(model, ConvertedModel):
        if to == "native":
            write_native(folder, model, origin)
        else:
            write_huggingface_lm(folder, model, tell)
    elif to == "native":
        save_codec(folder, model, origin)
    else:
        write_huggingface(folder, model)


def _kind_there(out: Path, to: Format) -> str | None:
    """What model lies there already, None for none.

    Raises:
        InputError: something would be lost there but a model of this format.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise InputError(f"{out}: is a file; an output folder is wanted here")
    files = {file.name for file in out.iterdir()}
    if not files:
        return None
    try:
        if to == "native":
            kind = _LM if is_language_model(out) else _CODEC
            read_config(out, "language_model" if kind == _LM else "codec")
        else:
            kind = _LM if read_hf_config(out)["model_type"] in LANGUAGE_MODELS else _CODEC
    except InputError as error:
        raise InputError(f"{out}: is not empty, and no model's folder to replace; choose another") from error
    other = [name for name in files if not _is_part(name, kind, to)]
    if other:
        raise InputError(f"{out}: is not empty, and {min(other)} in it is not part of a {kind}; choose another folder")
    return kind


def _is_part(name: str, kind: str, to: Format) -> bool:
    """Whether a file or folder of this name belongs to such a model."""
    return any(fnmatch(name, pattern) for pattern in _FILES[kind, to])
