"""Model folders: ``config.yaml`` beside ``model.safetensors``; nothing is pickled.

A codec folder holds these two. A language model's folder holds them, the codec in ``codec/``, and a text encoder that
was trained along in ``text_encoder/`` (Hugging Face's layout).
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from datamodules.errors import InputError
from lightning_modules.codec.folder import codec_folder, load_codec
from lightning_modules.generation.model import MusicModel
from lightning_modules.lm.conditioners import TextEncoder, TextEncoderConfig, build_text_encoder, load_text_encoder
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig
from lightning_modules.model_folders import (
    WEIGHTS,
    config_section,
    file_checksum,
    load_weights,
    read_config,
    write_folder,
)


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
        codec: the codec's folder, or "embedded"; copied.
        about: kept in the config as it is: training record, licence, ...
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if encoder.trained:
        encoder.save(folder / "text_encoder")
    source = codec_folder(codec)
    if source.resolve() != (folder / "codec").resolve():
        shutil.copytree(source, folder / "codec", dirs_exist_ok=True)
    write_folder(
        folder,
        lm.state_dict(),
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
    text = config_section(TextEncoderConfig, config, "text", folder)
    trained = Path(folder) / "text_encoder"
    encoder = load_text_encoder(str(trained), trained=True) if trained.is_dir() else build_text_encoder(text)
    lm = LanguageModel(config_section(LanguageModelConfig, config, "lm", folder), encoder.dim)
    load_weights(folder, lm)
    checksum = file_checksum(Path(folder) / WEIGHTS)
    codec = load_codec(Path(folder) / "codec", device)
    if (codec.codebooks, codec.entries) != (lm.config.codebooks, lm.config.entries):
        raise InputError(
            f"{folder}: the codec has {codec.codebooks} codebooks of {codec.entries} entries, the language model "
            f"{lm.config.codebooks} of {lm.config.entries}"
        )
    return MusicModel(lm.to(device, dtype).eval(), encoder.to(device).eval(), codec, checksum=checksum, about=config)
