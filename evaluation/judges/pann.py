"""PANN's Cnn14 at 16 kHz (Kong et al., 2020, arXiv 1912.10211): embeddings for FAD, 527 class scores for KL.

A port of the network in frechet-audio-distance, which cannot be imported without a network and joins the embeddings of
all clips to one long vector, so that its distance is that of single numbers. Ten seconds are a window, as the network
was trained, the last one ending where the clip does; the package hears every clip whole.

Shape letters: V windows of one length, S samples, T frames, M mel bands, C channels, D dimensions, L labels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

from evaluation.judges.network import NetworkJudge, audioset_labels
from evaluation.judges.published import PANN, find_published, fitting, read_state

RATE = 16_000
_WINDOW = 10 * RATE
_N_FFT, _FRAME_HOP = 512, 160
_FLOOR = 1e-10  # power below which a mel band counts as silent: -100 dB
_BLOCKS = 6
_MEL = "logmel_extractor.melW"
# Five blocks halve the frames, and one must be left.
_SHORTEST = (2 ** (_BLOCKS - 1) - 1) * _FRAME_HOP


class _Block(nn.Module):
    """Two convolutions and a pooling."""

    def __init__(self, inputs: int, outputs: int, pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))
        return avg_pool2d(x, self.pool)


class Cnn14(nn.Module):
    """Log-mel pictures [V, T, M] -> embeddings [V, D] and logits [V, L].

    Args:
        mels: mel bands.
        widths: channels of the six blocks; 64 to 2048 as published.
        dim: dimensions of the embeddings; 2048.
        classes: 527.
    """

    def __init__(self, mels: int, widths: list[int], dim: int, classes: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(mels)
        for number, (inputs, outputs) in enumerate(zip([1, *widths], widths, strict=False), 1):
            setattr(self, f"conv_block{number}", _Block(inputs, outputs, 2 if number < _BLOCKS else 1))
        self.fc1, self.fc_audioset = nn.Linear(widths[-1], dim), nn.Linear(dim, classes)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [V, D], which are never negative, and logits [V, L]."""
        x = self.bn0(picture.transpose(1, 2)[..., None]).permute(0, 3, 2, 1)  # [V, C = 1, T, M]
        for number in range(1, _BLOCKS + 1):
            x = self.get_submodule(f"conv_block{number}")(x)
        over_time = x.mean(3)
        embeddings = relu(self.fc1(over_time.amax(2) + over_time.mean(2)))
        return embeddings, self.fc_audioset(embeddings)


class PannJudge(NetworkJudge):
    """Embeddings [B, W, D] and class scores [B, L]; no captions.

    Args:
        network: the network.
        mel: [N_FFT / 2 + 1, M], power to mel, from the network's file.
        checksum: sha256 of the file.
    """

    mel: Tensor
    hann: Tensor

    def __init__(self, network: Cnn14, mel: Tensor, checksum: str) -> None:
        super().__init__(
            "pann",
            sample_rate=RATE,
            window=_WINDOW,
            hop=_WINDOW,
            shortest=_SHORTEST,
            labels=audioset_labels(network.fc_audioset.out_features),
            checksum=checksum,
        )
        self.network = network
        self.register_buffer("mel", mel, persistent=False)
        self.register_buffer("hann", torch.hann_window(_N_FFT), persistent=False)
        self.requires_grad_(False).eval()

    def hear(self, pieces_VS: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings [V, 1, D] and logits [V, L]."""
        spectrum = torch.stft(pieces_VS, _N_FFT, _FRAME_HOP, window=self.hann, pad_mode="reflect", return_complex=True)
        mel = spectrum.abs().square().transpose(1, 2) @ self.mel
        embeddings, logits = self.network(10 * mel.clamp_min(_FLOOR).log10())
        return embeddings[:, None], logits


def load_pann_judge(path: str | Path | None = None) -> PannJudge:
    """Loads Cnn14 for 16 kHz.

    Args:
        path: a file of weights as published; None is where ``make weights`` has put it.

    Raises:
        InputError: the file is missing, damaged, another one, or no such Cnn14's.
    """
    file, checksum = find_published(PANN, path)
    state = read_state(file, _numpy_counts(), key="model")
    with fitting(file, PANN):
        network, mel = _network(state)
    return PannJudge(network, mel, checksum)


def _network(state: Mapping[str, Tensor]) -> tuple[Cnn14, Tensor]:
    mel = state[_MEL]
    if len(mel) != _N_FFT // 2 + 1:
        raise ValueError(f"its spectra have {len(mel)} bins, not {_N_FFT // 2 + 1}: it is for another sample rate")
    widths = [len(state[f"conv_block{number}.conv1.weight"]) for number in range(1, _BLOCKS + 1)]
    with torch.device("meta"):
        network = Cnn14(mel.shape[1], widths, len(state["fc1.weight"]), len(state["fc_audioset.weight"]))
    used = {name: tensor for name, tensor in state.items() if "_extractor." not in name}
    network.load_state_dict(used, assign=True)
    return network, mel


def _numpy_counts() -> list[Any]:
    """Training left an array of numbers beside the weights; numpy 1 and 2 name its maker differently."""
    maker = np.zeros(0).__reduce__()[0]
    named = [(maker, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    return [*named, np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in ("i4", "i8", "f4", "f8", "?")}]
