"""The model that a card is of, as far as its ``config.yaml`` tells: nothing heavy is loaded."""

from dataclasses import dataclass

from lightning_modules.checkpoints import model_folder
from lightning_modules.codec.folder import EMBEDDED, codec_checksum
from lightning_modules.conditioning.melody import MelodyConfig
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.model_folders import WEIGHTS, config_section, file_checksum, read_config


@dataclass(frozen=True)
class Subject:
    """A model folder.

    Attributes:
        name: as the user gave it.
        checksum: sha256 of its weights.
        codec: its codec's folder, or "embedded".
        codec_checksum: of that codec.
        codebooks: that it predicts.
        melody: whether it hears melodies.
        stems: what melodies are heard in, as ``mgl tokens --stems`` wants it; "" is the full mix.
    """

    name: str
    checksum: str
    codec: str
    codec_checksum: str
    codebooks: int
    melody: bool
    stems: str


def read_subject(model: str) -> Subject:
    """Looks into a model folder.

    Args:
        model: the folder, or "embedded".

    Raises:
        InputError: no such folder, no language model's, or a file of it is missing.
    """
    folder = model_folder(model)
    config = read_config(folder, "language_model")
    shape = config_section(LanguageModelConfig, config, "lm", folder)
    melody = config_section(MelodyConfig, config, "melody", folder) if config.get("melody") else None
    codec = EMBEDDED if config.get("codec") == EMBEDDED else str(folder / "codec")
    return Subject(
        name=model,
        checksum=file_checksum(folder / WEIGHTS),
        codec=codec,
        codec_checksum=codec_checksum(codec),
        codebooks=shape.codebooks,
        melody=melody is not None,
        stems=melody.stems if melody else "",
    )
