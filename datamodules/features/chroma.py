"""Chroma: how strongly each of the twelve pitch classes sounds, frame by frame.

MusicGen conditions on it (paper, section 2.3) and scores melodies by it (section 3.3), with the same settings: windows
of 2**14 samples every 2**12 at 32 kHz, power spectrogram, librosa's chroma filterbank without tuning estimation, each
frame divided by its largest value, and the one-hot form that keeps the strongest class alone.

Shape letters: B clips, C channels, N samples, F frequency bins, T frames, P pitch classes.
"""

from functools import lru_cache

import torch
from torch import Tensor

PITCH_CLASSES = 12
# A frame whose strongest class lies below this is silence (about -94 dB below a full-scale sine). The same constant
# is the epsilon of the frame-wise normalisation, so only silent frames have a largest value under one.
SILENCE = 1e-6
NO_CLASS = 255  # in place of a silent frame's pitch class


@lru_cache(maxsize=8)
def _filterbank(sample_rate: int, n_fft: int, pitch_classes: int) -> Tensor:
    """[P, F]: what each frequency bin gives to each pitch class."""
    import librosa  # half a second, and only chroma needs it

    filters = librosa.filters.chroma(sr=sample_rate, n_fft=n_fft, tuning=0, n_chroma=pitch_classes)
    return torch.from_numpy(filters).float()


class ChromaExtractor:
    """Chroma of a batch of clips, on whatever device they are.

    A clip's frames depend on that clip alone: its edges are mirrored where its own samples end, not where the batch's
    padding does, so a clip has the same chroma alone and beside longer ones.

    Args:
        sample_rate: rate of the audio it is given, in Hz.
        n_fft: samples in a window (Hann).
        hop: samples from one frame to the next.
        pitch_classes: classes per octave; class 0 is C.
    """

    def __init__(
        self,
        sample_rate: int = 32_000,
        *,
        n_fft: int = 2**14,
        hop: int = 2**12,
        pitch_classes: int = PITCH_CLASSES,
    ) -> None:
        self.sample_rate, self.n_fft, self.hop, self.pitch_classes = sample_rate, n_fft, hop, pitch_classes
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def frames(self, lengths: Tensor) -> Tensor:
        """Frames that count for clips of these lengths in samples: one for every hop begun."""
        return (lengths + self.hop - 1) // self.hop

    def __call__(self, wav: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Computes the chroma.

        Args:
            wav: [B, N], or [B, C, N] which is mixed to mono.
            lengths: [B], true samples of each clip; all of N where it is None.

        Returns:
            Chroma [B, T, P] in 0..1, zero beyond each clip's end, and the mask [B, T] of the frames that count.
        """
        wav = wav.float().mean(1) if wav.dim() == 3 else wav.float()
        batch, samples = wav.shape
        if lengths is None:
            lengths = torch.full((batch,), samples, device=wav.device)
        lengths = lengths.to(wav.device)
        window, filters = self._constants(wav.device)
        mirrored = self._mirror(wav, lengths)
        spectrum = torch.stft(mirrored, self.n_fft, self.hop, window=window, center=False, return_complex=True)
        power = spectrum.abs().square() / window.square().sum()
        chroma_BTP = torch.einsum("pf,bft->btp", filters, power)
        chroma_BTP = chroma_BTP / chroma_BTP.amax(-1, keepdim=True).clamp_min(SILENCE)
        mask_BT = torch.arange(chroma_BTP.shape[1], device=wav.device) < self.frames(lengths)[:, None]
        return chroma_BTP * mask_BT[..., None], mask_BT

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._on_device:
            filters = _filterbank(self.sample_rate, self.n_fft, self.pitch_classes).to(device)
            self._on_device[device] = torch.hann_window(self.n_fft, device=device), filters
        return self._on_device[device]

    def _mirror(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """Adds half a window on both sides of each clip, mirrored at the clip's own ends.

        A clip shorter than a window is first centred in a window of zeros, as audiocraft and transformers do.
        """
        half = self.n_fft // 2
        total = max(wav.shape[-1], self.n_fft)
        place = torch.arange(-half, total + half, device=wav.device).abs()[None]
        length = lengths[:, None]
        last = length.clamp_min(self.n_fft) - 1
        place = torch.where(place > last, 2 * last - place, place) - (last + 1 - length) // 2
        inside = (place >= 0) & (place < length)
        return wav.gather(1, place.clamp(0, wav.shape[-1] - 1)) * inside


def chroma_one_hot(chroma: Tensor, *, silent_class: int | None = 0) -> Tensor:
    """Keeps the strongest pitch class of each frame.

    Args:
        chroma: [..., P] of ``ChromaExtractor``.
        silent_class: what a silent frame becomes: a class (audiocraft and the released melody model: 0, because the
            argmax of zeros is 0), or None for a frame of zeros.

    Returns:
        [..., P] of zeros and at most one 1 a frame.
    """
    one_hot = torch.nn.functional.one_hot(chroma.argmax(-1), chroma.shape[-1]).to(chroma.dtype)
    silent = chroma.amax(-1, keepdim=True) < 1
    if silent_class is None:
        return one_hot * ~silent
    filler = torch.zeros_like(one_hot)
    filler[..., silent_class] = 1
    return torch.where(silent, filler, one_hot)


def strongest_class(chroma: Tensor) -> Tensor:
    """Chroma [..., T, P] -> [..., T] uint8, the strongest class of each frame; 255 where it is silent."""
    return torch.where(chroma.amax(-1) < 1, NO_CLASS, chroma.argmax(-1)).to(torch.uint8)
