"""PaSST, a spectrogram transformer of AudioSet's 527 classes (Koutini et al., 2022, arXiv 2110.05069): KL divergence.

The network is hear21passt's, sized as its file says. Around it is our own code: the package downloads weights as it
builds a model, prints 9 kB, and draws from torch's random numbers for every spectrogram, even of a model that is not
in training. A window is what the network was trained with, ten seconds, or twenty or thirty in its other files, which
differ in the length of their time embedding alone; the last one ends where the clip does. How audiocraft and
stable-audio-metrics cut clips is in ``evaluation/protocols``.

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
from evaluation.judges.published import PASST, Published, find_published, fitting, read_state

RATE = 32_000
_N_FFT, _FRAME, _FRAME_HOP = 1024, 800, 320
_MELS, _HIGHEST_HZ = 128, 15_000.0
_PREEMPHASIS = 0.97
_PATCH, _STRIDE = 16, 10
_HEAD_SIZE = 64  # of every PaSST-S and DeiT; tensors do not say
# The first patch: sixteen frames, and the sample that pre-emphasis takes.
_SHORTEST = (_PATCH - 1) * _FRAME_HOP + 1


class PasstJudge(NetworkJudge):
    """Embeddings [B, W, D] and class scores [B, L]; no captions.

    Args:
        network: hear21passt's, which gives logits and embeddings of a log-mel picture.
        classes: how many it knows.
        window: samples that it hears at once.
        checksum: sha256 of its file.
    """

    mel: Tensor
    hann: Tensor

    def __init__(self, network: nn.Module, classes: int, window: int, checksum: str) -> None:
        super().__init__(
            "passt",
            sample_rate=RATE,
            window=window,
            hop=window,
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
            # It was told of whole columns of patches; some frames more or fewer are not amiss.
            warnings.filterwarnings("ignore", "Input image size")
            logits, embeddings = self.network(self.picture(pieces_VS)[:, None])
        return embeddings[:, None], logits

    def picture(self, wav_VS: Tensor) -> Tensor:
        """[V, M, T]: log-mel power, shifted and scaled as in the training."""
        emphasised = wav_VS[:, 1:] - _PREEMPHASIS * wav_VS[:, :-1]
        spectrum = torch.stft(emphasised, _N_FFT, _FRAME_HOP, _FRAME, self.hann, return_complex=True)
        return ((self.mel @ spectrum.abs().square() + 1e-5).log() + 4.5) / 5


def load_passt_judge(path: str | Path | None = None, published: Published | None = None) -> PasstJudge:
    """Loads PaSST.

    Args:
        path: a file of weights as published, of ten, twenty or thirty seconds; None is where ``make weights`` has put
            the published one.
        published: which one that is; by default that of ten seconds.

    Raises:
        InputError: the file is missing, damaged, another one, or no PaSST's; or hear21passt is not installed.
    """
    published = published or PASST
    file, checksum = find_published(published, path)
    state = read_state(file)
    with fitting(file, published):
        network, classes, columns = _network(state)
    # Whole seconds: 99 columns of ten, 200 of twenty.
    return PasstJudge(network, classes, RATE * round(columns * _STRIDE * _FRAME_HOP / RATE), checksum)


def _network(state: Mapping[str, Tensor]) -> tuple[nn.Module, int, int]:
    """The network that has these tensors, how many classes it knows, and how many patches side by side."""
    dim, classes = state["cls_token"].shape[-1], len(state["head.1.weight"])
    columns = state["time_new_pos_embed"].shape[-1]
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
            img_size=(_MELS, columns * _STRIDE),
            patch_size=_PATCH,
            stride=(_STRIDE, _STRIDE),
            num_classes=classes,
            embed_dim=dim,
            depth=depth,
            num_heads=dim // _HEAD_SIZE,
            distilled="dist_token" in state,
        )
    network.load_state_dict(state)
    return network, classes, columns
