"""T5 as a text encoder: frozen pretrained T5, FLAN-T5 and ByT5, and a byte-level T5 that is trained along.

Shape letters: B items, L tokens, D width of the text encoder.
"""

import warnings
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedConfig, T5Config, T5EncoderModel

from datamodules.errors import InputError
from datamodules.hub import IncompleteError, local_first, quiet_transformers
from lightning_modules.conditioning.conditions import Condition
from lightning_modules.conditioning.text import BYTES, TextEncoder, TextEncoderConfig

# Longest text in tokens; what is longer is cut. T5 was trained on 512, and a byte counts as a token.
_MAX_TOKENS = {BYTES: 256}
_DEFAULT_MAX_TOKENS = 512
_FEWEST_TOKENS = 256
_NGRAMS = (3, 4, 5, 6)
_HASH_BASE, _HASH_PRIME = 1_000_003, 2**31 - 1
_KINDS = ("t5", "mt5", "umt5")  # FLAN-T5 and ByT5 are "t5" too


class T5TextEncoder(TextEncoder):
    """A T5 encoder and its tokenizer: an embedding a token.

    Where ``model.config.ngrams`` is set, so many rows stand below the tokenizer's own in the table of embeddings, and
    every token is heard with the 3 to 6 tokens that end with it: each group has the row that its hash says, and the
    five embeddings are added up and divided by the square root of five (hash n-grams: Byte Latent Transformer, arXiv
    2412.09871, section 3.2.1).

    Args:
        model: the encoder.
        tokenizer: its tokenizer.
        trained: whether its weights learn along with the language model.
        max_tokens: what is longer is cut, and the first time said so.

    Raises:
        InputError: the table has fewer rows for groups of tokens than the config says.
    """

    def __init__(self, model: T5EncoderModel, tokenizer: Any, *, trained: bool, max_tokens: int) -> None:
        super().__init__(dim=model.config.d_model, trained=trained)
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens
        self.ngrams = getattr(model.config, "ngrams", 0)
        rows, own = model.config.vocab_size, len(tokenizer)
        if self.ngrams and self.ngrams not in range(1, rows - own + 1):
            raise InputError(
                f"the text encoder's config has ngrams {self.ngrams!r}, and its table {rows} rows, of which {own} are "
                "the tokenizer's"
            )
        self._told = False
        if not trained:
            model.requires_grad_(False).eval()

    def forward(self, given: Sequence[str]) -> Condition:
        """B texts -> embeddings [B, L, D] and mask [B, L]; a text of white space alone is the null condition."""
        device = self.model.device
        tokens = self._tokens(list(given)).to(device)
        mask = tokens["attention_mask"].bool()
        mask = mask & torch.tensor([bool(text.strip()) for text in given], device=device)[:, None]
        # A frozen encoder is in float32 whatever the precision of the run, as it is when clips are generated; and T5
        # overflows in float16.
        mixed = self.trained and torch.is_autocast_enabled(device.type)
        grad = torch.set_grad_enabled(self.trained and torch.is_grad_enabled())
        with grad, torch.autocast(device.type, enabled=mixed):
            hidden = self.model(
                inputs_embeds=self._embedded(tokens["input_ids"]), attention_mask=tokens["attention_mask"]
            )
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

    def _embedded(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L] -> what the encoder's layers begin with [B, L, D]."""
        table = self.model.get_input_embeddings()
        made: Tensor = table(tokens)
        if not self.ngrams:
            return made
        first = self.model.config.vocab_size - self.ngrams
        for length in _NGRAMS:
            made = made + table(first + ngram_hashes(tokens, length) % self.ngrams)
        return made / sqrt(1 + len(_NGRAMS))

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


def ngram_hashes(tokens: Tensor, length: int) -> Tensor:
    """Tokens [B, L] int64 -> a number below 2^31 for each group of so many that ends there [B, L].

    Before the first token stand zeros. Polynomials modulo a prime, so the same on every device.
    """
    before = F.pad(tokens, (length - 1, 0))
    made = torch.zeros_like(tokens)
    for shift in range(length):
        made = (made * _HASH_BASE + before[:, shift : shift + tokens.shape[1]] + 1) % _HASH_PRIME
    return made


def fresh_byte_encoder(config: TextEncoderConfig) -> T5TextEncoder:
    """A byte-level encoder of this shape, to be trained along.

    Raises:
        InputError: a table of fewer rows than none.
    """
    if config.ngrams < 0:
        raise InputError(f"text.ngrams is {config.ngrams}; give how many rows the table is to have, 0 for none")
    ngrams: dict[str, Any] = {"ngrams": config.ngrams} if config.ngrams else {}  # goes into its config.json
    tokenizer = ByT5Tokenizer()
    shape = T5Config(
        vocab_size=len(tokenizer) + config.ngrams,
        d_model=config.dim,
        d_kv=config.dim // config.heads,
        d_ff=2 * config.dim,
        num_layers=config.layers,
        num_heads=config.heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        **ngrams,
    )
    return T5TextEncoder(T5EncoderModel(shape), tokenizer, trained=True, max_tokens=_MAX_TOKENS[BYTES])


def load_text_encoder(name: str, *, trained: bool) -> T5TextEncoder:
    """A T5 encoder with its tokenizer from a folder in Hugging Face's layout, or from the hub (or its cache).

    Raises:
        InputError: it is not there and cannot be fetched, is no T5, or its files are damaged or not all there.
    """
    otherwise = "train with the byte-level one: TEXT=bytes"
    model, tokenizer = local_first(_from_pretrained, name, "the text encoder", otherwise)
    bytewise = isinstance(tokenizer, ByT5Tokenizer)
    return T5TextEncoder(
        model, tokenizer, trained=trained, max_tokens=_MAX_TOKENS[BYTES] if bytewise else _DEFAULT_MAX_TOKENS
    )


def _from_pretrained(name: str, local: bool) -> tuple[T5EncoderModel, Any]:
    kind = PreTrainedConfig.get_config_dict(name, local_files_only=local)[0].get("model_type")
    if kind not in _KINDS:
        raise InputError(f"the text encoder {name}: is a model of kind {kind!r}, which is no T5; give one")
    loaded: Any = T5EncoderModel.from_pretrained(
        name, local_files_only=local, dtype=torch.float32, output_loading_info=True
    )
    model, said = loaded
    # They would be drawn at random, with a warning.
    if said["missing_keys"]:
        missing = len(said["missing_keys"])
        raise InputError(f"the text encoder {name}: {missing} tensors of a T5 encoder are not in it; fetch it again")
    tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
    # Offline, some tokenizers come back with a handful of tokens and no error.
    if len(tokenizer) < _FEWEST_TOKENS:
        raise IncompleteError(f"a tokenizer of {len(tokenizer)} tokens")
    return model, tokenizer
