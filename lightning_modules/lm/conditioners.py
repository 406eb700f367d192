"""From words to what the language model attends to: frozen pretrained T5, or a byte-level T5 trained along.

Shape letters: B items, L tokens, D width of the text encoder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, ByT5Tokenizer, T5Config, T5EncoderModel

from datamodules.errors import InputError
from lightning_modules.hub import hub_reachable, quiet_transformers

BYTES = "bytes"
# Longest text in tokens; what is longer is cut. T5 was trained on 512, and a byte counts as a token.
_MAX_TOKENS = {BYTES: 256}
_DEFAULT_MAX_TOKENS = 512


class Condition(NamedTuple):
    """embeddings [B, L, D], zero where masked, and mask [B, L], true where there is something."""

    embeddings: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Conditions:
    """Conditions by name ("text"); what is dropped is masked altogether, which is the null condition."""

    items: Mapping[str, Condition]

    def __getitem__(self, name: str) -> Condition:
        return self.items[name]

    def drop(self, rows: Tensor) -> "Conditions":
        """The same conditions with those of ``rows`` ([B] bool) replaced by the null condition."""
        kept = {}
        for name, (embeddings, mask) in self.items.items():
            kept[name] = Condition(embeddings.masked_fill(rows[:, None, None], 0), mask & ~rows[:, None])
        return Conditions(kept)

    def null(self) -> "Conditions":
        """The null condition of the same shape."""
        return Conditions(
            {name: Condition(torch.zeros_like(e), torch.zeros_like(m)) for name, (e, m) in self.items.items()}
        )

    def followed_by(self, other: "Conditions") -> "Conditions":
        """These rows, then ``other``'s."""
        pairs = {name: (self.items[name], other.items[name]) for name in self.items}
        return Conditions(
            {
                name: Condition(torch.cat([a.embeddings, b.embeddings]), torch.cat([a.mask, b.mask]))
                for name, (a, b) in pairs.items()
            }
        )


@dataclass(frozen=True)
class TextEncoderConfig:
    """Which text encoder.

    Attributes:
        name: "bytes" for a byte-level T5 encoder trained from scratch with the language model, else a Hugging Face hub
            id or folder of a T5 encoder, kept frozen (the paper's: "google-t5/t5-base").
        dim: width, for "bytes"; a pretrained encoder brings its own.
        layers: encoder layers, for "bytes".
        heads: attention heads, for "bytes".
    """

    name: str = "google-t5/t5-base"
    dim: int = 256
    layers: int = 2
    heads: int = 4


class TextEncoder(nn.Module):
    """Texts -> Condition, through a T5 encoder and its tokenizer.

    Attributes:
        dim: width of the embeddings.
        trained: whether its weights learn along with the language model.
    """

    def __init__(self, model: T5EncoderModel, tokenizer: Any, *, trained: bool, max_tokens: int) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.trained, self.max_tokens = trained, max_tokens
        self.dim: int = model.config.d_model
        if not trained:
            model.requires_grad_(False).eval()

    def forward(self, texts: Sequence[str]) -> Condition:
        """B texts -> embeddings [B, L, D] and mask [B, L]; an empty text is the null condition."""
        device = self.model.device
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(device)
        mask = tokens["attention_mask"].bool()
        mask = mask & torch.tensor([bool(text.strip()) for text in texts], device=device)[:, None]
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            hidden = self.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        embeddings: Tensor = hidden.last_hidden_state
        return Condition(embeddings.masked_fill(~mask[..., None], 0), mask)

    def save(self, folder: str | Path) -> None:
        """Writes the encoder and its tokenizer in Hugging Face's layout."""
        with quiet_transformers():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def build_text_encoder(config: TextEncoderConfig) -> TextEncoder:
    """A fresh byte-level encoder, or a pretrained one.

    Raises:
        InputError: the pretrained encoder is not on this machine and cannot be fetched.
    """
    if config.name != BYTES:
        return load_text_encoder(config.name, trained=False)
    tokenizer = ByT5Tokenizer()
    shape = T5Config(
        vocab_size=len(tokenizer),
        d_model=config.dim,
        d_kv=config.dim // config.heads,
        d_ff=2 * config.dim,
        num_layers=config.layers,
        num_heads=config.heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )
    return TextEncoder(T5EncoderModel(shape), tokenizer, trained=True, max_tokens=_MAX_TOKENS[BYTES])


def load_text_encoder(name: str, *, trained: bool) -> TextEncoder:
    """A T5 encoder with its tokenizer from a folder in Hugging Face's layout, or from the hub (or its cache).

    Raises:
        InputError: it is not there and cannot be fetched, or its tokenizer does not belong to it.
    """
    try:
        try:
            model, tokenizer = _from_pretrained(name, local=True)
        except OSError:
            if Path(name).is_dir() or not hub_reachable():
                raise
            model, tokenizer = _from_pretrained(name, local=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the text encoder {name} is not on this machine and cannot be fetched; "
            "fetch it where there is a network (HF_HOME), or train with the byte-level one: TEXT=bytes"
        ) from error
    # Offline, some tokenizers come back with a handful of tokens and no error.
    if len(tokenizer) < 256:
        raise InputError(f"the tokenizer of {name} has only {len(tokenizer)} tokens: its files are incomplete")
    bytewise = isinstance(tokenizer, ByT5Tokenizer)
    return TextEncoder(
        model, tokenizer, trained=trained, max_tokens=_MAX_TOKENS[BYTES] if bytewise else _DEFAULT_MAX_TOKENS
    )


def _from_pretrained(name: str, *, local: bool) -> tuple[T5EncoderModel, Any]:
    with quiet_transformers():
        model = T5EncoderModel.from_pretrained(name, local_files_only=local)
        return model, AutoTokenizer.from_pretrained(name, local_files_only=local)
