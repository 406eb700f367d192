"""Command lines of plain functions, through jsonargparse."""

import inspect
import re
from collections.abc import Callable
from typing import Any, NoReturn, get_origin

from jsonargparse import ArgumentParser

from datamodules.errors import InputError


def call(function: Callable[..., Any], name: str, arguments: list[str]) -> None:
    """Calls a command's function with what the command line says.

    Parameters are flags; a required one that is a list or a whole number stands bare on the command line, as in ``mgl
    compare a.json b.json`` and ``mgl show-sample 7``, and so do positional-only ones, as in ``mgl convert FROM TO``. A
    parameter that is ``str | list[str]`` is a flag that may be given several times.
    """

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            raise InputError(f"{message} (`mgl {name} --help` explains)") from ex

    parser = Parser(prog=f"mgl {name}", description=(inspect.getdoc(function) or "").partition("Args:")[0])
    bare: set[str | int] = set()
    ordered = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            parser.add_argument(parameter.name, type=parameter.annotation, help=_explained(function, parameter.name))
            bare.add(parameter.name)
            ordered.append(parameter.name)
            continue
        if parameter.annotation == str | list[str]:
            # jsonargparse would keep the last of several without a word.
            text, required = _explained(function, parameter.name), parameter.default is parameter.empty
            parser.add_argument(f"--{parameter.name}", action="append", required=required, default=[], help=text)
            bare.add(parameter.name)
        elif parameter.default is not parameter.empty:
            continue
        elif get_origin(parameter.annotation) is list:
            parser.add_argument(parameter.name, nargs="+", help="one or more")
            bare.add(parameter.name)
        elif parameter.annotation is int:
            parser.add_argument(parameter.name, type=int, help="a whole number")
            bare.add(parameter.name)
    parser.add_function_arguments(function, skip=bare, as_group=False)
    given = parser.parse_args(arguments).as_dict()
    function(*[given.pop(name) for name in ordered], **given)


def _explained(function: Callable[..., Any], name: str) -> str:
    """What a docstring says of a parameter."""
    found = re.search(rf"^ +{name}: (.*(?:\n {{8,}}.*)*)", inspect.getdoc(function) or "", re.MULTILINE)
    return " ".join(found[1].split()) if found else ""
