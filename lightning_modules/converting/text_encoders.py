"""The T5 encoders that come along in language models of transformers, with their tokenizers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from datamodules.errors import InputError
from lightning_modules.checkpoints import TEXT_ENCODER
from lightning_modules.conditioning.t5 import T5TextEncoder
from lightning_modules.conditioning.text import BYTES, TextEncoderConfig
from lightning_modules.converting.huggingface_files import CONFIG, HUB_NAME, one_line, silent_transformers
from lightning_modules.converting.tensors import ForeignTensors

if TYPE_CHECKING:
    from transformers import T5Config

_SHARED, _TIED = "shared.weight", "encoder.embed_tokens.weight"
_LEAST_TOKENS = 256  # fewer are a tokenizer whose files are incomplete
# Of the hub's T5s, by their names there before it had owners in names.
_OLD_NAMES = ("t5-small", "t5-base", "t5-large", "t5-3b", "t5-11b")
_T5_BASE = {
    "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12,
    "feed_forward_proj": "relu",
}  # fmt: skip


def hub_t5(name: str) -> str:
    """The hub's name of a T5 under an older one."""
    return f"google-t5/{name}" if name in _OLD_NAMES else name


def read_text_encoder(config: "T5Config", tensors: ForeignTensors, folder: Path) -> T5TextEncoder:
    """A T5 encoder in single precision, with the tokenizer that lies in the model's folder.

    Args:
        config: its shape.
        tensors: its own, and no others.
        folder: the model's.

    Raises:
        InputError: tensors that do not fit, or a tokenizer that is missing or does not belong to it.
    """
    from transformers import T5EncoderModel

    tokenizer = _read_tokenizer(folder)
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, and the text encoder knows {config.vocab_size}"
        )
    try:
        with torch.device("meta"), silent_transformers():
            model = T5EncoderModel(config)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{folder / CONFIG}: text_encoder: not the config of a T5: {one_line(error)}") from error
    # One tensor under two names, of which files hold either or both.
    source = _TIED if _SHARED not in tensors and _TIED in tensors else _SHARED
    tensors.skip(_TIED)
    state = {
        name: tensors.take(source if name == _SHARED else name, tensor.shape)
        for name, tensor in model.state_dict().items()
        if name != _TIED
    }
    tensors.finish(str(folder))
    missing = model.load_state_dict(state, assign=True, strict=False)
    model.tie_weights()
    assert missing.missing_keys in ([], [_TIED]), "a tensor of the text encoder without values"
    assert not any(tensor.is_meta for tensor in model.state_dict().values()), "a tensor without values"
    return T5TextEncoder(model, tokenizer, trained=False, max_tokens=512)


def text_encoder_config(encoder: T5TextEncoder, stored: Any) -> TextEncoderConfig:
    """What a model's config says of a text encoder whose weights lie in its folder.

    The name is that of the encoder it was made of, as far as that can be known: the one that is stored, our byte-level
    one or T5-base by its shape; else that of the folder, which is all there is to say.

    Args:
        encoder: the encoder.
        stored: the name in the checkpoint, if there is any; a path on the machine of whoever wrote it is none.
    """
    from transformers import ByT5Tokenizer

    shape = encoder.model.config
    if isinstance(encoder.tokenizer, ByT5Tokenizer) and (
        (shape.d_ff, shape.d_kv * shape.num_heads, shape.feed_forward_proj)
        == (2 * encoder.dim, encoder.dim, "gated-gelu")
    ):
        return TextEncoderConfig(BYTES, dim=encoder.dim, layers=shape.num_layers, heads=shape.num_heads)
    if isinstance(stored, str) and HUB_NAME.fullmatch(hub_t5(stored)):
        return TextEncoderConfig(hub_t5(stored))
    if all(getattr(shape, name) == value for name, value in _T5_BASE.items()):
        return TextEncoderConfig("google-t5/t5-base")
    return TextEncoderConfig(TEXT_ENCODER)


def _read_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    remedy = (
        "save that of its text encoder there, which for the published models is "
        f"AutoTokenizer.from_pretrained('google-t5/t5-base').save_pretrained({str(folder)!r})"
    )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "spiece.model")):
        raise InputError(f"{folder}: holds no tokenizer; {remedy}")
    try:
        with silent_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a file of anyone's can make it raise anything
        raise InputError(f"{folder}: the tokenizer is not readable ({one_line(error)}); {remedy}") from error
    if len(tokenizer) < _LEAST_TOKENS:
        raise InputError(
            f"{folder}: the tokenizer has only {len(tokenizer)} tokens, its files are incomplete; {remedy}"
        )
    return tokenizer
