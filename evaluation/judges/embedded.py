"""The embedded judge: a small network that hears music and reads captions, and runs anywhere.

Audio is cut into windows; each becomes a log-mel picture, then an embedding and class scores. Captions become
embeddings in the same space. It stands in for VGGish, PaSST and CLAP where those cannot be had; its numbers are its
own and never comparable with theirs.

Shape letters: B clips, N samples, W windows, S samples in a window, V windows of the whole batch that count, C
channels, M mel bands, T mel frames, D dimensions, H what the heads read, L labels.
"""

import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from datamodules.errors import InputError
from evaluation.judges.contract import AudioEmbeddings, check_finite

CONFIG_FILE, WEIGHTS_FILE = "config.yaml", "model.safetensors"
FORMAT = "embedded-judge-2"
_NO_WORDS = 0  # the text table's row for captions that say nothing


@dataclass(frozen=True)
class JudgeConfig:
    """Everything that, with the weights, makes a judge.

    Attributes:
        labels: names of the classes, in the order of the logits.
        name: stands beside every number made with it.
        sample_rate: in Hz.
        window_frames: mel frames in a window.
        hop_frames: mel frames from one window to the next.
        n_fft: samples of a mel frame's window.
        frame_hop: samples from one mel frame to the next.
        mels: mel bands.
        channels: output channels of the convolution stages; each halves both sides of the picture.
        hidden: what is heard in a window, before labels and joint space read it.
        dim: dimensions of the joint space.
        buckets: rows of the table that words and pairs of words are hashed into.
    """

    labels: tuple[str, ...]
    name: str = "embedded"
    sample_rate: int = 16_000
    window_frames: int = 128
    hop_frames: int = 64
    n_fft: int = 1024
    frame_hop: int = 320
    mels: int = 64
    channels: tuple[int, ...] = (32, 64, 128, 192)
    hidden: int = 256
    dim: int = 128
    buckets: int = 4096

    @property
    def window_samples(self) -> int:
        """Samples from which one embedding is made."""
        return (self.window_frames - 1) * self.frame_hop + self.n_fft

    @property
    def hop_samples(self) -> int:
        """Samples from one window to the next."""
        return self.hop_frames * self.frame_hop


class EmbeddedJudge(nn.Module):
    """A small audio-text network; see ``evaluation.judges.contract.Judge``.

    Windows are cut from the waveform before anything is computed, so what a clip is given never depends on its
    neighbours in the batch or on padding. A clip shorter than a window is repeated until it fills one.
    """

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        if not config.labels or len(set(config.labels)) != len(config.labels):
            raise InputError("a judge needs labels, each once")
        self.config = config
        self.name, self.labels, self.sample_rate = config.name, config.labels, config.sample_rate
        self.window = config.window_samples / config.sample_rate
        self.hop = config.hop_samples / config.sample_rate
        self.shortest = config.n_fft
        self.mel = MelSpectrogram(
            config.sample_rate, config.n_fft, hop_length=config.frame_hop, n_mels=config.mels, center=False
        )
        # both follow from the config, so the weights need not hold them
        self.mel.spectrogram._non_persistent_buffers_set.add("window")
        self.mel.mel_scale._non_persistent_buffers_set.add("fb")
        widths = (1, *config.channels)
        self.stages = nn.Sequential(*map(_Stage, widths[:-1], widths[1:]))
        # mean and spread of every mel band: most of what timbre is, and learned from at once
        self.spectrum_norm = nn.BatchNorm1d(2 * config.mels)
        bands = config.mels
        for _ in config.channels:
            bands = (bands + 1) // 2
        heard = 2 * widths[-1] * bands + 2 * config.mels
        self.to_hidden = nn.Sequential(nn.Dropout(0.1), nn.Linear(heard, config.hidden), nn.GELU(), nn.Dropout(0.1))
        self.to_logits = nn.Linear(config.hidden, len(config.labels))
        self.to_joint = nn.Linear(config.hidden, config.dim)
        self.words = nn.EmbeddingBag(config.buckets, config.dim, mode="mean")
        self.text_mlp = nn.Sequential(nn.Linear(config.dim, config.dim), nn.GELU(), nn.Linear(config.dim, config.dim))
        self._checksum: str | None = None

    @property
    def checksum(self) -> str:
        """sha256 of the weights file; of a judge in training, of the file that ``save`` would write now."""
        return self._checksum or hashlib.sha256(self._weights()).hexdigest()

    def forward(self, wav: Tensor, lengths: Tensor, hop_samples: int | None = None) -> AudioEmbeddings:
        """As ``embed_audio``, with gradients; ``hop_samples`` takes the place of the config's hop."""
        windows_BWS, mask_BW = self._cut(wav, lengths, hop_samples or self.config.hop_samples)
        heard_VH = self._hear(windows_BWS[mask_BW])
        joint_VD = nn.functional.normalize(self.to_joint(heard_VH).float(), dim=-1)
        logits_VL = self.to_logits(heard_VH).float()
        embeddings = joint_VD.new_zeros(*mask_BW.shape, joint_VD.shape[-1])
        embeddings[mask_BW] = joint_VD
        logits = logits_VL.new_zeros(*mask_BW.shape, logits_VL.shape[-1])
        logits[mask_BW] = logits_VL
        return AudioEmbeddings(embeddings, logits, mask_BW)

    @torch.inference_mode()
    def embed_audio(self, wav: Tensor, lengths: Tensor) -> AudioEmbeddings:
        """Hears clips.

        Args:
            wav: [B, 1, N] at ``sample_rate``, padded on the right.
            lengths: [B], true samples of each clip.

        Raises:
            InputError: a clip shorter than ``shortest`` samples, a wrong shape, or embeddings that are not finite.
        """
        self.eval()
        heard: AudioEmbeddings = self(wav, lengths)
        return heard.checked(self.name)

    @torch.inference_mode()
    def embed_text(self, captions: Sequence[str]) -> Tensor:
        """Reads captions; [B, D] of norm 1."""
        self.eval()
        return check_finite(self.read(captions), self.name, "embeddings of caption")

    def read(self, captions: Sequence[str]) -> Tensor:
        """As ``embed_text``, with gradients."""
        bags = [_buckets(caption, self.config.buckets) for caption in captions]
        device = self.words.weight.device
        offsets = torch.tensor([0, *(len(bag) for bag in bags[:-1])], device=device).cumsum(0)
        flat = torch.tensor([bucket for bag in bags for bucket in bag], device=device)
        return nn.functional.normalize(self.text_mlp(self.words(flat, offsets)), dim=-1)

    def _cut(self, wav: Tensor, lengths: Tensor, hop: int) -> tuple[Tensor, Tensor]:
        """Windows [B, W, S] of the waveform and the mask [B, W] of those that lie inside the clips."""
        if wav.dim() != 3 or wav.shape[1] != 1:
            raise InputError(f"a judge wants wav [B, 1, N], not {list(wav.shape)}; mix it to mono first")
        if int(lengths.min()) < self.shortest:
            raise InputError(
                f"a clip of {int(lengths.min())} samples at {self.sample_rate} Hz is too short to judge "
                f"(at least {self.shortest}); leave it out"
            )
        size = self.config.window_samples
        lengths = lengths.to(wav.device)
        counts = ((lengths - size).div(hop, rounding_mode="floor") + 1).clamp_min(1)
        starts = torch.arange(int(counts.max()), device=wav.device) * hop
        place = starts[:, None] + torch.arange(size, device=wav.device)
        mask = torch.arange(len(starts), device=wav.device) < counts[:, None]
        place_BWS = place[None] % lengths[:, None, None]
        windows = wav.squeeze(1).gather(1, place_BWS.flatten(1)).view(place_BWS.shape)
        return windows, mask

    def _hear(self, windows_VS: Tensor) -> Tensor:
        """Windows -> [V, H], from mean and maximum over time of the last maps, and mean and spread of each mel band.

        The maps keep their place in frequency: what an octave's worth of partials means depends on where they lie.
        """
        with torch.no_grad(), torch.autocast(windows_VS.device.type, enabled=False):
            picture_VMT = (self.mel(windows_VS.float()) + 1e-6).log10() / 3 + 0.5
        maps = self.stages(picture_VMT[:, None])
        spectrum = self.spectrum_norm(torch.cat([picture_VMT.mean(2), picture_VMT.std(2)], dim=-1))
        hidden: Tensor = self.to_hidden(torch.cat([maps.mean(3).flatten(1), maps.amax(3).flatten(1), spectrum], dim=-1))
        return hidden

    # ---- files ----------------------------------------------------------------------------------------------------
    def _weights(self, half: bool = False) -> bytes:
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        if half:
            state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        return safetensors.torch.save(state, metadata={"format": FORMAT})

    def save(self, folder: str | Path, half: bool = False) -> None:
        """Writes config.yaml and model.safetensors, each whole or not at all; ``half`` stores float16."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "format": FORMAT,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.config).items()},
        }
        for name, content in (
            (WEIGHTS_FILE, self._weights(half)),
            (CONFIG_FILE, yaml.safe_dump(config, sort_keys=False).encode()),
        ):
            partial = folder / f"{name}.partial"
            partial.write_bytes(content)
            partial.replace(folder / name)


def load_judge(folder: str | Path, device: str | torch.device = "cpu") -> EmbeddedJudge:
    """Loads what ``EmbeddedJudge.save`` wrote; nothing is unpickled.

    Args:
        folder: holds config.yaml and model.safetensors.
        device: where it runs.

    Returns:
        The judge, frozen and in evaluation mode; its checksum is the sha256 of the weights file.

    Raises:
        InputError: a file is missing, or is not of an embedded judge.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name} there; a judge is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
    judge = EmbeddedJudge(_read_config(folder / CONFIG_FILE))
    content = (folder / WEIGHTS_FILE).read_bytes()
    try:
        judge.load_state_dict(safetensors.torch.load(content))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{folder / WEIGHTS_FILE}: not the weights of the judge in {CONFIG_FILE} ({reason})"
        ) from error
    judge._checksum = hashlib.sha256(content).hexdigest()
    return judge.requires_grad_(False).eval().to(device)


def _read_config(path: Path) -> JudgeConfig:
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML; export the judge again") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise InputError(f"{path}: not the config of a judge of format {FORMAT}; export the judge again")
    names = {field.name for field in fields(JudgeConfig)}
    if content.keys() != names:
        odd = ", ".join(sorted(names ^ content.keys()))
        raise InputError(f"{path}: fields missing or unknown: {odd}; export the judge again")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    try:
        return JudgeConfig(**values)
    except TypeError as error:
        raise InputError(f"{path}: {error}; export the judge again") from error


class _Stage(nn.Module):
    """[V, C, M, T] -> [V, C', M / 2, T / 2]: a convolution of stride 2, then a residual block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.Sequential(_convolution(inputs, outputs, stride=2), nn.GELU())
        self.block = nn.Sequential(_convolution(outputs, outputs), nn.GELU(), _convolution(outputs, outputs))

    def forward(self, maps: Tensor) -> Tensor:
        down = self.down(maps)
        return nn.functional.gelu(down + self.block(down))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def _buckets(caption: str, buckets: int) -> list[int]:
    """Rows of the text table for a caption's words and pairs of words; CRC-32, the same in every process."""
    words = re.findall(r"[a-z0-9#]+", caption.lower())
    pairs = [f"{first} {second}" for first, second in pairwise(words)]
    return [1 + zlib.crc32(term.encode()) % (buckets - 1) for term in [*words, *pairs]] or [_NO_WORDS]
