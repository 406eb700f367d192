"""What a text-to-music model is to reach, and what it reaches."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from evaluation.tables import number

_FAMILIES, _DRUMS, _FAD_SHARE, _MELODY_SHARE, _SECONDS = 0.5, 0.8, 1 / 3, 0.5, 20.0


class Aim(NamedTuple):
    """One aim: what, the bound in words, the figure in words, and whether it is met by the figure itself."""

    name: str
    wanted: str
    reached: str
    met: bool


def aims(results: Mapping[str, Any]) -> Iterator[Aim]:
    """Holds the results of the card's stages against its aims.

    Args:
        results: by stage, as ``experiments.models.card.read_results`` gives them.
    """
    followed = results["prompts text"]["followed"]
    families, with_drums, without = (followed.get(kind, {}).get("value") for kind in ("families", "drums", "no drums"))
    met = families is not None and families >= _FAMILIES
    yield Aim("instrument families, F1", f"at least {number(_FAMILIES)}", number(families), met)
    # Noise passes for drums: who always plays them must not pass for one who plays them on request.
    met = all(value is not None and value >= _DRUMS for value in (with_drums, without))
    reached = f"{number(with_drums)} and {number(without)}"
    yield Aim("drums where asked for, and none where not", f"at least {number(_DRUMS)} each", reached, met)
    yield _fad(results)
    if "prompts melody" in results:
        yield _melody(results)
    yield _memorised(results["memorisation"])
    spent = results["time"]
    yield Aim(
        f"seconds for {spent['duration']:g} s, as a command",
        f"at most {_SECONDS:g}",
        f"{spent['cold']:.1f}",
        spent["cold"] <= _SECONDS,
    )


def _fad(results: Mapping[str, Any]) -> Aim:
    made, untrained = (results[f"evaluate {name}"]["metrics"]["fad"]["value"] for name in ("text", "untrained"))
    most = None if untrained is None else _FAD_SHARE * untrained
    met = made is not None and most is not None and made < most
    return Aim("FAD", f"under {number(most)}, a third of the untrained model's", number(made), met)


def _melody(results: Mapping[str, Any]) -> Aim:
    """Half of the way from other prompts' melodies to what the codec leaves of the melody itself."""
    own, coded = results["prompts melody"], results["prompts coded"]
    value, chance = own["followed"]["melody"]["value"], own["chance"]["melody"]["value"]
    best = coded["followed"]["melody"]["value"]
    if value is None or chance is None or best is None:
        return Aim("melody, cosine of chroma", "no melody sounds", number(None), False)
    least = chance + _MELODY_SHARE * (best - chance)
    wanted = f"at least {number(least)}, half-way from {number(chance)} (chance) to {number(best)} (codec)"
    return Aim("melody, cosine of chroma", wanted, number(value), value >= least)


def _memorised(found: Mapping[str, Any]) -> Aim:
    """Exact continuations: no more than the held-out tracks' upper bound."""
    train, held = (found["sides"][name]["exact"] for name in ("train", found["split"]))
    wanted = f"no more than held-out ones: {number(held['value'])}, at most {number(held['high'])}"
    met = train["value"] <= held["high"]
    return Aim("training tracks continued exactly, share", wanted, number(train["value"]), met)
