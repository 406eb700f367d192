"""Weights that others publish as single files: where they lie, what they should be, and how they are fetched.

They lie where torch.hub keeps its files (TORCH_HOME), under the names that other tools give them, so what is there
already is used. Judges only read; ``make weights`` alone asks the network.
"""

import hashlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.features.pickles import read_pickle

_TIMEOUT_SECONDS = 10.0
_SHA256_DIGITS = 64
_REASON = 160  # characters of a reason that may be a list of every tensor


@dataclass(frozen=True)
class Published:
    """One file of weights.

    Attributes:
        name: what ``make weights ARGS="--only NAME"`` calls it.
        file: its name on disk.
        url: where it is published.
        sha256: its checksum in hex, or the first digits where no more is known: then what is fetched first is pinned
            in a file FILE.sha256 beside it.
    """

    name: str
    file: str
    url: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where it lies, fetched or not."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file


# The first digits are in the file's name, as torch.hub writes them.
VGGISH = Published(
    "vggish",
    "vggish-10086976.pth",
    "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
    "10086976",
)
PASST = Published(
    "passt",
    "passt-s-f128-p16-s10-ap.476-swa.pt",
    "https://github.com/kkoutini/PaSST/releases/download/v0.0.1-audioset/passt-s-f128-p16-s10-ap.476-swa.pt",
    "302903fa8c4aee817b11dc982da0b29aaf8d11a3e722420476d0a12c9db70c2c",
)
PASST_20S = Published(
    "passt-20s",
    "passt-s-f128-20sec-p16-s10-ap.474-swa.pt",
    "https://github.com/kkoutini/PaSST/releases/download/v0.0.5/passt-s-f128-20sec-p16-s10-ap.474-swa.pt",
    "",
)
PANN = Published(
    "pann",
    "Cnn14_16k_mAP=0.438.pth",
    "https://zenodo.org/records/3987831/files/Cnn14_16k_mAP%3D0.438.pth?download=1",
    "e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6",
)
LAION_CLAP = Published(
    "laion_clap",
    "music_audioset_epoch_15_esc_90.14.pt",
    "https://huggingface.co/lukewys/laion_clap/resolve/main/music_audioset_epoch_15_esc_90.14.pt",
    "fae3e9c087f2909c28a09dc31c8dfcdacbc42ba44c70e972b58c1bd1caf6dedd",
)


def find_published(published: Published, path: str | Path | None = None) -> tuple[Path, str]:
    """Where a file is, and its sha256.

    Args:
        published: the file.
        path: weights of one's own of the same kind; checked only where a file PATH.sha256 lies beside them.

    Raises:
        InputError: it is not there, or is another one than was published.
    """
    found = published.path if path is None else Path(path)
    if not found.is_file():
        remedy = f'run `make weights ARGS="--only {published.name}"` where there is a network'
        if path is None:
            raise InputError(f"{found}: is not on this machine; {remedy} (TORCH_HOME says where it lies)")
        raise InputError(f"{found}: there is no such file; {remedy}, and leave the path out")
    return found, _check(found, published.sha256 if path is None else "")


def fetch_published(published: Published) -> Path:
    """Fetches a file unless it is there, and checks it either way.

    Raises:
        InputError: it cannot be fetched, or another one than was published came.
    """
    path = published.path
    if not path.is_file():
        if any(os.environ.get(name, "0") not in ("", "0") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")):
            raise InputError(f"{path}: is not on this machine, and HF_HUB_OFFLINE says not to ask; unset it to fetch")
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(published, path)
    checksum = _check(path, published.sha256)
    pin = _pin(path)
    if len(published.sha256) < _SHA256_DIGITS and not pin.is_file():
        pin.write_text(f"{checksum}  {path.name}\n", encoding="utf-8")
    return path


def read_state(path: Path, allowed: Sequence[Any] = (), key: str | None = None) -> dict[str, Tensor]:
    """The tensors of a state dict, in float32, read without running what the file says.

    Args:
        path: a file of ``torch.save``.
        allowed: as for ``datamodules.features.pickles.read_pickle``.
        key: where in the file's dict the state dict is; None where the file is one.

    Raises:
        InputError: a damaged file, or no state dict.
    """
    content = read_pickle(path, allowed)
    state = content.get(key) if key is not None and isinstance(content, dict) else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no state dict; give the file as it was published")
    # A copy: the file's own tensors are a view of the disk.
    return {
        str(name): value.to(torch.float32, copy=True) if value.is_floating_point() else value.clone()
        for name, value in state.items()
    }


@contextmanager
def fitting(file: Path, published: Published) -> Iterator[None]:
    """What goes wrong within is the file's fault: it holds tensors, but not those of this network."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [""]
        reason = f"it has no {error}" if isinstance(error, KeyError) else lines[-1].strip()[:_REASON]
        raise InputError(f"{file}: not the weights of {published.name}, such as {published.file} ({reason})") from error


def _download(published: Published, path: Path) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)  # torch.hub sets none, and would wait for a silent host
    try:
        torch.hub.download_url_to_file(published.url, str(path), hash_prefix=published.sha256)
    except (OSError, HTTPException, RuntimeError) as error:  # the last: of another checksum
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{published.url}: cannot be fetched ({reason}); try again, or put it at {path}") from error
    finally:
        socket.setdefaulttimeout(before)


def _check(path: Path, published: str) -> str:
    """The file's sha256, if it begins as published and is the one pinned beside it."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    pin = _pin(path)
    pinned = pin.read_text(encoding="utf-8").split()[:1] if pin.is_file() else []
    for wanted in (published, *pinned):
        if not found.startswith(wanted):
            raise InputError(
                f"{path}: is damaged or another file (sha256 {found[:12]}..., not {wanted[:12]}...); delete it and run "
                "`make weights`"
            )
    return found


def _pin(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
