"""Model folders: ``config.yaml`` beside ``model.safetensors``; nothing is pickled.

A codec folder holds these two. A language model's folder holds them, the codec in ``codec/``, and a text encoder that
was trained along, or came along with a checkpoint, in ``text_encoder/`` (Hugging Face's layout); of another the config
has name and checksum. The one that ships is named "embedded" and has the embedded codec.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from datamodules.errors import InputError
from lightning_modules.codec.folder import EMBEDDED, codec_folder, load_codec
from lightning_modules.conditioning.conditioners import Conditioners, build_conditioners
from lightning_modules.conditioning.melody import MelodyConfig, MelodyEncoder
from lightning_modules.conditioning.t5 import load_text_encoder
from lightning_modules.conditioning.text import BYTES, TextEncoder, TextEncoderConfig
from lightning_modules.generation.model import MusicModel
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig
from lightning_modules.model_folders import (
    CONFIG,
    WEIGHTS,
    config_section,
    file_checksum,
    load_weights,
    read_config,
    whole_folder,
    write_folder,
)

TEXT_ENCODER = "text_encoder"
_SHIPPED = Path(__file__).parent / "weights" / "lm"


def model_folder(model: str | Path) -> Path:
    """The folder of a language model: itself, or the package's for "embedded" (``./embedded`` is one of your own)."""
    return _SHIPPED if model == EMBEDDED else Path(model)


def save_model(
    folder: str | Path,
    lm: LanguageModel,
    text: TextEncoderConfig | None,
    conditioners: Conditioners,
    codec: str | Path,
    about: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Writes a language model's folder, whole with its codec and whatever of the text encoder was trained.

    All of it or nothing: until everything is written the folder is what it was.

    Args:
        folder: where to; of a model that lies there nothing stays, of what else does everything.
        lm: the language model.
        text: which text encoder, if it hears texts.
        conditioners: its conditioners; a text encoder that was trained is saved along, of another the checksum.
        codec: the codec's folder, or "embedded"; copied. It may be the one in ``folder``.
        about: kept in the config as it is: training record, licence, ...
        half: stores the language model in float16.

    Raises:
        InputError: the folder is a file, or cannot be made.
    """
    encoder = conditioners.text
    if text is not None and encoder is not None and not encoder.trained:
        text = replace(text, checksum=encoder.checksum)
    melody = asdict(conditioners.melody.config) if conditioners.melody is not None else None
    config = {"lm": asdict(lm.config), "text": asdict(text) if text else None, "melody": melody}
    state = {name: tensor.half() if half else tensor for name, tensor in lm.state_dict().items()}
    with whole_folder(folder, CONFIG, [TEXT_ENCODER]) as partial:
        if encoder is not None and encoder.trained:
            encoder.save(partial / TEXT_ENCODER)
        # Without what is hidden: files that an interruption left, and this very folder where it lies in the codec's.
        shutil.copytree(codec_folder(codec), partial / "codec", ignore=shutil.ignore_patterns(".*"))
        write_folder(partial, state, {"kind": "language_model", **config, **(about or {})})


def load_model(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    quantize: str | None = None,
) -> MusicModel:
    """Reads a model folder: language model, conditioners and codec, ready to generate.

    Args:
        folder: a folder written by ``save_model``, or "embedded".
        device: where to put it.
        dtype: type of the language model's weights; codec and text encoder stay in float32.
        quantize: "int8" to generate with weights and inputs of the products in int8, on a CPU.

    Raises:
        InputError: no such folder, not a language model, weights that do not fit its config, or a text encoder that is
            not the one that it was trained with; or int8 where there is none.
    """
    if quantize not in (None, "int8"):
        raise InputError(f"there is no quantize={quantize!r}; give 'int8', or leave it out")
    folder = model_folder(folder)
    config = read_config(folder, "language_model")
    conditioners = _conditioners(folder, config)
    shape = config_section(LanguageModelConfig, config, "lm", folder)
    # Without memory: values of its own would be drawn for nothing, and lie beside those that are read.
    with torch.device("meta"):
        lm = LanguageModel(shape, conditioners.dims)
    load_weights(folder, lm)
    checksum = file_checksum(folder / WEIGHTS)
    codec = load_codec(EMBEDDED if config.get("codec") == EMBEDDED else folder / "codec", device)
    if (codec.codebooks, codec.entries) != (lm.config.codebooks, lm.config.entries):
        raise InputError(
            f"{folder}: the codec has {codec.codebooks} codebooks of {codec.entries} entries, the language model "
            f"{lm.config.codebooks} of {lm.config.entries}"
        )
    lm, conditioners = lm.to(device, dtype).eval(), conditioners.to(device).eval()
    return MusicModel(lm, conditioners, codec, checksum, about=config, int8=quantize == "int8")


def _conditioners(folder: Path, config: Mapping[str, Any]) -> Conditioners:
    """The conditioners of a model folder, a text encoder that lies in it rather than the one that it is named after."""
    text = config_section(TextEncoderConfig, config, "text", folder) if config.get("text") else None
    melody = config_section(MelodyConfig, config, "melody", folder) if config.get("melody") else None
    own = folder / TEXT_ENCODER
    if text is not None and text.name == BYTES and not own.is_dir():
        raise InputError(f"{folder}: {TEXT_ENCODER}/, which was trained along, is missing; copy the folder whole")
    if text is None or not own.is_dir():
        return build_conditioners(text, melody)
    encoder: TextEncoder = load_text_encoder(str(own), trained=text.train or text.name == BYTES)
    return Conditioners(encoder, MelodyEncoder(melody) if melody else None)
