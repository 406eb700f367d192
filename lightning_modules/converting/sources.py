"""What a source is: a folder of ours or of others, a file of audiocraft's, or a name of the Hugging Face hub."""

from collections.abc import Callable
from pathlib import Path

from datamodules.errors import InputError
from datamodules.hub import fetch
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.folder import load_codec
from lightning_modules.converting import lm_audiocraft
from lightning_modules.converting.audiocraft_files import exported_model, load_package, pretrained_name
from lightning_modules.converting.codec_audiocraft import FILE, codec_name, read_audiocraft
from lightning_modules.converting.codec_huggingface import read_huggingface
from lightning_modules.converting.huggingface_files import CONFIG as HF_CONFIG
from lightning_modules.converting.huggingface_files import HUB_NAME, INDEX, LANGUAGE_MODELS, read_config
from lightning_modules.converting.lm_huggingface import checked_config, read_huggingface_lm
from lightning_modules.converting.lm_names import Progress
from lightning_modules.converting.lm_native import ConvertedModel, is_language_model, read_native
from lightning_modules.model_folders import CONFIG

_FILE_ENDINGS = (".bin", ".th", ".pt", ".pth", ".ckpt", ".safetensors")
_TOKENIZER = ("tokenizer*", "spiece.model", "special_tokens_map.json", "added_tokens.json")
Known = Callable[[bool], None]


def read_model(
    source: str | Path,
    progress: Progress = lambda done, total: None,
    known: Known = lambda language_model: None,
) -> Codec | ConvertedModel:
    """The codec or language model that ``source`` names, whoever wrote it.

    Args:
        source: a folder of this suite or of transformers, a file that audiocraft exported or a folder of them, or the
            name of a model on the hub, of which no more than configs, weights and tokenizer are fetched.
        progress: called with (tensors of a language model read, all).
        known: called with whether it is a language model, as soon as that is known: before weights are read, and
            fetched where a config says it. What it raises ends the reading.

    Raises:
        InputError: there is no such thing, it is neither, or one that cannot be converted.
    """
    path = Path(source)
    if path.is_file():
        return _read_file(path, progress, known)
    if path.is_dir():
        return _read_folder(path, progress, known)
    name = str(source)
    if not HUB_NAME.fullmatch(name) or name.endswith(_FILE_ENDINGS):
        raise InputError(f"{name}: there is no such file or folder, and it is no name of the Hugging Face hub")
    return _read_folder(fetched(name, known), progress, known)


def fetched(name: str, known: Known = lambda language_model: None) -> Path:
    """A model of the hub on this machine; its config first, so that no gigabytes are fetched to be refused."""
    folder = fetch(name, [HF_CONFIG])
    if not (folder / HF_CONFIG).is_file():
        return fetch(name, [lm_audiocraft.FILE, FILE])
    fields = read_config(folder)
    known(fields["model_type"] in LANGUAGE_MODELS)
    if fields["model_type"] in LANGUAGE_MODELS:
        checked_config(folder, fields)
        return fetch(name, [HF_CONFIG, "*.safetensors", INDEX, *_TOKENIZER])
    return fetch(name, [HF_CONFIG, "*.safetensors"])


def _read_folder(path: Path, progress: Progress, known: Known) -> Codec | ConvertedModel:
    if (path / CONFIG).exists():
        language_model = is_language_model(path)
        known(language_model)
        return read_native(path, progress) if language_model else load_codec(path)
    if (path / HF_CONFIG).exists():
        language_model = read_config(path)["model_type"] in LANGUAGE_MODELS
        known(language_model)
        return read_huggingface_lm(path, progress) if language_model else read_huggingface(path)
    for file in (lm_audiocraft.FILE, FILE):
        if (path / file).exists():
            return _read_file(path / file, progress, known)
    raise InputError(f"{path}: holds no model: none of {CONFIG}, {HF_CONFIG}, {lm_audiocraft.FILE} and {FILE} is in it")


def _read_file(path: Path, progress: Progress, known: Known) -> Codec | ConvertedModel:
    """The model in a file that audiocraft exported.

    Nothing is unpickled but tensors, numbers, text and their containers.
    """
    package = load_package(path)
    name = pretrained_name(package)
    if name is not None:
        raise InputError(
            f"{path}: holds no codec but the name of one, {name!r}; convert that: mgl convert {codec_name(name)} OUT"
        )
    state, config = exported_model(package, path)
    known(config.of_language_model)
    if not config.of_language_model:
        return read_audiocraft(state, config, str(path))
    beside = path.parent / FILE
    return lm_audiocraft.read_audiocraft_lm(
        state, config, path, lambda: _codec_of(beside, lm_audiocraft.codec_checkpoint(config), path), progress
    )


def _codec_of(file: Path, name: str | None, lm: Path) -> Codec:
    """The codec of audiocraft's language model ``lm``: in a file beside it, or the one that it names."""
    if file.is_file():
        package = load_package(file)
        name = pretrained_name(package)
        if name is None:
            state, config = exported_model(package, file)
            if config.of_language_model:
                raise InputError(f"{config.where}: of a language model; wanted is its codec")
            return read_audiocraft(state, config, str(file))
    if name is None:
        raise InputError(f"{lm}: its codec is missing; put it beside, as {file.name} (audiocraft's export_encodec)")
    if not HUB_NAME.fullmatch(codec_name(name)):
        raise InputError(f"{lm}: its codec is {name!r}, which cannot be fetched; put it beside, as {file.name}")
    return read_huggingface(fetched(codec_name(name)))
