"""Model folders: ``config.yaml`` beside ``model.safetensors``; nothing is pickled.

A codec folder holds these two. A language model's folder holds them, the codec in ``codec/``, and a text encoder that
was trained along, or came along with a checkpoint, in ``text_encoder/`` (Hugging Face's layout); of another the config
has name and checksum. The one that ships is named "embedded" and has the embedded codec.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
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
_OURS = ("kind", "lm", "text", "melody", "codec")  # of a config


@dataclass(frozen=True)
class Description:
    """What the config of a language model's folder says.

    Attributes:
        folder: where it lies.
        lm: shape of the language model.
        text: its text encoder; None for a model that hears no texts.
        melody: how it hears melodies; None for a model that hears none.
        codec: folder of its codec, or "embedded".
        about: everything in it.
    """

    folder: Path
    lm: LanguageModelConfig
    text: TextEncoderConfig | None
    melody: MelodyConfig | None
    codec: str
    about: Mapping[str, Any]

    @property
    def further(self) -> dict[str, Any]:
        """Of ``about`` what is no part of the model: licence, training record, ..."""
        return {name: value for name, value in self.about.items() if name not in _OURS}

    @property
    def text_encoder(self) -> Path | None:
        """The text encoder that lies in the folder; None where there is none, or the model hears no texts."""
        own = self.folder / TEXT_ENCODER
        return own if self.text is not None and own.is_dir() else None

    @property
    def checksum(self) -> str:
        """sha256 of the language model's weights file."""
        return file_checksum(self.folder / WEIGHTS)

    def language_model(self, dims: Mapping[str, int]) -> LanguageModel:
        """The language model in float32, for conditions of these widths.

        Raises:
            InputError: weights that do not fit its config.
        """
        # Without memory: values of its own would be drawn for nothing, and lie beside those that are read.
        with torch.device("meta"):
            lm = LanguageModel(self.lm, dims)
        load_weights(self.folder, lm)
        return lm

    def conditioners(self) -> Conditioners:
        """Its conditioners, a text encoder that lies in the folder rather than the one that it is named after.

        Raises:
            InputError: there is no text encoder, or not the one that it was trained with.
        """
        own, text = self.text_encoder, self.text
        if text is not None and text.name == BYTES and own is None:
            raise InputError(
                f"{self.folder}: {TEXT_ENCODER}/, which was trained along, is missing; copy the folder whole"
            )
        if text is None or own is None:
            return build_conditioners(text, self.melody)
        encoder: TextEncoder = load_text_encoder(str(own), trained=text.train or text.name == BYTES)
        return Conditioners(encoder, MelodyEncoder(self.melody) if self.melody else None)


def describe(model: str | Path) -> Description:
    """Reads the config of a language model's folder, or of "embedded".

    Raises:
        InputError: no such folder, or not a language model.
    """
    folder = model_folder(model)
    config = read_config(folder, "language_model")
    return Description(
        folder,
        lm=config_section(LanguageModelConfig, config, "lm", folder),
        text=config_section(TextEncoderConfig, config, "text", folder) if config.get("text") else None,
        melody=config_section(MelodyConfig, config, "melody", folder) if config.get("melody") else None,
        codec=EMBEDDED if config.get("codec") == EMBEDDED else str(folder / "codec"),
        about=config,
    )


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
    whole: bool = False,
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
        whole: saves a text encoder along that was not trained, too.

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
        if encoder is not None and (encoder.trained or whole):
            encoder.save(partial / TEXT_ENCODER)
        # Without what is hidden: files that an interruption left, and this very folder where it lies in the codec's.
        shutil.copytree(codec_folder(codec), partial / "codec", ignore=shutil.ignore_patterns(".*"))
        write_folder(partial, state, {"kind": "language_model", **config, **(about or {})})


def load_model(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    quantize: str | None = None,
    alone: bool = False,
) -> MusicModel:
    """Reads a model folder: language model, conditioners and codec, ready to generate.

    Args:
        folder: a folder written by ``save_model``, or "embedded".
        device: where to put it.
        dtype: type of the language model's weights; codec and text encoder stay in float32.
        quantize: "int8" to generate with weights and inputs of the products in int8, on a CPU.
        alone: nothing but generating will be done with it: weights that are laid out for that are kept once, not twice.

    Raises:
        InputError: no such folder, not a language model, weights that do not fit its config, or a text encoder that is
            not the one that it was trained with; or int8 where there is none.
    """
    if quantize not in (None, "int8"):
        raise InputError(f"there is no quantize={quantize!r}; give 'int8', or leave it out")
    found = describe(folder)
    conditioners = found.conditioners()
    lm = found.language_model(conditioners.dims)
    codec = load_codec(found.codec, device)
    if (codec.codebooks, codec.entries) != (lm.config.codebooks, lm.config.entries):
        raise InputError(
            f"{found.folder}: the codec has {codec.codebooks} codebooks of {codec.entries} entries, the language model "
            f"{lm.config.codebooks} of {lm.config.entries}"
        )
    lm, conditioners = lm.to(device, dtype).eval(), conditioners.to(device).eval()
    return MusicModel(lm, conditioners, codec, found.checksum, about=found.about, int8=quantize == "int8", alone=alone)
