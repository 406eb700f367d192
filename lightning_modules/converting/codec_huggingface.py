"""Codec folders of transformers, read and written: ``EncodecModel`` and ``DacModel``.

Such a folder is written by the model itself, built by transformers and filled with our tensors: it then checks every
name and shape, and writes the names that its own releases read.
"""

from collections.abc import Mapping
from math import ceil, inf, nextafter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from datamodules.errors import InputError
from datamodules.hub import quiet_transformers
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.dac import DAC
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.converting.codec_names import HUGGINGFACE, codec_config, encodec_state, positive, read_encodec
from lightning_modules.converting.codec_prefix import dac_prefix
from lightning_modules.converting.huggingface_files import CONFIG, one_line, read_config, read_weights
from lightning_modules.converting.tensors import ForeignTensors, with_state
from lightning_modules.model_folders import WEIGHTS

if TYPE_CHECKING:
    from transformers import FeatureExtractionMixin, PreTrainedModel

FILES = (CONFIG, WEIGHTS, "preprocessor_config.json")
KINDS = ("encodec", "dac")
# Fields of CodecConfig -> of EncodecConfig.
_FIELDS = {
    "sample_rate": "sampling_rate",
    "channels": "audio_channels",
    "filters": "num_filters",
    "ratios": "upsampling_ratios",
    "dim": "hidden_size",
    "residual_units": "num_residual_layers",
    "lstm_layers": "num_lstm_layers",
    "kernel": "kernel_size",
    "last_kernel": "last_kernel_size",
    "residual_kernel": "residual_kernel_size",
    "dilation_base": "dilation_growth_rate",
    "compress": "compress",
    "causal": "use_causal_conv",
    "pad_mode": "pad_mode",
    "conv_shortcut": "use_conv_shortcut",
    "entries": "codebook_size",
}
# What EncodecConfig can say besides, and the one value of it that our codec is.
_FIXED: dict[str, Any] = {
    "norm_type": "weight_norm",
    "normalize": False,
    "chunk_length_s": None,
    "trim_right_ratio": 1.0,
}
# The fields of DacConfig that shape it; the others are weights of losses.
_DAC_FIELDS = (
    "encoder_hidden_size", "downsampling_ratios", "decoder_hidden_size", "n_codebooks", "codebook_size",
    "codebook_dim", "sampling_rate",
)  # fmt: skip
_DAC_DERIVED = ("hidden_size", "hop_length", "upsampling_ratios")


def read_huggingface(folder: str | Path) -> Codec:
    """The codec in a folder that transformers saved; an EnCodec gets all its quantizers.

    Raises:
        InputError: no such folder, another model, a setting that our codecs have not, or tensors that do not fit.
    """
    fields = read_config(folder)
    if fields["model_type"] not in KINDS:
        raise InputError(f"{Path(folder) / CONFIG}: of a language model ({fields['model_type']}), not of a codec")
    tensors = ForeignTensors(read_weights(folder))
    return (_read_dac if fields["model_type"] == "dac" else encodec)(fields, tensors, Path(folder))


def write_huggingface(folder: str | Path, codec: Codec) -> None:
    """Writes the folder that ``EncodecModel.from_pretrained`` or ``DacModel.from_pretrained`` reads.

    Beside config and weights it holds what ``AutoProcessor.from_pretrained`` reads.

    Raises:
        InputError: a codec that transformers does not have.
    """
    model, extractor = to_transformers(codec)
    with quiet_transformers():
        model.save_pretrained(str(folder))
    extractor.save_pretrained(str(folder))


def to_transformers(codec: Codec) -> "tuple[PreTrainedModel, FeatureExtractionMixin]":
    """A codec as transformers' model, and the feature extractor that goes with it.

    Raises:
        InputError: a codec that transformers does not have.
    """
    from transformers import DacFeatureExtractor, EncodecFeatureExtractor

    if isinstance(codec, DAC):
        if codec.codebooks != codec.model.config.n_codebooks:
            codec = dac_prefix(codec, codec.codebooks)
        return codec.model, DacFeatureExtractor(1, codec.sample_rate, hop_length=codec.hop)
    if not isinstance(codec, EnCodec):
        raise InputError(
            "a stereo codec of two passes is no model of transformers, which keeps such stereo in the language model's "
            "config; convert the mono codec"
        )
    return _encodec_model(codec), EncodecFeatureExtractor(codec.channels, codec.sample_rate)


def _encodec_model(codec: EnCodec) -> "PreTrainedModel":
    from transformers import EncodecConfig, EncodecModel

    config = codec.config
    if config.lstm_layers == 0:
        raise InputError("lstm_layers is 0, and EncodecModel of transformers has an LSTM of 1 layer or more")
    if config.entries < 2 or config.entries & (config.entries - 1):
        raise InputError(f"{config.entries} entries: EncodecModel of transformers wants a power of two")
    if config.channels > 2:
        raise InputError(f"{config.channels} channels: EncodecModel of transformers has 1 or 2")
    fields: dict[str, Any] = {theirs: getattr(config, ours) for ours, theirs in _FIELDS.items()}
    fields["upsampling_ratios"] = list(config.ratios)
    shape = EncodecConfig(**fields, **_FIXED, codebook_dim=config.dim, target_bandwidths=[_bandwidth(config)])
    assert shape.num_quantizers == config.codebooks, "a bandwidth of another number of codebooks"
    model = EncodecModel(shape)
    model.load_state_dict(encodec_state(codec, HUGGINGFACE))
    return model.eval()


def _bandwidth(config: CodecConfig) -> float:
    """The kbit/s of which transformers makes exactly K quantizers.

    It divides by the bits of a codebook at a frame rate that it rounds up, and drops the remainder: a quotient that
    falls short of K by the last digit costs a codebook.
    """
    step = ceil(config.frame_rate) * (config.entries.bit_length() - 1)
    bandwidth = config.codebooks * step / 1000
    while 1000 * bandwidth // step < config.codebooks:
        bandwidth = nextafter(bandwidth, inf)
    return bandwidth


def encodec(fields: Mapping[str, Any], tensors: ForeignTensors, folder: Path, section: str = "") -> EnCodec:
    """The codec of an ``EncodecConfig``'s fields.

    Args:
        fields: what ``config.json`` says of it.
        tensors: of the codec, and no others.
        folder: theirs, for the errors.
        section: what of the config the fields are, if not all of it.

    Raises:
        InputError: a setting that our codecs have not, or tensors that do not fit.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import EncodecConfig

    where = f"{folder / CONFIG}: {section}".removesuffix(": ")
    try:
        theirs = EncodecConfig.from_dict(dict(fields))
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not the config of an EnCodec: {one_line(error)}") from error
    wrong = [name for name, value in _FIXED.items() if getattr(theirs, name) != value]
    if wrong:
        raise InputError(
            f"{where}: {wrong[0]} is {getattr(theirs, wrong[0])!r}; only {_FIXED[wrong[0]]!r} is converted"
        )
    if theirs.codebook_dim != theirs.hidden_size:
        raise InputError(
            f"{where}: codebook_dim is {theirs.codebook_dim!r}; only that of hidden_size, {theirs.hidden_size!r}, is "
            "converted"
        )
    values = {ours: getattr(theirs, name) for ours, name in _FIELDS.items()}
    try:
        values["codebooks"] = theirs.num_quantizers
    except (ArithmeticError, LookupError, ValueError):
        values["codebooks"] = None
    bandwidths = f"the number of quantizers from target_bandwidths {list(theirs.target_bandwidths)}"
    config = codec_config(values, {**_FIELDS, "codebooks": bandwidths}, where)
    return read_encodec(config, tensors, HUGGINGFACE, str(folder))


def _read_dac(fields: Mapping[str, Any], tensors: ForeignTensors, folder: Path) -> DAC:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import DacConfig

    where = folder / CONFIG
    try:
        theirs = DacConfig.from_dict(dict(fields))
        shape = {name: getattr(theirs, name) for name in _DAC_FIELDS}
        for name, value in shape.items():
            if not positive(value):
                raise InputError(f"{name} is {value!r}, which a DAC cannot be")
        plain = DacConfig(**shape)
        with torch.device("meta"):
            codec = DAC({**shape, "downsampling_ratios": list(theirs.downsampling_ratios)})
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (StrictDataclassError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not the config of a DAC: {one_line(error)}") from error
    for name in _DAC_DERIVED:
        if (found := getattr(theirs, name)) != (wanted := getattr(plain, name)):
            raise InputError(f"{where}: {name} is {found!r}; only the {wanted!r} of its ratios and widths is converted")
    made = {}
    for ours, tensor in codec.state_dict().items():
        name = ours.removeprefix("model.")
        place, _, last = name.rpartition(".")
        made[ours] = tensors.folded(place, tensor.shape) if last == "weight" else tensors.take(name, tensor.shape)
    tensors.finish(str(folder))
    return with_state(codec, made)
