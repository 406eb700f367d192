"""EnCodec's latents as embeddings: what its encoder gives before the quantizer, one vector a frame.

As frechet-audio-distance 0.3.4 takes them: the encoder alone hears the whole clip, without the chunks and the loudness
normalisation of the 48 kHz model, and every frame is a sample of the Gaussian.

Shape letters: V clips of one length, C channels, S samples, F frames, D dimensions.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, EncodecConfig, EncodecModel

from datamodules.errors import InputError
from datamodules.hub import local_first
from evaluation.judges.encodec_rows import RowEncoder
from evaluation.judges.network import NetworkJudge


class EncodecJudge(NetworkJudge):
    """Embeddings [B, F, D] of an EnCodec of transformers; no class scores, no captions.

    Args:
        model: the codec, whose encoder alone is kept.
        name: of the codec.
    """

    seconds_at_once = 60.0  # clips are heard whole, at a rate of hundreds of channels a sample

    def __init__(self, model: EncodecModel, name: str) -> None:
        config: Any = model.config
        hop = int(config.hop_length)
        super().__init__(f"encodec:{name}", sample_rate=int(config.sampling_rate), window=None, hop=hop, shortest=hop)
        self.channels = int(config.audio_channels)
        self.encoder = model.encoder
        # Group norm hears the whole clip at once, which tiles cannot.
        self._tiled = config.norm_type == "weight_norm"
        self._rows: RowEncoder | None = None
        self.requires_grad_(False).eval()

    def hear(self, pieces_VS: Tensor) -> tuple[Tensor, Tensor | None]:
        """The encoder's frames [V, F, D]; a stereo codec hears the clip on both channels."""
        pieces = pieces_VS[:, None].expand(-1, self.channels, -1)
        if self._tiled and pieces.device.type == "cpu":
            self._rows = self._rows or RowEncoder(self.encoder)
            return self._rows(pieces), None
        return self.encoder(pieces).transpose(1, 2), None


def load_encodec_judge(name: str | Path) -> EncodecJudge:
    """Loads a codec from what is on this machine, or else from the Hugging Face hub.

    Args:
        name: a folder or hub id of transformers.

    Raises:
        InputError: it is not on this machine and cannot be fetched, is damaged, or no EnCodec.
    """
    if (Path(name) / "config.yaml").is_file():
        raise InputError(f"{name}: a model folder of this suite; mgl convert {name} OUT --to hf, and give OUT")
    with torch.random.fork_rng(devices=[]):  # it draws weights first, which must not show in anyone's random numbers
        model = local_first(_load, str(name), "the EnCodec model", "give a folder as encodec:FOLDER")
    return EncodecJudge(model, Path(name).name)


def _load(name: str, local: bool) -> EncodecModel:
    config = AutoConfig.from_pretrained(name, local_files_only=local)
    if not isinstance(config, EncodecConfig):
        raise InputError(f"{name} is a model of type {config.model_type}, not EnCodec; give facebook/encodec_24khz")
    loaded: Any = EncodecModel.from_pretrained(
        name, config=config, dtype=torch.float32, local_files_only=local, output_loading_info=True
    )
    model, said = loaded
    # transformers draws what it does not find, and only says so.
    if said["missing_keys"]:
        raise InputError(f"{name}: {len(said['missing_keys'])} tensors of EnCodec are missing; fetch it again")
    return model
