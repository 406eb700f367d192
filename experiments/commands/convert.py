"""``mgl convert``: codecs and language models of others to ours, and ours to transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lightning_modules.codec.contract import Codec
    from lightning_modules.converting.lm_names import Progress
    from lightning_modules.converting.lm_native import ConvertedModel

_PATIENCE = 3.0  # seconds that one waits without being told


def convert(
    source: str,
    out: str,
    /,
    to: Literal["native", "hf"] = "native",
    codebooks: int | None = None,
    stereo: bool = False,
) -> None:
    """Reads a model, whoever saved it, and writes a model folder of this suite, or one that transformers loads.

    Nothing is trained or approximated: a converted codec gives the same codes, a converted language model the same
    logits.

    Args:
        source: a name on the Hugging Face hub (facebook/musicgen-small, facebook/encodec_32khz), a folder of
            transformers (MusicGen, MusicGen Melody, EncodecModel, DacModel), audiocraft's state_dict.bin with its
            compression_state_dict.bin beside it, the latter alone for its codec, or a folder of this suite.
        out: folder to write; a model of the same kind and format that is there already is replaced.
        to: "native", or "hf" for a folder of from_pretrained.
        codebooks: of a codec, keeps the first so many, for a coarser one with fewer codes a second; by default all.
        stereo: true makes a stereo codec of a mono one: both channels in turn, twice the codebooks.
    """
    from lightning_modules.converting.lm_native import ConvertedModel
    from lightning_modules.converting.run import convert as convert_model

    with _shown() as progress:
        made = convert_model(source, out, to, codebooks, stereo, tell=print, progress=progress)
    summary = _language_model(made) if isinstance(made, ConvertedModel) else _codec(made, to)
    print(f"{summary}: {out}")


@contextmanager
def _shown() -> "Iterator[Progress]":
    """A bar of the tensors read, and one while they are written, for what takes long.

    Of a large model that is read quickly all are read while they are written, of which nothing is told: hence a clock.
    It starts with the first tensor, for what is fetched before has bars of its own.
    """
    from experiments.console import progress

    bar = progress()
    reading = bar.add_task("reading tensors", total=None)
    writing = bar.add_task("writing", total=None, visible=False)
    clock = Timer(_PATIENCE, bar.start)
    clock.daemon = True

    def update(done: int, total: int) -> None:
        if clock.ident is None:
            clock.start()
        bar.update(reading, completed=done, total=total)
        bar.update(writing, visible=done == total)

    try:
        yield update
        bar.update(writing, completed=1, total=1)
    finally:
        clock.cancel()
        if clock.ident is not None:
            clock.join()  # it may be starting the bar just now
        if bar.live.is_started:  # stopping prints a line
            bar.stop()


def _language_model(model: "ConvertedModel") -> str:
    """A language model in one line."""
    shape = model.config
    heard = [
        f"{' and '.join(names)} {how}"
        for names, how in ((shape.cross, "attended to"), (shape.prefix, "before"), (shape.added, "added"))
        if names
    ]
    parts = [
        "MusicGen",
        f"{model.parameters / 1e6:.1f} M parameters in {shape.layers} layers of {shape.dim}",
        f"pattern {shape.pattern} over {shape.codebooks} x {shape.entries} codes",
        *(heard or ["no conditions"]),
        f"codec {model.codec.sample_rate} Hz {'mono' if model.codec.channels == 1 else 'stereo'}",
    ]
    if model.text is not None:
        parts.append(
            f"text encoder {model.text.name}{'' if model.encoder is not None else ' (fetched when it is used)'}"
        )
    return ", ".join(parts)


def _codec(codec: "Codec", to: str) -> str:
    """A codec in one line."""
    from lightning_modules.codec.dac import DAC
    from lightning_modules.codec.stereo import StereoCodec

    inner = codec.mono if isinstance(codec, StereoCodec) else codec
    parts = [
        "DAC" if isinstance(inner, DAC) else "EnCodec",
        f"{sum(parameter.numel() for parameter in codec.parameters()) / 1e6:.1f} M parameters",
        f"{codec.sample_rate} Hz {'mono' if codec.channels == 1 else 'stereo'}",
        f"{codec.codebooks} x {codec.entries} codes at {codec.frame_rate:g} Hz",
        f"{codec.bitrate / 1000:.3g} kbit/s",
    ]
    if to == "native":
        parts.append(f"checksum {codec.checksum[:12]}")
    return ", ".join(parts)
