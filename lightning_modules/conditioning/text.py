"""Texts as conditions: frozen pretrained T5 and FLAN-T5, a byte-level T5 trained along, and CLAP.

Shape letters: B items, L tokens, D width of the text encoder.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoTokenizer, ByT5Tokenizer, T5Config, T5EncoderModel

from datamodules.errors import InputError
from datamodules.hub import hub_reachable, quiet_transformers
from lightning_modules.conditioning.conditions import Condition, Conditioner

BYTES = "bytes"
# Longest text in tokens; what is longer is cut. T5 was trained on 512, and a byte counts as a token.
_MAX_TOKENS = {BYTES: 256}
_DEFAULT_MAX_TOKENS = 512


@dataclass(frozen=True)
class TextEncoderConfig:
    """Which text encoder.

    Attributes:
        name: "bytes" for a byte-level T5 encoder trained from scratch with the language model, else a Hugging Face hub
            id or folder: of a T5 encoder (the paper's: "google-t5/t5-base"), or of a CLAP.
        kind: "t5", which FLAN-T5 and ByT5 are too, or "clap", whose one embedding a text is what the paper's ablation
            conditions on (table A.1).
        train: learns along with the language model; otherwise a pretrained encoder is frozen. "bytes" always learns.
        dim: width, for "bytes"; a pretrained encoder brings its own.
        layers: encoder layers, for "bytes".
        heads: attention heads, for "bytes".
    """

    name: str = "google-t5/t5-base"
    kind: Literal["t5", "clap"] = "t5"
    train: bool = False
    dim: int = 256
    layers: int = 2
    heads: int = 4


class TextEncoder(Conditioner):
    """Texts -> Condition; an empty text is the null condition."""

    def forward(self, given: Sequence[str]) -> Condition:
        """B texts -> embeddings [B, L, D] and mask [B, L]."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Writes the encoder and its tokenizer in Hugging Face's layout."""
        raise NotImplementedError


class T5TextEncoder(TextEncoder):
    """A T5 encoder and its tokenizer: an embedding a token.

    Args:
        model: the encoder.
        tokenizer: its tokenizer.
        trained: whether its weights learn along with the language model.
        max_tokens: what is longer is cut, and the first time said so.
    """

    def __init__(self, model: T5EncoderModel, tokenizer: Any, *, trained: bool, max_tokens: int) -> None:
        super().__init__(dim=model.config.d_model, trained=trained)
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens
        self._told = False
        if not trained:
            model.requires_grad_(False).eval()

    def forward(self, given: Sequence[str]) -> Condition:
        """B texts -> embeddings [B, L, D] and mask [B, L]; a text of white space alone is the null condition."""
        device = self.model.device
        tokens = self._tokens(list(given)).to(device)
        mask = tokens["attention_mask"].bool()
        mask = mask & torch.tensor([bool(text.strip()) for text in given], device=device)[:, None]
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            hidden = self.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        embeddings: Tensor = hidden.last_hidden_state
        return Condition(embeddings.masked_fill(~mask[..., None], 0), mask)

    def save(self, folder: str | Path) -> None:
        """Writes the encoder and its tokenizer in Hugging Face's layout."""
        with quiet_transformers():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def train(self, mode: bool = True) -> "T5TextEncoder":
        """A frozen encoder stays in evaluation mode: no dropout in what is not learnt."""
        super().train(mode and self.trained)
        return self

    def _tokens(self, texts: list[str]) -> Any:
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt", verbose=False)
        length = tokens["input_ids"].shape[1]
        if length <= self.max_tokens:
            return tokens
        if not self._told:
            self._told = True
            warnings.warn(
                f"a text has {length} tokens; the encoder hears the first {self.max_tokens} of each", stacklevel=4
            )
        return self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")


def build_text_encoder(config: TextEncoderConfig) -> TextEncoder:
    """A fresh byte-level encoder, or a pretrained one.

    Raises:
        InputError: the pretrained encoder is not on this machine and cannot be fetched.
    """
    if config.kind == "clap":
        return _clap(config)
    if config.name != BYTES:
        return load_text_encoder(config.name, trained=config.train)
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
    return T5TextEncoder(T5EncoderModel(shape), tokenizer, trained=True, max_tokens=_MAX_TOKENS[BYTES])


def load_text_encoder(name: str, *, trained: bool) -> T5TextEncoder:
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
            f"the text encoder {name} is not on this machine and there is no network; "
            "run `make weights` where there is one (HF_HOME is the cache), or train with the byte-level one: TEXT=bytes"
        ) from error
    # Offline, some tokenizers come back with a handful of tokens and no error.
    if len(tokenizer) < 256:
        raise InputError(f"the tokenizer of {name} has only {len(tokenizer)} tokens: its files are incomplete")
    bytewise = isinstance(tokenizer, ByT5Tokenizer)
    return T5TextEncoder(
        model, tokenizer, trained=trained, max_tokens=_MAX_TOKENS[BYTES] if bytewise else _DEFAULT_MAX_TOKENS
    )


def _from_pretrained(name: str, *, local: bool) -> tuple[T5EncoderModel, Any]:
    with quiet_transformers():
        model = T5EncoderModel.from_pretrained(name, local_files_only=local, dtype=torch.float32)
        return model, AutoTokenizer.from_pretrained(name, local_files_only=local)


def _clap(config: TextEncoderConfig) -> TextEncoder:
    from lightning_modules.conditioning.clap import ClapTextEncoder

    if config.train:
        raise InputError("text.train: a CLAP stays frozen, for training would part its texts from its sounds")
    return ClapTextEncoder(config.name)
