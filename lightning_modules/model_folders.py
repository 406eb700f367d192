"""Folders of a config and weights: ``config.yaml`` beside ``model.safetensors``; nothing is pickled."""

import hashlib
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from datamodules.errors import InputError

CONFIG = "config.yaml"
WEIGHTS = "model.safetensors"
_Config = TypeVar("_Config")


def write_folder(folder: str | Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Writes weights and config; the config comes last, so that a folder with a config is a whole folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in state.items()}
    save_file(tensors, folder / (WEIGHTS + ".partial"))
    (folder / (WEIGHTS + ".partial")).chmod(0o644)  # safetensors writes for its owner alone; a team reads a model
    (folder / (WEIGHTS + ".partial")).replace(folder / WEIGHTS)
    partial = folder / (CONFIG + ".partial")
    partial.write_text(yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
    partial.replace(folder / CONFIG)


@contextmanager
def whole_folder(folder: str | Path, last: str, old: Collection[str] = ()) -> Iterator[Path]:
    """A place to write a folder's files, which become that folder's once all are written.

    After an error or an interruption none does, and the folder is what it was.

    Args:
        folder: the folder, which need not be there.
        last: the file that says that the folder is whole: an old one goes first, the new one comes last.
        old: names of what goes from it, written again or not; what is neither named nor written again stays.

    Raises:
        InputError: the folder is a file, or cannot be made.
    """
    folder = Path(folder)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Within it, and so on its disk: moving is renaming.
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{folder}: no folder can be made or written here ({error.strerror})") from error
    try:
        yield partial
        for file in partial.rglob("*"):  # safetensors writes for its owner alone, and a team reads a model
            file.chmod(0o755 if file.is_dir() else 0o644)
        _replace(partial, folder, last, old)
    except BaseException:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_config(folder: str | Path, kind: str) -> dict[str, Any]:
    """The ``config.yaml`` of a model folder of this kind.

    Raises:
        InputError: there is none, or the folder is of another kind.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        if (Path(folder) / "config.json").is_file():
            raise InputError(f"{folder}: a Hugging Face folder; make a model folder of it: mgl convert {folder} OUT")
        raise InputError(f"{folder}: not a model folder ({CONFIG} is missing)")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML") from error
    found = config.get("kind") if isinstance(config, dict) else None
    if found != kind:
        raise InputError(f"{path}: is of kind {found!r}, wanted {kind!r}")
    return dict(config)


def config_section(kind: type[_Config], config: Mapping[str, Any], name: str, folder: str | Path) -> _Config:
    """A section of a config as a dataclass.

    Raises:
        InputError: it is missing, or its fields are not the dataclass's.
    """
    fields = config.get(name)
    if not isinstance(fields, dict):
        raise InputError(f"{Path(folder) / CONFIG}: the section {name!r} is missing or no mapping")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{Path(folder) / CONFIG}: {error}") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: the file is missing, cut short, or something else.
    """
    if not path.is_file():
        raise InputError(f"{path.parent}: {path.name} is missing")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not readable as safetensors ({error})") from error


def load_weights(folder: str | Path, module: nn.Module, state: Mapping[str, Tensor] | None = None) -> None:
    """Loads a folder's weights into a module, all of them and no others; ``state`` is what was read of it, if anything.

    They come in the module's types, whatever they are stored in. A module that was built without memory (on the meta
    device) takes the tensors that were read for its own, which may stay in the file until they are looked at; into
    another they are copied.

    Raises:
        InputError: the file is missing or cut short, or a tensor is missing, unknown or of another shape.
    """
    path = Path(folder) / WEIGHTS
    state = read_safetensors(path) if state is None else state
    wanted = module.state_dict()
    wrong = [f"{name} is missing" for name in wanted if name not in state]
    wrong += [f"{name} is unknown" for name in state if name not in wanted]
    wrong += [
        f"{name} is {list(state[name].shape)}, wanted {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if wrong:
        raise InputError(f"{path}: {len(wrong)} tensors do not fit {CONFIG}: {'; '.join(wrong[:3])}")
    if any(tensor.is_meta for tensor in wanted.values()):
        module.load_state_dict({name: state[name].to(tensor.dtype) for name, tensor in wanted.items()}, assign=True)
        assert not any(buffer.is_meta for buffer in module.buffers()), "a buffer of no file and without values"
    else:
        module.load_state_dict(state)


def file_checksum(path: str | Path) -> str:
    """sha256 of a file, in hexadecimal.

    Raises:
        InputError: there is no such file.
    """
    if not Path(path).is_file():
        raise InputError(f"{Path(path).parent}: {Path(path).name} is missing")
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(partial: Path, folder: Path, last: str, old: Collection[str]) -> None:
    """Moves what is in ``partial`` to ``folder``, what it replaces first aside, and back again if anything fails."""
    names = sorted((file.name for file in partial.iterdir()), key=lambda name: name == last)
    going = sorted({*names, *old}, key=lambda name: name != last)
    aside = Path(tempfile.mkdtemp(prefix=".old-", dir=folder))
    try:
        for name in going:
            if (folder / name).exists():
                (folder / name).replace(aside / name)
        for name in names:
            (partial / name).replace(folder / name)
    except BaseException:
        # Told by what lies where, for an interruption leaves it open what was done last.
        for name in names:
            if not (partial / name).exists():
                (folder / name).replace(partial / name)
        for file in sorted(aside.iterdir(), key=lambda file: file.name == last):
            file.replace(folder / file.name)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _plain(value: Any) -> Any:
    """YAML's safe dumper knows no tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
