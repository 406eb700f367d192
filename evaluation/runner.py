"""Evaluates a folder of generated clips against references, and writes results.json."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.errors import InputError
from evaluation.heard import HeardBefore
from evaluation.judges.panel import name_judges, resolve_panel
from evaluation.listening import BATCH, HeardPair, Listener
from evaluation.pairing import Pair, pair_clips, read_system
from evaluation.protocol import Protocol, load_protocol
from evaluation.record import protocol_record
from evaluation.scores import score_pairs
from evaluation.statistics_files import ReferenceStatistics, find_statistics
from evaluation.together import choose_devices, hear_together

FORMAT = 2


def evaluate(
    generated: str | Path,
    reference: str | Path,
    judge: str | Path | Mapping[str, str] | None = None,
    out: str | Path = "results.json",
    seed: int = 0,
    *,
    protocol: str | Path = "default",
    reference_statistics: str | None = None,
    device: str | None = None,
    devices: int = 1,
) -> dict[str, Any]:
    """Scores generated clips with every metric of a protocol, each with an interval.

    Clips are paired with their references by id. Clips that cannot be heard are listed with the reason and leave the
    scores. What a judge has heard before is not heard again (``evaluation.heard``).

    Args:
        generated: folder with the ``manifest.jsonl`` of ``mgl generate``, and perhaps ``system.json``.
        reference: manifest of the references, or a folder that holds one.
        judge: takes the place of the protocol's judges: one for all metrics, or one each for some of fad, kld and
            clap; see ``resolve_judge``.
        out: results.json, written whole or not at all.
        seed: of everything random.
        protocol: name of one of the package's, or a .yaml file; see ``evaluation.protocol``.
        reference_statistics: a file of ``evaluation.statistics_files`` that FAD is taken to in the place of the
            references: FILE.npz of ours, or FILE.npz:MODEL of fadtk's.
        device: where the judges run; a GPU if there is one by default.
        devices: how many of them listen, a process each, with the same results; 0 is every visible GPU.

    Returns:
        What results.json holds.

    Raises:
        InputError: nothing pairs, no such protocol or judge, one that does not give what its metric needs, statistics
            of another judge, not one pair could be heard, or a process that listened died.
    """
    out, asked = Path(out), load_protocol(protocol)
    pairing = pair_clips(generated, reference)
    system = read_system(generated)
    places = choose_devices(device, devices)
    panel = resolve_panel(name_judges(judge, asked.judges), places[0])
    listener = Listener(panel, asked.choices, seed=seed, device=places[0], before=HeardBefore.from_environment())
    statistics = _statistics(reference_statistics, asked, listener) if reference_statistics else None
    heard, failed = _listen(listener, pairing.pairs, places)
    if not heard:
        raise InputError(f"none of {len(pairing.pairs)} pairs could be heard; the first: {failed[0]['reason']}")
    failed += [{"id": name, "reason": "no reference has this id"} for name in pairing.only_generated]
    metrics, context, values = score_pairs(heard, asked, seed, statistics)
    results = {
        "format": FORMAT,
        "system": dict(system),
        "protocol": protocol_record(asked, listener, reference, heard, len(failed), seed)
        | {"statistics": None if statistics is None else statistics.record(str(reference_statistics))},
        "n": len(heard),
        "failed": failed,
        "not_generated": len(pairing.only_reference),
        "metrics": metrics,
        "context": context,
        "clips": [
            {
                "id": one.pair.id,
                "track": one.pair.track,
                "caption": one.pair.caption,
                "generated": _relative(one.pair.generated, out),
                "reference": _relative(one.pair.reference, out),
                "seconds": round(one.generated.seconds, 3),
                **numbers,
            }
            for one, numbers in zip(heard, values, strict=True)
        ],
    }
    write_json(out, results)
    return results


def _statistics(given: str, protocol: Protocol, listener: Listener) -> ReferenceStatistics:
    """Statistics that fit the judge of FAD, found out before anything is heard."""
    judge = listener.panel.judges.get("fad")
    if judge is None:
        raise InputError(f"{given}: the protocol {protocol.name} leaves FAD out; leave the statistics out, too")
    return find_statistics(given, judge, listener.fad_dimensions())


def _listen(
    listener: Listener, pairs: Sequence[Pair], devices: Sequence[str]
) -> tuple[list[HeardPair], list[dict[str, str]]]:
    heard: list[HeardPair] = []
    failed: list[dict[str, str]] = []
    columns = TextColumn("Listening"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        together = len(devices) > 1 and len(pairs) > BATCH
        task = progress.add_task("", total=len(pairs))
        if together:
            sources, seed, before = listener.panel.sources, listener.seed, listener.before
            for done in hear_together(devices, sources, listener.choices, seed, before, pairs):
                progress.advance(task, done)
        # After several processes this only gathers what they heard, and hears what the cache has lost since.
        for some, broken in listener.listen(pairs):
            heard += some
            failed += broken
            progress.advance(task, 0 if together else len(some) + len(broken))
    return heard, failed


def _relative(path: Path, out: Path) -> str:
    try:
        return Path(os.path.relpath(path, out.resolve().parent)).as_posix()
    except ValueError:  # another drive
        return path.as_posix()


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON, whole or not at all; refuses NaN, which is not JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)
