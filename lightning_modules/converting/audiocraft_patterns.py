"""Codebook patterns as audiocraft's configs say them, and as ``lightning_modules.lm.patterns`` calls them."""

from typing import Any

from datamodules.errors import InputError
from lightning_modules.converting.audiocraft_files import HydraConfig
from lightning_modules.lm.patterns import build_pattern

_DELAYS = ("delay", "partial_delay", "stereo_partial_delay", "parallel")
_FLATTENED = ("flatten", "partial_flatten")


def pattern_name(config: HydraConfig, codebooks: Any) -> str:
    """Our name of the pattern of a language model.

    Args:
        config: the model's.
        codebooks: K, as the config has it; a number that is none is refused elsewhere.

    Raises:
        InputError: a pattern that we have not.
    """
    if not isinstance(codebooks, int) or not 1 <= codebooks <= 1024:
        return "delay"
    modeling = config.get("codebooks_pattern.modeling", None)
    # The first releases had the pattern's name elsewhere, and delays of one step each.
    old = config.get("transformer_lm.q_modeling", None) if modeling is None else None
    name = old or modeling or "parallel"
    section = f"codebooks_pattern.{name}."
    if name == "parallel":
        return "parallel"
    in_turn = list(range(codebooks))
    if name == "delay":
        _zero(config, f"{section}flatten_first", f"{section}empty_initial")
        return _delay(in_turn if old else config.get(f"{section}delays", None) or in_turn, codebooks)
    delays = config.get(f"{section}delays", None) or [0]
    if name == "unroll" and not any(delays):
        flattening = config.get(f"{section}flattening", None) or in_turn
        for ours in _FLATTENED:
            if flattening == list(build_pattern(ours, codebooks).offsets):
                return ours
        raise InputError(f"{config.where}: {section}flattening is {flattening!r}, which is not converted")
    if name in ("coarse_first", "valle") and not any(delays):
        return "coarse_first"
    told = f"with {section}delays {delays!r} " if name in ("unroll", "coarse_first", "valle") else ""
    raise InputError(f"{config.where}: the pattern {name!r} {told}is not converted")


def _delay(delays: Any, codebooks: int) -> str:
    """The pattern of these delays, by a name of its own if it has one."""
    for name in _DELAYS:
        if name.startswith("stereo") and codebooks % 2:
            continue
        if delays == list(build_pattern(name, codebooks).offsets):
            return name
    return "delay:" + (",".join(map(str, delays)) if isinstance(delays, list) else str(delays))


def _zero(config: HydraConfig, *names: str) -> None:
    for name in names:
        if found := config.get(name, 0):
            raise InputError(f"{config.where}: {name} is {found!r}; only 0 is converted")
