"""The Hugging Face hub: whether it can be asked, what is fetched from it, and none of the noise."""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from safetensors import SafetensorError

from datamodules.errors import InputError

_TIMEOUT_SECONDS = 3.0
_T = TypeVar("_T")


class IncompleteError(OSError):
    """Files that are there, but not all of them: another place may have the whole."""


def hub_reachable() -> bool:
    """False in offline mode (HF_HUB_OFFLINE) and where the hub's host does not answer; a proxy is trusted.

    It is found out in seconds: huggingface_hub retries for half a minute where there is no network, and once more for
    every file.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "0") not in ("", "0"):
        return False
    if getproxies().get("https"):
        return True
    url = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((url.hostname or "", url.port or 443), timeout=_TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True


def fetch(name: str, patterns: Sequence[str]) -> Path:
    """The folder of a model of the hub, fetched, or as it lies in the cache where the hub cannot be asked.

    Args:
        name: such as "facebook/encodec_32khz".
        patterns: which of its files.

    Raises:
        InputError: there is no such model, or it is neither in the cache nor can it be fetched.
    """
    from huggingface_hub import snapshot_download

    online = hub_reachable()
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), local_files_only=not online))
    except Exception as error:  # its own, those of its HTTP client, and of the disk: no common ancestor
        if online:
            raise InputError(f"{name}: not to be had from the Hugging Face hub ({_first_line(error)})") from error
        raise InputError(
            f"{name}: there is no such file or folder, the Hugging Face hub cannot be asked, and its cache has no such "
            "model; give a local folder, or the same command once where there is a network (HF_HOME is the cache)"
        ) from error


def local_first(load: Callable[[str, bool], _T], name: str, what: str, otherwise: str) -> _T:
    """What ``load(name, local_files_only)`` gives, from the hub only where the machine has not got it.

    Args:
        load: loads it with transformers; an ``InputError`` of its own goes on to the caller.
        name: a folder, or a name of the hub.
        what: what it is, for the errors.
        otherwise: what else can be done where it cannot be fetched.

    Raises:
        InputError: it is not there and cannot be fetched, or a folder's files are damaged or not all there.
    """
    try:
        with quiet_transformers():
            try:
                return load(name, True)
            except (OSError, ValueError, SafetensorError) as error:
                if isinstance(error, InputError) or Path(name).is_dir() or not hub_reachable():
                    raise
                return load(name, False)
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        found = f" (found: {error})" if isinstance(error, IncompleteError) else ""
        if Path(name).is_dir():
            raise InputError(f"{what} {name}: files are missing or damaged{found}; fetch it again") from error
        raise InputError(
            f"{what} {name} is not on this machine{found} and cannot be fetched; run `make weights` where there is a "
            f"network (HF_HOME is the cache), or {otherwise}"
        ) from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' progress bars, which flash by for a model of a few megabytes."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
