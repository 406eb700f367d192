"""Several results.json side by side: only under one protocol, and with paired differences."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from evaluation.tables import RECALLS, computed, recall_key
from evaluation.uncertainty import FEWEST_FOR_INTERVAL, Interval, jackknife_difference, paired_difference

# These may differ between systems: they say how much was measured and with what, not how.
_MAY_DIFFER = (
    "n", "failed", "tracks", "repeated", "seed", "seconds", "versions", "reference.manifest", "name", "source",
)  # fmt: skip
# Of all clips together: nothing can be said of a part of them.
_OF_SETS = {"fad", "kad"}
_AMONG_ALL = {recall_key(direction, k) for direction in ("audio_to_text", "text_to_audio") for k in RECALLS}
_REQUIRED = ("system", "protocol", "n", "failed", "metrics", "context", "clips")


@dataclass(frozen=True)
class Results:
    """One results.json.

    Attributes:
        path: the file; the paths of its clips are relative to its folder.
        data: what it holds.
    """

    path: Path
    data: dict[str, Any]

    @property
    def name(self) -> str:
        """The system's name."""
        return str(self.data["system"]["name"])

    @property
    def clips(self) -> dict[str, dict[str, Any]]:
        """The clips by id."""
        return {clip["id"]: clip for clip in self.data["clips"]}

    def audio(self, clip: Mapping[str, Any], side: str) -> Path:
        """Path of a clip's ``"generated"`` or ``"reference"`` file."""
        return self.path.parent / clip[side]


def read_results(paths: Sequence[str | Path]) -> list[Results]:
    """Reads results and checks that they may stand in one table.

    Raises:
        InputError: no files, a file that is missing or not results.json, protocols that differ, or two systems of one
            name.
    """
    if not paths:
        raise InputError("nothing to compare; give at least one results.json")
    results = [_read(Path(path)) for path in paths]
    for other in results[1:]:
        check_protocols(results[0], other)
    names = [one.name for one in results]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two systems are called {name!r}; set another name in one system.json and evaluate again")
    return results


def _read(path: Path) -> Results:
    if not path.is_file():
        raise InputError(f"{path}: there is no such results file; write one with `mgl evaluate`")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON; write it again with `mgl evaluate`") from error
    missing = [name for name in _REQUIRED if not isinstance(data, dict) or name not in data]
    if missing:
        raise InputError(f"{path}: not a results.json, {', '.join(missing)} missing; write it with `mgl evaluate`")
    return Results(path.resolve(), data)


def check_protocols(first: Results, second: Results) -> None:
    """Refuses two results whose numbers do not measure the same thing, naming the first difference.

    What counts is what a protocol says, not its name: a copy under another name is the same.

    Raises:
        InputError: something differs that a number depends on.
    """
    ours, theirs = dict(leaves(first.data["protocol"])), dict(leaves(second.data["protocol"]))
    for key in sorted(ours.keys() | theirs.keys()):
        same = ours.get(key) == theirs.get(key)
        if same or key in _MAY_DIFFER or key.split(".")[0] in _MAY_DIFFER or key.endswith(".source"):
            continue
        raise InputError(
            f"{first.path} and {second.path} have different protocols{_named(first, second)}: {key} is "
            f"{ours.get(key)!r} and {theirs.get(key)!r}; evaluate both the same way or compare them apart"
        )


def _named(*results: Results) -> str:
    names = [str(one.data["protocol"].get("name")) for one in results]
    return f" ({' and '.join(names)})" if len(set(names)) > 1 else ""


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What stands in a protocol, mappings within mappings unfolded: ("judges.fad.name", "vggish"), ..."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@dataclass(frozen=True)
class Difference:
    """How two systems differ in one metric, on the clips that both have.

    Attributes:
        metric: key of the metric.
        first: name of the first system.
        second: name of the second.
        difference: first minus second; None where ``reason`` says why not.
        n: clips that both have.
        reason: why there is no difference.
    """

    metric: str
    first: str
    second: str
    difference: Interval | None
    n: int
    reason: str = ""

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.difference is not None and (self.difference.low > 0 or self.difference.high < 0)


def differences(results: Sequence[Results], seed: int = 0) -> list[Difference]:
    """Every later system against the first one, metric by metric."""
    metrics = computed([one.data for one in results])
    return [_difference(other, results[0], metric.key, seed) for other in results[1:] for metric in metrics]


def _difference(one: Results, base: Results, metric: str, seed: int) -> Difference:
    def none(reason: str, n: int = 0) -> Difference:
        return Difference(metric, one.name, base.name, None, n, reason)

    ours, theirs = one.clips, base.clips
    if metric in _OF_SETS | _AMONG_ALL and ours.keys() != theirs.keys():
        return none("needs the same clips")
    if metric in _OF_SETS:
        return _set_difference(one, base, metric)
    names = [
        name
        for name in sorted(ours.keys() & theirs.keys())
        if ours[name].get(metric) is not None and theirs[name].get(metric) is not None
    ]
    tracks = [ours[name].get("track", name) for name in names]
    if len(set(tracks)) < FEWEST_FOR_INTERVAL:
        return none(f"fewer than {FEWEST_FOR_INTERVAL} tracks in common", len(names))
    votes = [[side[name].get("votes", {}).get(metric, 1.0) for name in names] for side in (ours, theirs)]
    if votes[0] != votes[1]:
        return none("the systems' clips last differently long", len(names))
    first, second = ([side[name][metric] for name in names] for side in (ours, theirs))
    found = paired_difference(first, second, tracks, weights=votes[0], seed=seed)
    return Difference(metric, one.name, base.name, found, len(names))


def _set_difference(one: Results, base: Results, metric: str) -> Difference:
    scores = [side.data["metrics"].get(metric) or {} for side in (one, base)]
    if one.data["protocol"]["seed"] != base.data["protocol"]["seed"]:
        return Difference(metric, one.name, base.name, None, 0, "needs the same seed")
    if any("without" not in score for score in scores):
        return Difference(metric, one.name, base.name, None, 0, "too few tracks")
    intervals = [Interval(score["value"], score["low"], score["high"]) for score in scores]
    found = jackknife_difference(intervals[0], scores[0]["without"], intervals[1], scores[1]["without"])
    return Difference(metric, one.name, base.name, found, one.data["n"])
