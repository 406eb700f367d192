"""VGGish (Hershey et al., 2017, arXiv 1609.09430): the embeddings of the MusicGen paper's FAD.

A port of the network whose weights harritaylor/torchvggish publishes; torch.hub would run that repository's code. As
in frechet-audio-distance the embeddings are raw: neither the PCA and 8-bit quantisation of AudioSet's release nor the
last ReLU. Windows are 0.96 s side by side, and what is left at a clip's end is not heard.

Shape letters: V windows, S samples, T frames, M mel bands, D dimensions.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluation.judges.network import NetworkJudge
from evaluation.judges.published import VGGISH, find_published, fitting, read_state

RATE = 16_000
_FRAME, _FRAME_HOP, _N_FFT = 400, 160, 512
_FRAMES, _MELS = 96, 64
_LOWEST_HZ, _HIGHEST_HZ = 125.0, 7500.0
_OFFSET = 0.01
# 96 frames every 10 ms reach 15 ms beyond 0.96 s.
_WINDOW, _HOP = (_FRAMES - 1) * _FRAME_HOP + _FRAME, _FRAMES * _FRAME_HOP
_CONVOLUTIONS = (0, 3, 6, 8, 11, 13)  # their places in "features", between ReLUs and poolings
_POOLED_AFTER = (0, 3, 8, 13)


class VGGish(nn.Module):
    """Log-mel pictures [V, 1, T, M] -> embeddings [V, D].

    Args:
        widths: channels of the six convolutions; 64, 128, 256, 256, 512, 512 as published.
        hidden: width of the two hidden layers; 4096.
        dim: dimensions of the embeddings; 128.
    """

    def __init__(self, widths: list[int], hidden: int, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for place, inputs, outputs in zip(_CONVOLUTIONS, [1, *widths], widths, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if place in _POOLED_AFTER else []
        self.features = nn.Sequential(*layers)
        size = widths[-1] * (_FRAMES // 16) * (_MELS // 16)
        self.embeddings = nn.Sequential(
            nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )

    def forward(self, picture: Tensor) -> Tensor:
        """[V, D]."""
        # TensorFlow's order, in which the weights were learned: channels last.
        return self.embeddings(self.features(picture).permute(0, 2, 3, 1).flatten(1))


class VGGishJudge(NetworkJudge):
    """Embeddings [B, W, D]; no class scores, no captions.

    Args:
        network: the network.
        checksum: sha256 of its file.
    """

    mel: Tensor
    hann: Tensor

    def __init__(self, network: VGGish, checksum: str) -> None:
        super().__init__("vggish", sample_rate=RATE, window=_WINDOW, hop=_HOP, shortest=_WINDOW, checksum=checksum)
        self.network = network
        self.register_buffer("mel", _mel_matrix(), persistent=False)
        self.register_buffer("hann", torch.hann_window(_FRAME), persistent=False)
        self.requires_grad_(False).eval()

    def starts(self, clip: Tensor) -> list[int]:
        """Side by side; the rest of the clip is not heard."""
        return list(range(0, len(clip) - _WINDOW + 1, _HOP))

    def hear(self, pieces_VS: Tensor) -> tuple[Tensor, Tensor | None]:
        """[V, 1, D]."""
        return self.network(self.picture(pieces_VS)[:, None])[:, None], None

    def picture(self, wav_VS: Tensor) -> Tensor:
        """[V, T, M]: log-mel magnitudes of frames that lie wholly within the window."""
        frames = wav_VS.unfold(-1, _FRAME, _FRAME_HOP) * self.hann
        return (torch.fft.rfft(frames, _N_FFT).abs() @ self.mel + _OFFSET).log()


def load_vggish_judge(path: str | Path | None = None) -> VGGishJudge:
    """Loads VGGish.

    Args:
        path: a file of weights as torchvggish publishes them; None is where ``make weights`` has put it.

    Raises:
        InputError: the file is missing, damaged, another one, or no VGGish's.
    """
    file, checksum = find_published(VGGISH, path)
    state = read_state(file)
    with fitting(file, VGGISH):
        network = _network(state)
    return VGGishJudge(network, checksum)


def _network(state: Mapping[str, Tensor]) -> VGGish:
    widths = [len(state[f"features.{place}.weight"]) for place in _CONVOLUTIONS]
    with torch.device("meta"):
        network = VGGish(widths, len(state["embeddings.0.weight"]), len(state["embeddings.4.weight"]))
    network.load_state_dict(state, assign=True)
    return network


def _mel_matrix() -> Tensor:
    """[N_FFT / 2 + 1, M]: triangles of height 1 whose slopes are straight in mel, not in Hz."""
    bins = _mels(torch.linspace(0, RATE / 2, _N_FFT // 2 + 1, dtype=torch.float64))[:, None]
    low, high = _mels(torch.tensor([_LOWEST_HZ, _HIGHEST_HZ], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, _MELS + 2, dtype=torch.float64)
    left, peak, right = edges[:-2], edges[1:-1], edges[2:]
    return torch.minimum((bins - left) / (peak - left), (right - bins) / (right - peak)).clamp_min(0).float()


def _mels(hertz: Tensor) -> Tensor:
    return 1127 * (1 + hertz / 700).log()
