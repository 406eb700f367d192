"""A model that has learnt nothing: the same shape, random weights."""

import torch

from experiments.models.subject import read_subject
from lightning_modules.checkpoints import load_model, save_model
from lightning_modules.conditioning.conditioners import build_conditioners
from lightning_modules.conditioning.melody import MelodyConfig
from lightning_modules.conditioning.text import BYTES, TextEncoderConfig
from lightning_modules.lm.model import LanguageModel
from lightning_modules.model_folders import config_section


def untrained_model(model: str, out: str, seed: int) -> None:
    """Writes a model folder like another one, with a language model and a byte-level text encoder as they begin.

    A pretrained text encoder stays what it is, and so does the codec.

    Args:
        model: a model folder, or "embedded".
        out: folder of the new one.
        seed: draws the weights.

    Raises:
        InputError: ``model`` is no model folder, or ``out`` cannot be made.
    """
    trained = load_model(model)
    about = trained.about
    text = config_section(TextEncoderConfig, about, "text", model) if about.get("text") else None
    melody = config_section(MelodyConfig, about, "melody", model) if about.get("melody") else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = text is not None and text.name == BYTES
        conditioners = build_conditioners(text, melody) if fresh else trained.conditioners
        lm = LanguageModel(trained.lm.config, conditioners.dims)
    kept = {"window": about["window"]} if "window" in about else {}
    save_model(out, lm, text, conditioners, read_subject(model).codec, {**kept, "untrained": {"seed": seed}})
