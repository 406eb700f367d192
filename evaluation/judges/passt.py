"""PaSST, a spectrogram transformer of AudioSet's 527 classes (Koutini et al., 2022, arXiv 2110.05069): KL divergence.

The network is hear21passt's, sized as its file says. Around it is our own code: the package downloads weights as it
builds a model, prints 9 kB, and draws from torch's random numbers for every spectrogram, even of a model that is not
in training. Ten seconds are a window, the last one ending where the clip does; audiocraft cuts the clip without overlap
and takes the softmax of each piece, stable-audio-metrics averages logits as here, over windows every five seconds.

Shape letters: V windows of one length, S samples, M mel bands, T mel frames, D dimensions, L labels.
"""

import importlib
import re
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchaudio.compliance.kaldi import get_mel_banks

from datamodules.errors import InputError
from evaluation.judges.network import NetworkJudge, audioset_labels
from evaluation.judges.published import PASST, find_published, fitting, read_state

RATE = 32_000
_WINDOW = 10 * RATE
_N_FFT, _FRAME, _FRAME_HOP = 1024, 800, 320
_MELS, _HIGHEST_HZ = 128, 15_000.0
_PREEMPHASIS = 0.97
_PATCH, _STRIDE, _FRAMES = 16, 10, 998
_HEAD_SIZE = 64  # of every PaSST-S and DeiT; tensors do not say
# The first patch: sixteen frames, and the sample that pre-emphasis takes.
_SHORTEST = (_PATCH - 1) * _FRAME_HOP + 1


class PasstJudge(NetworkJudge):
    """Embeddings [B, W, D] and class scores [B, L]; no captions.

    Args:
        network: hear21passt's, which gives logits and embeddings of a log-mel picture.
        classes: how many it knows.
        checksum: sha256 of its file.
    """

    mel: Tensor
    hann: Tensor

    def __init__(self, network: nn.Module, classes: int, checksum: str) -> None:
        super().__init__(
            "passt",
            sample_rate=RATE,
            window=_WINDOW,
            hop=_WINDOW,
            shortest=_SHORTEST,
            labels=audioset_labels(classes),
            checksum=checksum,
        )
        self.network = network
        banks, _ = get_mel_banks(_MELS, _N_FFT, RATE, 0.0, _HIGHEST_HZ, 100.0, -500.0, 1.0)
        self.register_buffer("mel", nn.functional.pad(banks, (0, 1)), persistent=False)  # nothing of the last bin
        self.register_buffer("hann", torch.hann_window(_FRAME, periodic=False), persistent=False)
        self.requires_grad_(False).eval()

    def hear(self, pieces_VS: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings [V, 1, D] and logits [V, L]."""
        with warnings.catch_warnings():
            # It was trained with 998 frames, and ten seconds are 1000; neither those nor fewer are amiss.
            warnings.filterwarnings("ignore", "Input image size")
            logits, embeddings = self.network(self.picture(pieces_VS)[:, None])
        return embeddings[:, None], logits

    def picture(self, wav_VS: Tensor) -> Tensor:
        """[V, M, T]: log-mel power, shifted and scaled as in the training."""
        emphasised = wav_VS[:, 1:] - _PREEMPHASIS * wav_VS[:, :-1]
        spectrum = torch.stft(emphasised, _N_FFT, _FRAME_HOP, _FRAME, self.hann, return_complex=True)
        return ((self.mel @ spectrum.abs().square() + 1e-5).log() + 4.5) / 5


def load_passt_judge(path: str | Path | None = None) -> PasstJudge:
    """Loads PaSST.

    Args:
        path: a file of weights as published; None is where ``make weights`` has put it.

    Raises:
        InputError: the file is missing, damaged, another one, or no PaSST's; or hear21passt is not installed.
    """
    file, checksum = find_published(PASST, path)
    state = read_state(file)
    with fitting(file, PASST):
        network, classes = _network(state)
    return PasstJudge(network, classes, checksum)


def _network(state: Mapping[str, Tensor]) -> tuple[nn.Module, int]:
    """The network that has these tensors, and how many classes it knows."""
    dim, classes = state["cls_token"].shape[-1], len(state["head.1.weight"])
    depth = len({match[1] for name in state if (match := re.match(r"blocks\.(\d+)\.", name))})
    # By name, so that only who wants this judge needs the package; it draws weights, which must not show in anyone's
    # random numbers, and warns of timm's names and prints of everything.
    with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            package: Any = importlib.import_module("hear21passt.models.passt")
        except ImportError as error:
            raise InputError("judge passt needs the package hear21passt; `make setup` installs it") from error
        package.first_RUN = False
        network: nn.Module = package.PaSST(
            img_size=(_MELS, _FRAMES),
            patch_size=_PATCH,
            stride=(_STRIDE, _STRIDE),
            num_classes=classes,
            embed_dim=dim,
            depth=depth,
            num_heads=dim // _HEAD_SIZE,
            distilled="dist_token" in state,
        )
    network.load_state_dict(state)
    return network, classes
