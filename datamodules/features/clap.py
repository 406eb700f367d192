"""CLAP: one space for recordings and for the words about them (Wu et al., 2023, arXiv 2211.06687).

The score of a clip against its caption is the cosine of their embeddings; MusicGen's ablation (paper, table A.1)
conditions on them. Unlike laion-clap and transformers, which hear one random crop of what is longer than ten seconds,
every window of a clip is heard here and the embeddings are averaged, so that the same clip has the same embedding each
time. Of clips of up to ten seconds the embeddings are theirs.

Shape letters: B clips or texts, C channels, N samples, S samples that the network hears at once, V windows, D
dimensions.
"""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad
from transformers import AutoConfig, AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel

from datamodules.errors import InputError
from datamodules.hub import IncompleteError, local_first

MAX_TOKENS = 77  # of a text, as laion-clap was trained
ROBERTA = "roberta-base"
_ROBERTA_TOKENS = 50_265
_CHECKPOINTS = (".pt", ".pth", ".ckpt")
_ELSE = "give a folder"
_FLOOR = 1e-10  # power below which a mel band counts as silent: -100 dB


class Clap(nn.Module):
    """A frozen CLAP. No gradients flow, and it stays in evaluation mode.

    Args:
        model: of transformers, without fusion.
        tokenizer: RoBERTa's.
        extractor: says how the model's spectrograms are made.
        window: seconds of audio in one embedding, at most what the network hears at once (10 s).
        hop: seconds from one window to the next; the last window ends where the clip does. audiocraft's conditioner
            has 1 s.
        batch_size: windows, or texts, that the network hears at once.

    Attributes:
        sample_rate: rate of the audio that it wants, in Hz.
        dim: dimensions of the embeddings.
        shortest: the fewest samples it can hear.

    Raises:
        InputError: a window or hop that cannot be, or a model with fusion.
    """

    _mel_filters: Tensor
    _hann: Tensor

    def __init__(
        self,
        model: ClapModel,
        tokenizer: Any,
        extractor: ClapFeatureExtractor,
        *,
        window: float = 10.0,
        hop: float = 10.0,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        config: Any = model.config
        if config.audio_config.enable_fusion:
            raise InputError(
                "this CLAP has fusion, which hears random crops; give one without: laion/larger_clap_music or "
                "laion/clap-htsat-unfused"
            )
        self.model = model.requires_grad_(False).eval()
        self.tokenizer, self.window, self.hop, self.batch_size = tokenizer, window, hop, batch_size
        self.sample_rate, self.dim = int(extractor.sampling_rate), int(config.projection_dim)
        self._heard = int(extractor.nb_max_samples)
        self._window, self._hop = round(window * self.sample_rate), round(hop * self.sample_rate)
        self.shortest = self._n_fft = int(extractor.fft_window_size)
        self._frame_hop = int(extractor.hop_length)
        if not self.shortest <= self._window <= self._heard or self._hop < 1:
            longest = self._heard / self.sample_rate
            raise InputError(
                f"windows of {window} s every {hop} s cannot be heard; give up to {longest:g} s, hop above 0"
            )
        filters = extractor.mel_filters_slaney if extractor.truncation == "rand_trunc" else extractor.mel_filters
        self.register_buffer("_mel_filters", torch.from_numpy(filters).float().T.contiguous(), persistent=False)
        self.register_buffer("_hann", torch.hann_window(self._n_fft), persistent=False)
        self._told = False

    @property
    def device(self) -> torch.device:
        """Where it is, and where its embeddings are."""
        return self._hann.device

    @property
    def checksum(self) -> str:
        """sha256 of the weights' names and values: the same for one network in any file and layout."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def train(self, mode: bool = True) -> "Clap":
        """Stays in evaluation mode."""
        return super().train(False)

    # ---- words ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> Tensor:
        """Reads B texts, of which the first 77 tokens count; [B, D] of norm 1."""
        assert not isinstance(texts, str), "a list of texts, not one"
        parts = [
            self._read(list(texts[first : first + self.batch_size])) for first in range(0, len(texts), self.batch_size)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, self.dim, device=self.device)

    def _read(self, texts: list[str]) -> Tensor:
        tokens = self._tokens(texts).to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            read = self.model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return normalize(read.pooler_output, dim=-1)

    def _tokens(self, texts: list[str]) -> Any:
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt", verbose=False)
        length = tokens["input_ids"].shape[1]
        if length <= MAX_TOKENS:
            return tokens
        if not self._told:
            self._told = True
            warnings.warn(f"a text has {length} tokens; CLAP reads the first {MAX_TOKENS} of each", stacklevel=4)
        return self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")

    # ---- sound ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def audio(self, wav: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Hears clips, each by itself: neither its neighbours in the batch nor padding change what it is given.

        Args:
            wav: [B, N] or [B, C, N], which is mixed to mono, at ``sample_rate``; it is moved to ``device``.
            lengths: [B], true samples of each clip; all of N where it is None.

        Returns:
            [B, D] of norm 1: the mean of the embeddings of each clip's windows.

        Raises:
            InputError: a clip shorter than ``shortest`` samples, one with samples that are not finite, or a wrong
                shape.
        """
        clips = self._clips(wav, lengths)
        windows = [clip[start : start + self._window] for clip in clips for start in self._starts(len(clip))]
        heard = [
            self._hear(windows[first : first + self.batch_size]) for first in range(0, len(windows), self.batch_size)
        ]
        if not heard:
            return torch.zeros(0, self.dim, device=self.device)
        of_each_clip = torch.cat(heard).split([len(self._starts(len(clip))) for clip in clips])
        return normalize(torch.stack([embeddings.mean(0) for embeddings in of_each_clip]), dim=-1)

    def _clips(self, wav: Tensor, lengths: Tensor | None) -> list[Tensor]:
        """B clips [N_b], mono."""
        if wav.dim() not in (2, 3):
            raise InputError(f"CLAP hears wav [B, N] or [B, C, N], not {list(wav.shape)}")
        wav = wav.to(self.device).float()
        wav = wav.mean(1) if wav.dim() == 3 else wav
        own = [wav.shape[-1]] * len(wav) if lengths is None else [int(length) for length in lengths]
        clips = [clip[:length] for clip, length in zip(wav, own, strict=True)]
        for number, clip in enumerate(clips):
            if len(clip) < self.shortest:
                raise InputError(
                    f"clip {number} of the batch has {len(clip)} samples at {self.sample_rate} Hz, too few for CLAP "
                    f"(at least {self.shortest}); leave it out"
                )
            if not clip.isfinite().all():
                raise InputError(f"clip {number} of the batch holds samples that are not finite; leave it out")
        return clips

    def _starts(self, length: int) -> list[int]:
        """Where the windows of a clip begin: every hop, and so that the last one ends where the clip does."""
        last = max(0, length - self._window)
        return [*range(0, last, self._hop), last]

    def _hear(self, windows: list[Tensor]) -> Tensor:
        """V windows -> [V, D] of norm 1."""
        # Repeated as often as it fits whole, then silence: so the network was trained.
        repeated = [window.repeat(self._heard // len(window)) for window in windows]
        wav_VS = torch.stack([pad(window, (0, self._heard - len(window))) for window in repeated])
        with torch.autocast(self.device.type, enabled=False):
            spectrum = torch.stft(
                wav_VS, self._n_fft, self._frame_hop, window=self._hann.float(), center=True, return_complex=True
            )
            mel = self._mel_filters.float() @ spectrum.abs().square()
            picture = 10 * mel.clamp_min(_FLOOR).log10().transpose(1, 2)
            heard = self.model.get_audio_features(picture[:, None].to(self.model.dtype))
        return normalize(heard.pooler_output, dim=-1)


def load_clap(
    name: str | Path, tokenizer: str | Path | None = None, *, window: float = 10.0, hop: float = 10.0
) -> Clap:
    """Loads a CLAP from what is on this machine, or else from the Hugging Face hub.

    Args:
        name: a folder or hub id of transformers ("laion/larger_clap_music"), or a .pt file of laion-clap
            ("music_audioset_epoch_15_esc_90.14.pt"), which is read without that package.
        tokenizer: folder or hub id of its tokenizer; None is the model's own, or roberta-base for a .pt file.
        window: seconds of audio in one embedding.
        hop: seconds from one window to the next.

    Raises:
        InputError: model or tokenizer are not on this machine and cannot be fetched, are damaged, or are no CLAP's.
    """
    if Path(name).suffix in _CHECKPOINTS and not Path(name).is_dir():
        from datamodules.features.clap_laion import read_laion_clap

        model, extractor = read_laion_clap(name)
    else:
        model, extractor = local_first(_load_model, str(name), "the CLAP model", _ELSE)
    own = str(tokenizer) if tokenizer else ROBERTA if Path(name).is_file() else str(name)
    config: Any = model.config
    words = int(config.text_config.vocab_size)
    made = local_first(lambda name, local: _load_tokenizer(name, local, words), own, "the tokenizer of CLAP,", _ELSE)
    return Clap(model, made, extractor, window=window, hop=hop)


def _load_model(name: str, local: bool) -> tuple[ClapModel, ClapFeatureExtractor]:
    config = AutoConfig.from_pretrained(name, local_files_only=local)
    if not isinstance(config, ClapConfig):
        raise InputError(f"{name} is a model of type {config.model_type}, not CLAP; give laion/larger_clap_music")
    loaded: Any = ClapModel.from_pretrained(
        name, config=config, dtype=torch.float32, local_files_only=local, output_loading_info=True
    )
    model, said = loaded
    # transformers draws what it does not find, and only says so.
    if said["missing_keys"]:
        raise InputError(f"{name}: {len(said['missing_keys'])} tensors of CLAP are missing; fetch it again")
    return model, ClapFeatureExtractor.from_pretrained(name, local_files_only=local)


def _load_tokenizer(name: str, local: bool, words: int) -> Any:
    """The tokenizer for a table of so many words.

    Offline, transformers gives a tokenizer of five tokens for files that it has not got, and no error.
    """
    tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
    found = len(tokenizer)
    if not 256 <= found <= words or (words == _ROBERTA_TOKENS != found):
        raise IncompleteError(f"{found} tokens, not {words}")
    return tokenizer
