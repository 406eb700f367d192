"""Coarser codecs: each codebook codes what those before it left, so the first few make a codec of their own."""

from dataclasses import replace

import torch

from datamodules.errors import InputError
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.dac import DAC
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.stereo import StereoCodec
from lightning_modules.converting.tensors import with_state


def first_codebooks(codec: Codec, codebooks: int) -> Codec:
    """The codec of the first ``codebooks`` codebooks.

    Args:
        codec: the codec; of a stereo one of two passes the codebooks of each pass are meant.
        codebooks: how many.

    Raises:
        InputError: it has fewer.
    """
    if isinstance(codec, StereoCodec):
        return StereoCodec(first_codebooks(codec.mono, codebooks))
    if not 1 <= codebooks <= codec.codebooks:
        raise InputError(f"{codebooks} codebooks: this codec has {codec.codebooks}, of which 1 or more can be kept")
    if isinstance(codec, DAC):
        return dac_prefix(codec, codebooks)
    assert isinstance(codec, EnCodec), "a codec of an unknown kind"
    with torch.device("meta"):
        made = EnCodec(replace(codec.config, codebooks=codebooks))
    state = codec.state_dict()
    return with_state(made, {name: state[name] for name in made.state_dict()})


def dac_prefix(codec: DAC, codebooks: int) -> DAC:
    """The first ``codebooks`` quantizers of a DAC, without the others."""
    with torch.device("meta"):
        made = DAC({**codec.shape, "n_codebooks": codebooks})
    state = codec.state_dict()
    return with_state(made, {name: state[name] for name in made.state_dict()})
