"""Codec folders, and which class reads which.

A codec is named by its folder, or "embedded": the small one that ships with the package (its card lies beside it).
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
    load_weights,
    read_config,
    read_safetensors,
    write_folder,
)

EMBEDDED = "embedded"
_SHIPPED = Path(__file__).parent.parent / "weights" / "codec"
_ENTRIES, _SIZE, _SUMS = "entries", "size", "total"  # of a codebook; the sums are entries times sizes


def codec_folder(codec: str | Path) -> Path:
    """The folder of a codec: itself, or the package's for "embedded" (``./embedded`` is one of your own)."""
    return _SHIPPED if codec == EMBEDDED else Path(codec)


def save_codec(folder: str | Path, codec: Codec, about: Mapping[str, Any] | None = None, half: bool = False) -> None:
    """Writes a codec folder and gives the codec its checksum.

    Args:
        folder: where to.
        codec: what.
        about: kept in the config as it is.
        half: stores float16, and leaves out what can be told from the rest: for a codec that is sent around.
    """
    inner = codec.mono if isinstance(codec, StereoCodec) else codec
    state = inner.state_dict()
    if half:
        kept = {name: tensor for name, tensor in state.items() if not name.endswith(_SUMS)}
        state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in kept.items()}
    write_folder(folder, state, {"kind": "codec", **_description(codec), **(about or {})})
    codec.checksum = _checksum(Path(folder), codec)


def load_codec(codec: str | Path, device: str | torch.device = "cpu") -> Codec:
    """Reads a codec folder, or the "embedded" codec, in float32 whatever it is stored in.

    Raises:
        InputError: no such folder, not a codec, or weights that do not fit its config.
    """
    folder = codec_folder(codec)
    built = _built(folder, read_config(folder, "codec"))
    state = read_safetensors(folder / WEIGHTS)
    for name in [name for name in state if name.endswith(_ENTRIES)]:
        place = name.removesuffix(_ENTRIES)
        size = state.get(place + _SIZE)
        if place + _SUMS not in state and size is not None:
            state[place + _SUMS] = state[name].float() * size.float()[:, None]
    load_weights(folder, built.mono if isinstance(built, StereoCodec) else built, state)
    built.checksum = _checksum(folder, built)
    return built.to(device).eval()


def codec_checksum(codec: str | Path) -> str:
    """Checksum of a codec folder, or of the "embedded" codec, without loading its weights.

    Raises:
        InputError: no such folder, not a codec, or no weights in it.
    """
    folder = codec_folder(codec)
    config = read_config(folder, "codec")
    with torch.device("meta"):
        return _checksum(folder, _built(folder, config))


def _built(folder: Path, config: Mapping[str, Any]) -> Codec:
    architecture = config.get("architecture", "encodec")
    codec: Codec
    if architecture == "encodec":
        codec = EnCodec(config_section(CodecConfig, config, "codec", folder))
    elif architecture == "dac":
        codec = DAC(config_section(dict, config, "codec", folder), config.get("codebooks"))
    else:
        raise InputError(f"{folder / CONFIG}: there is no architecture {architecture!r}; choose encodec or dac")
    return StereoCodec(codec) if config.get("stereo", False) else codec


def _description(codec: Codec) -> dict[str, Any]:
    if isinstance(codec, StereoCodec):
        return {**_description(codec.mono), "stereo": True}
    if isinstance(codec, DAC):
        return {"architecture": "dac", "codec": codec.shape, "codebooks": codec.codebooks}
    assert isinstance(codec, EnCodec), "a codec of an unknown kind has no folder"
    return {"architecture": "encodec", "codec": asdict(codec.config)}


def _checksum(folder: Path, codec: Codec) -> str:
    """Of weights and shape: equal weights padded in another way, say, give other codes."""
    shape = json.dumps(_description(codec), sort_keys=True)
    return hashlib.sha256(f"{file_checksum(folder / WEIGHTS)} {shape}".encode()).hexdigest()
