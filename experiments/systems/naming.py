"""From a word of the command line to a system: ``[NAME=]WHAT``."""

import re
from pathlib import Path

from datamodules.errors import InputError
from experiments.systems.contract import System
from experiments.systems.folder import PlainFolder
from experiments.systems.ours import ModelFolder
from experiments.systems.sizes import newest_run, size_names
from experiments.systems.untrained import Size
from lightning_modules.codec.folder import EMBEDDED
from lightning_modules.converting.huggingface_files import HUB_NAME

_NAME = re.compile(r"[\w][\w .@-]*")
_RUNS = Path("runs")


def find_systems(words: list[str]) -> list[System]:
    """The systems that these words name.

    Raises:
        InputError: a word names none, or two are called the same.
    """
    systems = [find_system(word) for word in words]
    names = [system.name for system in systems]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two systems are called {name!r}; give names of your own, as in a=FOLDER b=FOLDER")
    return systems


def find_system(word: str) -> System:
    """A system.

    Args:
        word: a model folder, "embedded", a size (whose newest run's model is taken), ``hf:`` and a folder or name of
            the hub, ``diffusers:`` and the same, or ``folder:`` and a folder of clips; a name before it and ``=`` is
            how it is to be called.

    Raises:
        InputError: there is no such thing, or it cannot be called so.
    """
    given, _, what = word.rpartition("=")
    if not what.strip() or ("=" in word and not _NAME.fullmatch(given)):
        raise InputError(f"{word!r}: give NAME=WHAT or WHAT, NAME of letters, digits, space, '.', '@', '_' and '-'")
    kind, colon, rest = what.partition(":")
    if colon and kind == "folder":
        return PlainFolder(given or _plain(Path(rest).resolve().name), rest)
    if colon and kind == "hf":
        return _peer(given, rest)
    if colon and kind == "diffusers":
        return _pipeline(given, rest)
    if what in size_names():
        model = newest_run(what, _RUNS)
        return ModelFolder(given or what, str(model)) if model else Size(given or what, what)
    path = Path(what)
    if what == EMBEDDED or (path / "config.yaml").is_file():
        own = path.resolve()
        named = own.parent.name if own.name == "model" else own.name  # which says nothing
        return ModelFolder(given or (what if what == EMBEDDED else _plain(named)), what)
    if (path / "config.json").is_file() or (not path.exists() and HUB_NAME.fullmatch(what)):
        return _peer(given, what)
    if (path / "model_index.json").is_file():
        return _pipeline(given, what)
    raise InputError(
        f"{what}: no system; give a model folder, {EMBEDDED}, a size ({', '.join(size_names())}), hf:FOLDER_OR_NAME of "
        "transformers, diffusers:FOLDER_OR_NAME of diffusers, or folder:FOLDER of clips"
    )


def _peer(given: str, source: str) -> System:
    from experiments.systems.huggingface import HuggingFaceMusicGen

    return HuggingFaceMusicGen(given or _plain(f"{Path(source).name}@transformers"), source)


def _pipeline(given: str, source: str) -> System:
    from experiments.systems.diffusers_audio import DiffusersAudio, split_steps

    return DiffusersAudio(given or _plain(f"{Path(split_steps(source)[0]).name}@diffusers"), source)


def _plain(name: str) -> str:
    """A file's name as a system can be called."""
    return re.sub(r"[^\w .@-]", "-", name).lstrip(" .@-") or "system"
