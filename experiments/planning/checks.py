"""Whether all that a run reads is there and fits together: a line of each, or an error of one line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from datamodules.hub import hub_reachable
from datamodules.tokens.store import TokenStore
from experiments.planning.subject import CodecFacts, Subject
from lightning_modules.conditioning.text import BYTES

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def data_line(store: TokenStore, seconds: float) -> str:
    """Says what a store holds.

    Raises:
        InputError: one of the splits is empty.
    """
    training, held_out = store.split("train"), store.split("valid")
    frames = round(seconds * store.frame_rate)
    lengths = training.column("frames")
    short = int((lengths < frames).sum())
    hours = float(lengths.sum()) / store.frame_rate / 3600
    padded = f"; {short} are shorter than the {seconds:g} s of a window, and padded" if short else ""
    return (
        f"{store.folder}: {len(training)} tracks ({hours:.3g} h) to train on, {len(held_out)} held out, "
        f"{store.codebooks} x {store.entries} codes at {store.frame_rate:g} Hz{padded}"
    )


def codec_line(store: TokenStore, codec: CodecFacts) -> str:
    """Says which codec wrote the tokens.

    Raises:
        InputError: it was another one.
    """
    if codec.checksum != store.codec:
        raise InputError(
            f"{store.folder}: the tokens come from codec {store.codec[:12]}, not from {codec.name} "
            f"({codec.checksum[:12]}); name the codec that wrote them, or write them anew with this one"
        )
    return f"{codec.name}, {codec.parameters:,} parameters: it wrote these tokens"


def text_line(subject: Subject, text: Mapping[str, Any]) -> str:
    """Says where the text encoder comes from.

    Raises:
        InputError: it is not on this machine, and the hub cannot be asked.
    """
    name, count = subject.text_name, f"{subject.counts.text_encoder:,} parameters"
    if name == BYTES:
        return f"byte-level encoder, {count}, trained along"
    how = "trained along" if text.get("train") else "frozen"
    if at_hand(name):
        return f"{name}, {count}, {how}: on this machine"
    if hub_reachable():
        return f"{name}, {count}, {how}: to be fetched from the Hugging Face hub"
    raise InputError(
        f"the text encoder {name} is not on this machine and cannot be fetched; run `make weights` where there is a "
        "network (HF_HOME is the cache), or train with the byte-level one: TEXT=bytes"
    )


def melody_line(store: TokenStore, stems: str | None) -> str:
    """Says in what the tokens' melodies were heard.

    Args:
        store: has them.
        stems: in which the model hears them; None for those of the store, whatever they are.

    Raises:
        InputError: the model hears them in others.
    """
    there = store.header.stems
    if stems is not None and stems != there:
        wanted, found = (name or "the full mix" for name in (stems, there))
        raise InputError(
            f"{store.folder}: its melodies were heard in {found}, the model's are heard in {wanted}; write the tokens "
            + (f"with `mgl tokens --stems {stems}`" if stems else "without --stems")
        )
    return f"{there or 'the full mix'}, as the tokens have it"


def at_hand(name: str) -> bool:
    """Whether the weights of a model of the hub are in its cache, or ``name`` is a file or folder of them."""
    from huggingface_hub import try_to_load_from_cache

    place = Path(name)
    if place.exists():
        return place.is_file() or any((place / file).is_file() for file in _WEIGHTS)
    if name.count("/") != 1:  # no name of the hub's
        return False
    return any(isinstance(try_to_load_from_cache(name, file), str) for file in _WEIGHTS)
