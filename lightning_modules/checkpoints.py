"""Model folders: ``config.yaml`` beside ``model.safetensors``; nothing is pickled.

A codec folder holds these two. A language model's folder holds them, the codec in ``codec/``, and a text encoder that
was trained along in ``text_encoder/`` (Hugging Face's layout).
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from datamodules.errors import InputError
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.encodec import Codec
from lightning_modules.generation.model import MusicModel
from lightning_modules.lm.conditioners import TextEncoder, TextEncoderConfig, build_text_encoder, load_text_encoder
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig

CONFIG = "config.yaml"
WEIGHTS = "model.safetensors"
_Config = TypeVar("_Config")


def save_codec(folder: str | Path, codec: Codec, about: Mapping[str, Any] | None = None) -> None:
    """Writes a codec folder and gives the codec its checksum; ``about`` is kept in the config as it is."""
    codec.checksum = _save(folder, codec, {"kind": "codec", "codec": asdict(codec.config), **(about or {})})


def load_codec(folder: str | Path, device: str | torch.device = "cpu") -> Codec:
    """Reads a codec folder.

    Raises:
        InputError: no such folder, not a codec, or weights that do not fit its config.
    """
    config = read_config(folder, "codec")
    codec = Codec(_section(CodecConfig, config, "codec", folder))
    codec.checksum = _load(folder, codec)
    return codec.to(device).eval()


def codec_checksum(folder: str | Path) -> str:
    """Checksum of a codec folder, without loading it.

    Raises:
        InputError: no such folder, not a codec, or no weights in it.
    """
    read_config(folder, "codec")
    if not (Path(folder) / WEIGHTS).is_file():
        raise InputError(f"{folder}: {WEIGHTS} is missing")
    return file_checksum(Path(folder) / WEIGHTS)


def save_model(
    folder: str | Path,
    lm: LanguageModel,
    text: TextEncoderConfig,
    encoder: TextEncoder,
    codec: str | Path,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes a language model's folder, whole with its codec and whatever of the text encoder was trained.

    Args:
        folder: where to.
        lm: the language model.
        text: which text encoder.
        encoder: the text encoder itself, saved along if it was trained.
        codec: the codec's folder, copied.
        about: kept in the config as it is: training record, licence, ...
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if encoder.trained:
        encoder.save(folder / "text_encoder")
    if Path(codec).resolve() != (folder / "codec").resolve():
        shutil.copytree(codec, folder / "codec", dirs_exist_ok=True)
    _save(
        folder,
        lm,
        {"kind": "language_model", "lm": asdict(lm.config), "text": asdict(text), **(about or {})},
    )


def load_model(
    folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> MusicModel:
    """Reads a model folder: language model, text encoder and codec, ready to generate.

    Args:
        folder: a folder written by ``save_model``.
        device: where to put it.
        dtype: type of the language model's weights; codec and text encoder stay in float32.

    Raises:
        InputError: no such folder, not a language model, or weights that do not fit its config.
    """
    config = read_config(folder, "language_model")
    text = _section(TextEncoderConfig, config, "text", folder)
    trained = Path(folder) / "text_encoder"
    encoder = load_text_encoder(str(trained), trained=True) if trained.is_dir() else build_text_encoder(text)
    lm = LanguageModel(_section(LanguageModelConfig, config, "lm", folder), encoder.dim)
    checksum = _load(folder, lm)
    codec = load_codec(Path(folder) / "codec", device)
    if (codec.codebooks, codec.entries) != (lm.config.codebooks, lm.config.entries):
        raise InputError(
            f"{folder}: the codec has {codec.codebooks} codebooks of {codec.entries} entries, the language model "
            f"{lm.config.codebooks} of {lm.config.entries}"
        )
    return MusicModel(lm.to(device, dtype).eval(), encoder.to(device).eval(), codec, checksum=checksum, about=config)


def read_config(folder: str | Path, kind: str) -> dict[str, Any]:
    """The ``config.yaml`` of a model folder of this kind.

    Raises:
        InputError: there is none, or the folder is of another kind.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise InputError(f"{folder}: not a model folder ({CONFIG} is missing)")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML") from error
    found = config.get("kind") if isinstance(config, dict) else None
    if found != kind:
        raise InputError(f"{path}: is of kind {found!r}, wanted {kind!r}")
    return dict(config)


def file_checksum(path: str | Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save(folder: str | Path, module: nn.Module, config: Mapping[str, Any]) -> str:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in module.state_dict().items()}
    save_file(state, folder / (WEIGHTS + ".partial"))
    (folder / (WEIGHTS + ".partial")).replace(folder / WEIGHTS)
    # The config comes last: a folder with a config is a whole folder.
    partial = folder / (CONFIG + ".partial")
    partial.write_text(yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
    partial.replace(folder / CONFIG)
    return file_checksum(folder / WEIGHTS)


def _load(folder: str | Path, module: nn.Module) -> str:
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise InputError(f"{folder}: {WEIGHTS} is missing")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not readable as safetensors ({error})") from error
    wanted = module.state_dict()
    wrong = [f"{name} is missing" for name in wanted if name not in state]
    wrong += [f"{name} is unknown" for name in state if name not in wanted]
    wrong += [
        f"{name} is {list(state[name].shape)}, wanted {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if wrong:
        raise InputError(f"{path}: {len(wrong)} tensors do not fit {CONFIG}: {'; '.join(wrong[:3])}")
    module.load_state_dict(state)
    return file_checksum(path)


def _section(kind: type[_Config], config: Mapping[str, Any], name: str, folder: str | Path) -> _Config:
    fields = config.get(name)
    if not isinstance(fields, dict):
        raise InputError(f"{Path(folder) / CONFIG}: the section {name!r} is missing or no mapping")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{Path(folder) / CONFIG}: {error}") from error


def _plain(value: Any) -> Any:
    """YAML's safe dumper knows no tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
