"""Stems: a recording without its drums and bass, which is where its melody is looked for.

MusicGen hears a melody through Hybrid Transformer Demucs (paper, section 2.3): of the four stems of ``htdemucs``,
vocals and other are kept and summed. audiocraft does so in ``ChromaStemConditioner``; here likewise, but for one thing:
Demucs' default moves the recording by a random part of half a second before it cuts it into chunks, so that audiocraft
hears the same melody a little differently every time. Here nothing is moved.

No file is unpickled: Demucs' own loader would run whatever a .th file says.

Shape letters: B clips, C channels, N samples.
"""

import hashlib
import inspect
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchaudio.transforms import Resample

from datamodules.errors import InputError
from datamodules.features.pickles import read_pickle
from datamodules.hub import hub_reachable

MELODY_STEMS = ("vocals", "other")
# Name -> signature of the network and the first digits of the sha256 of its .th file, which its name carries.
PUBLISHED = {"htdemucs": ("955717e8", "8726e21a")}
_HUB_REPOSITORY = "adefossez/HTDemucs"
_OVERLAP = 0.25  # of a chunk with the next: Demucs' default, and what audiocraft has
_HTDEMUCS = "demucs.htdemucs.HTDemucs"
_OTHER_NETWORK = "not a file of a Hybrid Transformer Demucs, and no other network is read; give htdemucs"
_REMEDY = "or hear melodies in the full mix, which needs no Demucs"


class StemSeparator:
    """Keeps some stems of recordings, summed to one channel.

    Recordings are cut into the network's own chunks (7.8 s for htdemucs, a quarter of it overlapping), so they may be
    of any length. What a clip becomes depends on that clip alone. No gradients flow.

    Args:
        model: a network of the demucs package, or a bag of them; it moves to where the audio is.
        sample_rate: rate of the audio it is given and returns, in Hz.
        keep: names of the stems to keep.
        batch_size: clips that the network hears at once.

    Raises:
        InputError: the network has no such stem, or none is kept.
    """

    def __init__(
        self, model: Any, sample_rate: int = 32_000, *, keep: Sequence[str] = MELODY_STEMS, batch_size: int = 4
    ) -> None:
        sources = list(model.sources)
        unknown = [name for name in keep if name not in sources]
        if unknown or not keep:
            raise InputError(f"the separator has no stem {', '.join(unknown) or '(none given)'}; keep {sources}")
        self.model = model.requires_grad_(False).eval()
        self.sample_rate, self.keep, self.batch_size = sample_rate, tuple(keep), batch_size
        self._places = [sources.index(name) for name in keep]
        self._to_model = Resample(sample_rate, model.samplerate)
        self._from_model = Resample(model.samplerate, sample_rate)

    @torch.no_grad()
    def __call__(self, wav: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Separates clips.

        Args:
            wav: [B, C, N] at ``sample_rate``.
            lengths: [B], true samples of each clip; all of N where it is None.

        Returns:
            [B, 1, N] float32, the kept stems; zero beyond each clip's end.
        """
        if wav.dim() != 3:
            raise InputError(f"stems are separated of wav [B, C, N], not {list(wav.shape)}")
        own = [wav.shape[-1]] * len(wav) if lengths is None else [int(length) for length in lengths]
        kept = torch.zeros(len(wav), 1, wav.shape[-1], device=wav.device)
        # Clips of one length at a time: padding would shift the chunks and the loudness that the network goes by.
        for length in sorted(set(own) - {0}):
            rows = [row for row, its in enumerate(own) if its == length]
            for first in range(0, len(rows), self.batch_size):
                some = rows[first : first + self.batch_size]
                kept[some, :, :length] = self._separate(wav[some, :, :length].float())
        return kept

    def _separate(self, wav: Tensor) -> Tensor:
        from demucs.apply import apply_model  # only those who condition on melodies need it

        # In half precision, as a training step may ask for, a separation is another.
        with _same_random_numbers(), torch.autocast(wav.device.type, enabled=False):
            mix = _to_channels(self._to_model.to(wav.device)(wav), self.model.audio_channels)
            stems = apply_model(self.model, mix, shifts=0, split=True, overlap=_OVERLAP, device=wav.device)
            kept = stems[:, self._places].sum(1).mean(1, keepdim=True)
            back: Tensor = self._from_model.to(wav.device)(kept)
        return back[..., : wav.shape[-1]]


def load_separator(
    name: str = "htdemucs",
    repo: str | Path | None = None,
    sample_rate: int = 32_000,
    *,
    keep: Sequence[str] = MELODY_STEMS,
) -> StemSeparator:
    """Loads a separator.

    Args:
        name: "htdemucs", the published one, looked for where torch.hub and the Hugging Face hub keep what they
            fetched, and fetched from the latter where there is a network; the path of a .th or .safetensors file of a
            Hybrid Transformer Demucs; or, with ``repo``, the signature that such a file's name begins with.
        repo: a folder of such files, as for ``demucs --repo``.
        sample_rate: rate of the audio that it will be given, in Hz.
        keep: names of the stems to keep.

    Raises:
        InputError: the file is not on this machine and cannot be fetched, is damaged, or is of another network; or
            demucs is not installed.
    """
    return StemSeparator(_build(_find(name, repo)), sample_rate, keep=keep)


class _Package(NamedTuple):
    """What a file of Demucs holds: how its network is made, and its tensors."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    state: Mapping[str, Tensor]


class _NamedClass:
    """Stands for ``HTDemucs`` while a file is read, so that the file cannot have one made."""


def _build(path: Path) -> nn.Module:
    try:
        from demucs.htdemucs import HTDemucs
    except ImportError as error:
        raise InputError(f"demucs, which parts stems, is not installed; pip install demucs, {_REMEDY}") from error
    package = _read_safetensors(path) if path.suffix == ".safetensors" else _read_th(path)
    # What a later version of Demucs added or dropped is no reason to refuse a file; Demucs does the same.
    known = inspect.signature(HTDemucs).parameters
    kwargs = {name: value for name, value in package.kwargs.items() if name in known}
    try:
        # It draws weights first, which must not show in anyone's random numbers.
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = HTDemucs(*package.args, **kwargs)
        model.load_state_dict(package.state)
    except Exception as error:  # the file says what is made
        raise InputError(f"{path}: its weights do not fit the network that it describes") from error
    return model


def _read_th(path: Path) -> _Package:
    checksum = re.search(r"-([0-9a-f]{8,64})$", path.stem)
    if checksum and path.is_file():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(checksum[1]):
            raise InputError(
                f"{path}: is damaged (sha256 {found[:8]}..., not {checksum[1]}); delete and fetch it again"
            )
    package = read_pickle(path, [(_NamedClass, _HTDEMUCS), Fraction])
    if not isinstance(package, dict) or package.get("klass") is not _NamedClass:
        raise InputError(f"{path}: {_OTHER_NETWORK}")
    made = _Package(package.get("args"), package.get("kwargs"), package.get("state"))  # type: ignore[arg-type]
    return _checked(made, path)


def _read_safetensors(path: Path) -> _Package:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        args, kwargs = (json.loads(about.get(name, "null"), object_hook=_fraction) for name in ("args", "kwargs"))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{path}: is damaged; delete it and fetch it again") from error
    if about.get("klass") != _HTDEMUCS:
        raise InputError(f"{path}: {_OTHER_NETWORK}")
    return _checked(_Package(args, kwargs, state), path)


def _checked(package: _Package, path: Path) -> _Package:
    whole = isinstance(package.args, list | tuple) and isinstance(package.kwargs, dict)
    if not whole or not isinstance(package.state, dict) or "__quantized" in package.state:
        raise InputError(f"{path}: holds no plain weights (a quantised network is not read); give htdemucs")
    return package


def _fraction(value: dict[str, Any]) -> Any:
    """Demucs writes fractions (the length of a chunk is one) as JSON objects."""
    return Fraction(value["numerator"], value["denominator"]) if value.get("_type") == "fraction" else value


# ---- where the files are -------------------------------------------------------------------------------------------
def _find(name: str, repo: str | Path | None) -> Path:
    if repo is None and Path(name).suffix in (".th", ".safetensors"):
        return Path(name)
    if repo is None and name not in PUBLISHED:
        raise InputError(f"there is no separator {name!r}; give {', '.join(PUBLISHED)} or the path of a .th file")
    signature, checksum = PUBLISHED.get(name, (name, ""))
    folder = Path(torch.hub.get_dir()) / "checkpoints" if repo is None else Path(repo)
    # A file with another checksum in its name is another network.
    wanted = [f"{signature}-{checksum}.th"] if checksum else [f"{signature}.th", f"{escape(signature)}-*.th"]
    for pattern in [*wanted, f"{signature}.safetensors"]:
        found = sorted(folder.glob(pattern if "*" in pattern else escape(pattern)))
        if found:
            return found[0]
    if repo is not None:
        raise InputError(f"{folder}: has no {' or '.join(wanted)}")
    return _from_hub(f"{signature}.safetensors", f"{name} ({folder / wanted[0]})")


def _from_hub(file: str, what: str) -> Path:
    """Where Demucs 4.1 itself looks first: the same weights without pickling."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(_HUB_REPOSITORY, file, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    remedy = f"run `make weights` where there is a network, {_REMEDY}"
    if not hub_reachable():
        raise InputError(f"{what}: is not on this machine, and the Hugging Face hub cannot be asked; {remedy}")
    try:
        return Path(hf_hub_download(_HUB_REPOSITORY, file))
    except Exception as error:  # its own, those of its HTTP client, and of the disk: no common ancestor
        raise InputError(
            f"{what}: cannot be fetched from {_HUB_REPOSITORY} of the Hugging Face hub; {remedy}"
        ) from error


def _to_channels(wav: Tensor, channels: int) -> Tensor:
    """[B, C, N] -> [B, channels, N]: as it is, or mixed to mono and doubled."""
    return wav if wav.shape[1] == channels else wav.mean(1, keepdim=True).repeat(1, channels, 1)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Demucs' transformer draws where its positions begin, for every chunk, from Python's own generator."""
    before = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(before)
