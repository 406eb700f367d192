"""What a fine-tuning takes from the model that it begins with: shape, texts, melodies, codec, window."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from lightning_modules.checkpoints import describe
from lightning_modules.codec.folder import load_codec
from lightning_modules.conditioning.conditioners import MELODY
from lightning_modules.conditioning.text import BYTES
from lightning_modules.generation.model import trained_window

CROPS = 32  # of an optimiser step
_MELODY_DROPOUT = 0.5  # as in conditioning/melody


class FineTuning:
    """A model to go on from, as a run's layers and arguments have it.

    Args:
        model: its folder, or "embedded".
        lora: rank of the adapters; None trains the whole model.

    Attributes:
        model: as given.
        start: what its config says.

    Raises:
        InputError: the folder is missing or not a language model's, or there is no such rank.
    """

    def __init__(self, model: str, lora: int | None = None) -> None:
        self.model, self.start = model, describe(model)
        self._lora = lora
        self._adapters = lora_arguments(lora)

    @property
    def name(self) -> str:
        """For the folder of a run."""
        place = Path(self.model)
        # A run's model lies in its folder under a name that says nothing.
        named = place.resolve().parent.name if place.name in ("", "model") else place.name
        return f"finetune-{named}" + (f"-lora{self._lora}" if self._lora else "")

    @property
    def stems(self) -> str | None:
        """In which its melodies are heard, "" for the full mix; None of a model that hears none."""
        return self.start.melody.stems if self.start.melody else None

    def layers(self, cluster: str) -> list[str]:
        """In their order; what is the model's own comes as arguments."""
        return ["lm", "finetune", "captions/paper", f"cluster/{cluster}"]

    def arguments(self) -> list[str]:
        """Of ``mgl fit``."""
        start = self.start
        values: dict[str, Any] = {
            "model.init_args.start_from": self.model,
            "model.init_args.lm": _json(start.lm),
            "model.init_args.text": _json(start.text),
            "model.init_args.melody": _json(start.melody),
        }
        seconds = trained_window(start.about, start.melody, load_codec(start.codec).sample_rate)
        if seconds is not None:
            values["data.init_args.seconds"] = seconds
        if MELODY in start.lm.conditions and len(start.lm.conditions) > 1:
            values["model.init_args.attribute_dropout"] = json.dumps({MELODY: _MELODY_DROPOUT})
        return [*(word for name, value in values.items() for word in (f"--{name}", str(value))), *self._adapters]

    def text_line(self, parameters: int) -> str | None:
        """Where its text encoder comes from; None if that is not its folder."""
        if self.start.text is None or self.start.text_encoder is None:
            return None
        trained = not self._lora and (self.start.text.train or self.start.text.name == BYTES)
        how = "trained along" if trained else "frozen"
        return f"{self.start.text.name}, {parameters:,} parameters, {how}: in the model's folder"


def lora_arguments(rank: int | None) -> list[str]:
    """Arguments of ``mgl fit`` that put adapters of this rank into the model; none without.

    Raises:
        InputError: the rank is below 1.
    """
    if rank is None:
        return []
    if rank < 1:
        raise InputError(f"lora: rank {rank}; give 1 or more, 16 say")
    return ["-c", "lora", "--model.init_args.lora.rank", str(rank)]


def _json(section: Any) -> str:
    return json.dumps(asdict(section) if section is not None else None)
