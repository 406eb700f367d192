"""Language models between two formats, and as the model folders of this suite."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.errors import InputError
from datamodules.features.chroma import PITCH_CLASSES
from lightning_modules.checkpoints import TEXT_ENCODER
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.folder import load_codec, save_codec
from lightning_modules.codec.stereo import StereoCodec
from lightning_modules.conditioning.conditioners import MELODY, TEXT
from lightning_modules.conditioning.melody import MelodyConfig
from lightning_modules.conditioning.t5 import T5TextEncoder, load_text_encoder
from lightning_modules.conditioning.text import TextEncoderConfig
from lightning_modules.converting.codec_prefix import first_codebooks
from lightning_modules.converting.lm_names import Piece, Progress, read_state, tensor_shapes
from lightning_modules.converting.tensors import ForeignTensors
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.model_folders import WEIGHTS, config_section, read_config, read_safetensors, write_folder

CODEC = "codec"
_KIND = "language_model"


@dataclass(frozen=True)
class ConvertedModel:
    """A language model and what belongs to it, on its way from one format to another.

    Attributes:
        config: the language model's shape.
        state: its tensors under our names, in the types that they were stored in, maybe still in a file.
        codec: what its codes are of.
        text: which text encoder; None for a model that hears no texts.
        melody: how melodies are heard, if they are.
        encoder: the text encoder, if its weights came along; otherwise ``text`` names it.
        codec_folder: the codec's folder, where there is one already.
        about: what stands in its ``config.yaml`` besides.
    """

    config: LanguageModelConfig
    state: Mapping[str, Tensor]
    codec: Codec
    text: TextEncoderConfig | None = None
    melody: MelodyConfig | None = None
    encoder: T5TextEncoder | None = None
    codec_folder: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Of the language model and its projections."""
        return sum(tensor.numel() for tensor in self.state.values())


def is_language_model(folder: str | Path) -> bool:
    """Whether a folder with a ``config.yaml`` is a language model's rather than a codec's."""
    try:
        read_config(folder, _KIND)
    except InputError:
        return False
    return True


def read_native(folder: str | Path, progress: Progress) -> ConvertedModel:
    """The model in a folder of ours; its tensors stay in the file.

    Raises:
        InputError: no such folder, or weights that do not fit its config.
    """
    folder = Path(folder)
    about = read_config(folder, _KIND)
    about.pop("kind")
    config = config_section(LanguageModelConfig, about, "lm", folder)
    text = config_section(TextEncoderConfig, about, "text", folder) if about.get("text") else None
    melody = config_section(MelodyConfig, about, "melody", folder) if about.get("melody") else None
    for name in ("lm", "text", "melody"):
        about.pop(name, None)
    tensors = ForeignTensors(read_safetensors(folder / WEIGHTS))
    dims = condition_dims(config, tensors, {name: f"projections.{name}" for name in config.conditions})
    shapes = tensor_shapes(config, dims, str(folder))
    pieces = {name: (Piece(name),) for name in shapes}
    state = read_state(config, dims, tensors, pieces, str(folder / WEIGHTS), progress)
    own = folder / TEXT_ENCODER
    encoder = load_text_encoder(str(own), trained=False) if own.is_dir() else None
    codec = matching_codec(load_codec(folder / CODEC), config, str(folder))
    return ConvertedModel(config, state, codec, text, melody, encoder, folder / CODEC, about)


def write_native(folder: str | Path, model: ConvertedModel, about: Mapping[str, Any]) -> None:
    """Writes the folder that ``load_model`` reads.

    Args:
        folder: where to.
        model: what.
        about: kept in its config as it is.
    """
    folder = Path(folder)
    if model.codec_folder is not None:
        shutil.copytree(model.codec_folder, folder / CODEC)
    else:
        save_codec(folder / CODEC, model.codec, about)
    if model.encoder is not None:
        model.encoder.save(folder / TEXT_ENCODER)
    sections = {
        "kind": _KIND,
        "lm": asdict(model.config),
        "text": asdict(model.text) if model.text else None,
        "melody": asdict(model.melody) if model.melody else None,
    }
    write_folder(folder, model.state, {**sections, **model.about, **about})


def condition_dims(
    config: LanguageModelConfig, tensors: ForeignTensors, projections: Mapping[str, str]
) -> dict[str, int]:
    """Widths of the conditions' embeddings, a text's as its projection says."""
    dims = {}
    for name in config.conditions:
        shape = tensors.shape(f"{projections[name]}.weight") if name == TEXT else ()
        dims[name] = PITCH_CLASSES if name == MELODY else shape[1] if len(shape) == 2 else 1
    return dims


def matching_codec(codec: Codec, config: LanguageModelConfig, where: str, *, stereo: bool = False) -> Codec:
    """The codec of a language model's codes: of a codec with more codebooks the first ones.

    Args:
        codec: the model's.
        config: the language model's shape.
        where: what an error begins with.
        stereo: whether the codec is of one channel, and the codes are of both in turn.

    Raises:
        InputError: it has other entries or too few codebooks, or more channels than one where ``stereo``.
    """
    if stereo and config.codebooks % 2 == 0 and codec.channels == 1:
        codec = StereoCodec(codec)
    elif stereo:
        raise InputError(
            f"{where}: a stereo language model of {config.codebooks} codebooks, whose codec has {codec.channels} "
            "channels; only a codec of one channel, and two codebooks for each of its own, are converted"
        )
    if codec.entries != config.entries or codec.codebooks < config.codebooks:
        raise InputError(
            f"{where}: the codec has {codec.codebooks} codebooks of {codec.entries} entries, the language model "
            f"{config.codebooks} of {config.entries}"
        )
    if codec.codebooks == config.codebooks:
        return codec
    return first_codebooks(codec, config.codebooks // (2 if isinstance(codec, StereoCodec) else 1))
