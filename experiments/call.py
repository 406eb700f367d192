"""Command lines of plain functions, through jsonargparse."""

import inspect
from collections.abc import Callable
from typing import Any, NoReturn, get_origin

from jsonargparse import ArgumentParser

from datamodules.errors import InputError


def call(function: Callable[..., Any], name: str, arguments: list[str]) -> None:
    """Calls a command's function with what the command line says.

    Parameters are flags; a required one that is a list stands bare on the command line, as in ``mgl compare a.json
    b.json``.
    """

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            raise InputError(f"{message} (`mgl {name} --help` explains)") from ex

    parser = Parser(prog=f"mgl {name}", description=(inspect.getdoc(function) or "").partition("Args:")[0])
    bare = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and get_origin(parameter.annotation) is list
    ]
    for parameter in bare:
        parser.add_argument(parameter, nargs="+", help="one or more")
    parser.add_function_arguments(function, skip=set(bare), as_group=False)
    function(**parser.parse_args(arguments).as_dict())
