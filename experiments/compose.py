"""Layered configs: where a layer lies, and in which order layers go."""

from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import InputError

CONFIGS = Path(__file__).parent / "configs"


def resolve_layers(arguments: list[str]) -> list[str]:
    """The same command line with every ``-c NAME`` made a path: an existing file, or a layer of experiments/configs.

    Raises:
        InputError: neither.
    """
    resolved: list[str] = []
    take_next = False
    for argument in arguments:
        if take_next:
            resolved.append(str(layer_path(argument)))
        elif argument.startswith("--config="):
            resolved.append(f"--config={layer_path(argument.removeprefix('--config='))}")
        else:
            resolved.append(argument)
        take_next = not take_next and argument in ("-c", "--config")
    return resolved


def layer_path(name: str) -> Path:
    """The file of a layer: ``name`` itself, or ``experiments/configs/NAME.yaml``."""
    if Path(name).is_file():
        try:
            Path(name).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{name}: not a YAML file: it is no UTF-8 text") from error
        return Path(name)
    path = (CONFIGS / f"{name}.yaml").resolve()
    if path.is_relative_to(CONFIGS) and path.is_file():
        return path
    raise InputError(f"there is no config {name!r}; the layers are {', '.join(layers())}, or give a YAML file")


def layers() -> list[str]:
    """The names of all layers."""
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))


def merged(names: list[str]) -> dict[str, Any]:
    """What these layers say together; later ones win, mappings are merged."""
    result: dict[str, Any] = {}
    for name in names:
        _merge(result, yaml.safe_load(layer_path(name).read_text(encoding="utf-8")) or {})
    return result


def overridden(recipe: dict[str, Any], arguments: list[str]) -> dict[str, Any]:
    """A recipe with what further arguments of ``mgl fit`` say: ``-c layer``, ``--a.b value`` or ``--a.b=value``."""
    result: dict[str, Any] = {}
    _merge(result, recipe)
    flag = ""
    for argument in arguments:
        if flag:
            _set(result, flag, argument)
            flag = ""
        elif argument.startswith("-") and "=" in argument:
            _set(result, *argument.split("=", 1))
        elif argument.startswith("-"):
            flag = argument
    return result


def _set(recipe: dict[str, Any], flag: str, value: str) -> None:
    if flag in ("-c", "--config"):
        _merge(recipe, merged([value]))
        return
    said: Any = yaml.safe_load(value)
    for key in reversed(flag.lstrip("-").split(".")):
        said = {key: said}
    _merge(recipe, said)


def _merge(base: dict[str, Any], layer: dict[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict):
            below = base.get(key)
            base[key] = dict(below) if isinstance(below, dict) else {}
            _merge(base[key], value)
        else:
            base[key] = value


def language_model_layers(size: str, pattern: str, conditioning: str, cluster: str) -> list[str]:
    """The layers of a language-model run in their one order; later ones win."""
    chosen = [
        f"size/{size}",
        f"pattern/{pattern}",
        f"conditioning/{conditioning}",
        "captions/paper",
        f"cluster/{cluster}",
    ]
    return ["lm", *chosen]
