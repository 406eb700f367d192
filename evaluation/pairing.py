"""Which generated clip belongs to which reference: by id, never by the order of files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from datamodules.manifest import Track, manifest_path, read_manifest

SYSTEM_FILE = "system.json"


@dataclass(frozen=True)
class Pair:
    """A generated clip and the recording that its prompt describes.

    Attributes:
        id: their common id.
        caption: the prompt; the reference's caption where the prompt is empty.
        generated: audio file of the generated clip.
        reference: audio file of the reference.
        track: the recording that the reference was cut from. Clips of one track are not independent of each other.
    """

    id: str
    caption: str
    generated: Path
    reference: Path
    track: str


@dataclass(frozen=True)
class Pairing:
    """What pairs and what does not.

    Attributes:
        pairs: in the order of their ids.
        only_generated: ids without a reference.
        only_reference: ids that the system has not generated.
    """

    pairs: list[Pair]
    only_generated: list[str]
    only_reference: list[str]


def pair_clips(generated: str | Path, reference: str | Path) -> Pairing:
    """Pairs the lines of two manifests by id.

    Args:
        generated: folder with the manifest of ``mgl generate``, or that manifest.
        reference: manifest of the recordings, or a folder that holds one.

    Raises:
        InputError: a manifest is missing or broken, or not one id is in both.
    """
    made = {track.id: track for track in read_manifest(generated)}
    real = {track.id: track for track in read_manifest(reference)}
    common = sorted(made.keys() & real.keys())
    if not common:
        raise InputError(
            f"no id is both in {manifest_path(generated)} ({len(made)} clips, such as {min(made)!r}) and in "
            f"{manifest_path(reference)} ({len(real)}, such as {min(real)!r}); generate with the references' ids"
        )
    return Pairing(
        [_pair(made[name], real[name]) for name in common],
        sorted(made.keys() - real.keys()),
        sorted(real.keys() - made.keys()),
    )


def _pair(made: Track, real: Track) -> Pair:
    caption = made.caption.strip() or real.caption.strip()
    return Pair(made.id, caption, made.path, real.path, str(real.facts.get("track") or real.id))


def read_system(generated: str | Path) -> Mapping[str, Any]:
    """What ``system.json`` beside the generated clips says of the system; its folder's name where there is none.

    Raises:
        InputError: the file is no JSON object.
    """
    folder = manifest_path(generated).resolve().parent
    path = folder / SYSTEM_FILE
    if not path.is_file():
        return {"name": folder.name}
    try:
        system = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON; generate again or remove it") from error
    if not isinstance(system, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(system).__name__}")
    return {"name": folder.name, **system}
