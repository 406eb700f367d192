"""Language models as the planner counts them: the paper's recipe at a size, at a folder's shape, or at a peer's."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from datamodules.features.chroma import PITCH_CLASSES
from experiments.compose import language_model_layers, layers, merged
from experiments.planning.subject import CodecFacts, Encoder, Subject, codec_facts, codec_layer_facts, subject
from lightning_modules.checkpoints import TEXT_ENCODER, Description
from lightning_modules.conditioning.conditioners import MELODY, TEXT
from lightning_modules.lm.model import LanguageModelConfig

_CODEC = "encodec_32khz"
# Of a text, as the planner assumes for T5.
_PLACES = 64


def size_names() -> list[str]:
    """The layers of size/."""
    return [name.removeprefix("size/") for name in layers() if name.startswith("size/")]


def size_subject(size: str) -> Subject:
    """The paper's recipe at a layer of size/: T5, delay pattern, its codec."""
    return subject(_recipe(size), codec_layer_facts(_CODEC))


def folder_subject(described: Description) -> Subject:
    """The paper's recipe at the shape of a model folder, with its codec and text encoder."""
    recipe, own = _recipe("small"), described.text_encoder
    model = recipe["model"]["init_args"]
    model["lm"] = asdict(described.lm)
    model["text"] = asdict(described.text) if described.text else None
    model["melody"] = asdict(described.melody) if described.melody else None
    if own is not None and model["text"]["name"] == TEXT_ENCODER:
        model["text"]["name"] = str(own)
    return subject(recipe, codec_facts(described.codec))


def huggingface_subject(config: Any, name: str) -> Subject:
    """The paper's recipe at the shape of a MusicGen of transformers.

    Args:
        config: its ``MusicgenConfig`` or ``MusicgenMelodyConfig``.
        name: of the model.
    """
    from transformers import AutoModelForTextEncoding, EncodecModel

    with torch.device("meta"):
        texts, codec = AutoModelForTextEncoding.from_config(config.text_encoder), EncodecModel(config.audio_encoder)
    decoder, melody, audio = config.decoder, config.model_type == "musicgen_melody", config.audio_encoder
    shape = LanguageModelConfig(
        dim=decoder.hidden_size,
        layers=decoder.num_hidden_layers,
        heads=decoder.num_attention_heads,
        ff_ratio=decoder.ffn_dim // decoder.hidden_size,
        codebooks=decoder.num_codebooks,
        entries=decoder.vocab_size,
        pattern="stereo_partial_delay" if decoder.audio_channels == 2 else "delay",
        cross=() if melody else (TEXT,),
        prefix=(MELODY, TEXT) if melody else (),
    )
    encoder = Encoder(config.text_encoder.d_model, _size(texts), _PLACES)
    facts = CodecFacts(name, _size(codec), shape.codebooks, shape.entries, float(audio.frame_rate))
    dims = {TEXT: encoder.dim, MELODY: PITCH_CLASSES}
    places = {TEXT: encoder.tokens, MELODY: getattr(config, "chroma_length", 0)}
    paper = size_subject("small")
    return replace(
        paper,
        lm=shape,
        text=encoder,
        text_name=str(getattr(config.text_encoder, "_name_or_path", "") or "t5"),
        codec=facts,
        dims={name: dims[name] for name in shape.conditions},
        places={name: places[name] for name in shape.conditions},
        frames=round(paper.frames / paper.codec.frame_rate * facts.frame_rate),
    )


def _recipe(size: str) -> dict[str, Any]:
    return merged(language_model_layers(size, "delay", "t5", "gpus"))


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def newest_run(size: str, runs: Path) -> Path | None:
    """The model of the run of ``make train-SIZE`` that ended last, or None."""
    found = [path.parent for path in runs.glob(f"{size}-*/model/config.yaml")]
    return max(found, key=lambda folder: (folder / "config.yaml").stat().st_mtime, default=None)
