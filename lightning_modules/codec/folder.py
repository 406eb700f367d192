"""Codec folders, and which class reads which.

``config.yaml`` says ``architecture`` ("encodec", which is understood when it is missing, or "dac"), the shape in
``codec``, how many ``codebooks`` of a DAC are used, and ``stereo`` where a mono codec takes both channels in turn.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from datamodules.errors import InputError
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.dac import DAC
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.stereo import StereoCodec
from lightning_modules.model_folders import (
    CONFIG,
    WEIGHTS,
    config_section,
    file_checksum,
    read_config,
    read_weights,
    write_folder,
)


def save_codec(folder: str | Path, codec: Codec, about: Mapping[str, Any] | None = None) -> None:
    """Writes a codec folder and gives the codec its checksum; ``about`` is kept in the config as it is."""
    inner = codec.mono if isinstance(codec, StereoCodec) else codec
    write_folder(folder, inner, {"kind": "codec", **_description(codec), **(about or {})})
    codec.checksum = _checksum(folder, codec)


def load_codec(folder: str | Path, device: str | torch.device = "cpu") -> Codec:
    """Reads a codec folder.

    Raises:
        InputError: no such folder, not a codec, or weights that do not fit its config.
    """
    codec = _built(folder, read_config(folder, "codec"))
    read_weights(folder, codec.mono if isinstance(codec, StereoCodec) else codec)
    codec.checksum = _checksum(folder, codec)
    return codec.to(device).eval()


def codec_checksum(folder: str | Path) -> str:
    """Checksum of a codec folder, without loading its weights.

    Raises:
        InputError: no such folder, not a codec, or no weights in it.
    """
    config = read_config(folder, "codec")
    with torch.device("meta"):
        return _checksum(folder, _built(folder, config))


def _built(folder: str | Path, config: Mapping[str, Any]) -> Codec:
    architecture = config.get("architecture", "encodec")
    codec: Codec
    if architecture == "encodec":
        codec = EnCodec(config_section(CodecConfig, config, "codec", folder))
    elif architecture == "dac":
        codec = DAC(config_section(dict, config, "codec", folder), config.get("codebooks"))
    else:
        raise InputError(f"{Path(folder) / CONFIG}: there is no architecture {architecture!r}; choose encodec or dac")
    return StereoCodec(codec) if config.get("stereo", False) else codec


def _description(codec: Codec) -> dict[str, Any]:
    if isinstance(codec, StereoCodec):
        return {**_description(codec.mono), "stereo": True}
    if isinstance(codec, DAC):
        return {"architecture": "dac", "codec": codec.shape, "codebooks": codec.codebooks}
    assert isinstance(codec, EnCodec), "a codec of an unknown kind has no folder"
    return {"architecture": "encodec", "codec": asdict(codec.config)}


def _checksum(folder: str | Path, codec: Codec) -> str:
    """Of weights and shape: equal weights padded in another way, say, give other codes."""
    shape = json.dumps(_description(codec), sort_keys=True)
    return hashlib.sha256(f"{file_checksum(Path(folder) / WEIGHTS)} {shape}".encode()).hexdigest()
