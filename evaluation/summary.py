"""One or two sentences that say what the numbers say, and no more."""

from collections.abc import Sequence

from evaluation.compare import Difference, Results
from evaluation.tables import METRICS, number


def summary_sentence(systems: Sequence[Results], found: Sequence[Difference]) -> str:
    """What came out: for one system its scores, for several which differences are clear.

    A difference counts where its 95 % interval leaves zero out.
    """
    said = _alone(systems[0]) if len(systems) == 1 else _against(systems, found)
    return f"{said} {_at_chance(systems)}".strip()


def _at_chance(systems: Sequence[Results]) -> str:
    """Names the metrics in which no system is above good music that ignores the prompt."""
    chance = systems[0].data["context"].get("shuffled") or {}
    names = []
    for metric in METRICS:
        level = (chance.get(metric.key) or {}).get("value")
        lows = [(one.data["metrics"].get(metric.key) or {}).get("low") for one in systems]
        if metric.better == "higher" and level is not None and all(low is not None and low <= level for low in lows):
            names.append(metric.name)
    who = "it is" if len(systems) == 1 else "no system is"
    no = "not " if len(systems) == 1 else ""
    return f"In {_join(names)} {who} {no}clearly above chance (references of other prompts)." if names else ""


def _alone(one: Results) -> str:
    scores = one.data["metrics"]
    said = []
    for metric in METRICS:
        score = scores.get(metric.key) or {}
        if score.get("value") is not None:
            bounds = f" ({number(score['low'])} to {number(score['high'])})" if score.get("low") is not None else ""
            said.append(f"{metric.name} {number(score['value'])}{bounds}")
    clips = _count(one.data["n"], "prompt")
    return f"On {clips}, {one.name} scores {_join(said)}." if said else f"On {clips}, {one.name} could not be scored."


def _against(systems: Sequence[Results], found: Sequence[Difference]) -> str:
    better = {metric.key: metric.better for metric in METRICS}
    names = {metric.key: metric.name for metric in METRICS}
    parts = []
    for other in systems[1:]:
        mine = [one for one in found if one.first == other.name]
        won = [names[one.metric] for one in mine if _is_better(one, better[one.metric])]
        lost = [names[one.metric] for one in mine if one.clear and not _is_better(one, better[one.metric])]
        even = [names[one.metric] for one in mine if one.difference is not None and not one.clear]
        said = [f"is better in {_join(won)}"] if won else []
        said += [f"worse in {_join(lost)}"] if won and lost else [f"is worse in {_join(lost)}"] if lost else []
        said += (
            [f"no clear difference in {_join(even)}" if said else f"shows no clear difference in {_join(even)}"]
            if even
            else []
        )
        parts.append(f"{other.name} {', '.join(said)}" if said else f"{other.name} cannot be set against it")
    numbers = [one.data["n"] for one in systems]
    fewer = f"{min(numbers)} to " * (min(numbers) < max(numbers))
    against = f"On {fewer}{_count(max(numbers), 'prompt')}, against {systems[0].name}"
    return f"{against}: {'; '.join(parts)} (95 % intervals of paired differences)."


def _is_better(one: Difference, better: str) -> bool:
    return one.clear and one.difference is not None and (one.difference.value < 0) == (better == "lower")


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _count(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
