"""``mgl convert``: codecs of others to ours, and ours to transformers."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lightning_modules.codec.contract import Codec


def convert(
    source: str,
    out: str,
    /,
    to: Literal["native", "hf"] = "native",
    codebooks: int | None = None,
    stereo: bool = False,
) -> None:
    """Reads a codec, whoever saved it, and writes a codec folder of this suite, or one that transformers loads.

    Nothing is trained or approximated: the converted codec gives the same codes. Language models are not converted yet.

    Args:
        source: a name on the Hugging Face hub (facebook/encodec_32khz), a folder of transformers (EncodecModel,
            DacModel), audiocraft's compression_state_dict.bin, or a codec folder of this suite.
        out: folder to write; a codec folder of the same format that is there already is replaced.
        to: "native", or "hf" for a folder of EncodecModel.from_pretrained or DacModel.from_pretrained.
        codebooks: keeps the first so many, for a coarser codec with fewer codes a second; by default all.
        stereo: true makes a stereo codec of a mono one: both channels in turn, twice the codebooks.
    """
    from lightning_modules.converting.run import convert as convert_codec

    print(f"{_summary(convert_codec(source, out, to, codebooks, stereo), to)}: {out}")


def _summary(codec: "Codec", to: str) -> str:
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
