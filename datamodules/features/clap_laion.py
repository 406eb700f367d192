"""Checkpoints of the laion-clap package as networks of transformers: the same network under other names.

laion-clap itself is not imported: it asks the network for three tokenizers as it is imported, and unpickles its files.
What is read are its networks with an HTS-AT for ears, without fusion, and RoBERTa for words, which
``music_audioset_epoch_15_esc_90.14.pt`` is, the one that MusicGen is scored and conditioned with.
"""

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import ClapAudioConfig, ClapConfig, ClapFeatureExtractor, ClapModel, ClapTextConfig

from datamodules.errors import InputError
from datamodules.features.pickles import read_pickle

_PUBLISHED = "music_audioset_epoch_15_esc_90.14.pt"
_HEAD_SIZE = 64  # of RoBERTa; tensors do not say
# Theirs -> transformers', tried in this order.
_NAMES = [
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.bn0\.", "audio_model.audio_encoder.batch_norm."),
    (r"^audio_branch\.(patch_embed|layers|norm)\.", r"audio_model.audio_encoder.\1."),
    (r"_projection\.0\.", "_projection.linear1."),
    (r"_projection\.2\.", "_projection.linear2."),
    (r"(blocks\.\d+)\.norm1\.", r"\1.layernorm_before."),
    (r"(blocks\.\d+)\.norm2\.", r"\1.layernorm_after."),
    (r"(blocks\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"(blocks\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
    (r"(blocks\.\d+)\.attn\.proj\.", r"\1.attention.output.dense."),
    (r"(blocks\.\d+)\.attn\.(qkv|relative)", r"\1.attention.self.\2"),
]
# What embeddings have no use for: spectrogram (computed alike), class scores, heads of the contrastive training, masks
# that follow from the shape.
_UNUSED = re.compile(
    r"^(text|audio)_transform\.|^audio_branch\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\.|\.attn_mask$"
)


def read_laion_clap(path: str | Path) -> tuple[ClapModel, ClapFeatureExtractor]:
    """Reads a checkpoint of laion-clap without running what it says.

    Args:
        path: a .pt file, as published or as ``torch.save(CLAP_Module().model.state_dict())`` writes it.

    Returns:
        The network, and what makes its spectrograms.

    Raises:
        InputError: no such file, a damaged one, or a network of another kind.
    """
    state = _tensors(read_pickle(path, _numpy_scalars()))
    if any("fusion_model" in name or "mel_conv" in name for name in state):
        raise InputError(
            f"{path}: a CLAP with fusion, which hears random crops; give one without, such as {_PUBLISHED}"
        )
    try:
        converted = _converted(state)
        config = _config(converted)
        with torch.device("meta"):
            model = ClapModel(config)
        model.load_state_dict(converted, assign=True)
    except (KeyError, ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
        raise InputError(f"{path}: no CLAP of laion-clap with HTS-AT and RoBERTa, such as {_PUBLISHED}") from error
    # The settings of all HTS-AT of laion-clap. Not "fusion", and so the mel filters of librosa.
    return model, ClapFeatureExtractor(frequency_min=50, frequency_max=14_000, truncation="rand_trunc")


def _tensors(package: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint, or of the state_dict in it; "module." stems from training on several GPUs."""
    state = package.get("state_dict", package) if isinstance(package, dict) else None
    if not isinstance(state, dict):
        return {}
    return {str(name).removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}


def _numpy_scalars() -> list[Any]:
    """Training left numpy's numbers among the settings of its optimizer; numpy 1 and 2 name their maker differently."""
    maker = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")}
    return [(maker, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")] + [np.dtype, *kinds]


def _converted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    for theirs, tensor in state.items():
        if _UNUSED.search(theirs):
            continue
        name = theirs
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        # A copy: the file's own tensors are a view of the disk.
        tensor = tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor.clone()
        if ".qkv." in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                converted[name.replace("qkv", part)] = third.clone()
        else:
            converted[name] = tensor
    # Some versions of transformers saved the first, none the second; both say nothing.
    positions = torch.arange(len(converted["text_model.embeddings.position_embeddings.weight"]))[None]
    converted["text_model.embeddings.position_ids"] = positions
    converted["text_model.embeddings.token_type_ids"] = torch.zeros_like(positions)
    return converted


def _config(state: Mapping[str, Tensor]) -> ClapConfig:
    """The shape of a network, as its tensors tell it."""
    patches = state["audio_model.audio_encoder.patch_embed.proj.weight"]
    tables = _stages(state, r"layers\.(\d+)\.blocks\.(\d+)\.attention\.self\.relative_position_bias_table")
    first = state["audio_model.audio_encoder.layers.0.blocks.0.intermediate.dense.weight"]
    audio = ClapAudioConfig(
        window_size=(isqrt(len(tables[0][0])) + 1) // 2,
        num_mel_bins=len(state["audio_model.audio_encoder.batch_norm.weight"]),
        patch_size=patches.shape[-1],
        patch_stride=[patches.shape[-1], patches.shape[-1]],
        hidden_size=state["audio_projection.linear1.weight"].shape[1],
        depths=[len(stage) for stage in tables],
        num_attention_heads=[stage[0].shape[1] for stage in tables],
        patch_embeds_hidden_size=len(patches),
        mlp_ratio=first.shape[0] / first.shape[1],
    )
    words = state["text_model.embeddings.word_embeddings.weight"]
    text = ClapTextConfig(
        vocab_size=len(words),
        hidden_size=words.shape[1],
        num_hidden_layers=len(_stages(state, r"text_model\.encoder\.layer\.(\d+)()\.output\.dense\.weight")),
        num_attention_heads=words.shape[1] // _HEAD_SIZE,
        intermediate_size=len(state["text_model.encoder.layer.0.intermediate.dense.weight"]),
        max_position_embeddings=len(state["text_model.embeddings.position_embeddings.weight"]),
        type_vocab_size=len(state["text_model.embeddings.token_type_embeddings.weight"]),
        layer_norm_eps=1e-5,  # RoBERTa's; transformers' default for CLAP is 1e-12
    )
    return ClapConfig(text_config=text, audio_config=audio, projection_dim=len(state["text_projection.linear2.weight"]))


def _stages(state: Mapping[str, Tensor], pattern: str) -> list[list[Tensor]]:
    """Tensors whose names match, by the first number in the name and then the second."""
    found: dict[int, list[Tensor]] = {}
    for name, tensor in state.items():
        if match := re.search(pattern, name):
            found.setdefault(int(match[1]), []).append(tensor)
    return [found[number] for number in range(len(found))]
