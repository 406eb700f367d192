"""Real clips that have nothing to do with the prompts: how near the same kind of music comes to the references."""

import shutil
from dataclasses import replace
from pathlib import Path

from datamodules.errors import InputError
from datamodules.manifest import FILE_NAME, Manifest, write_manifest

_AUDIO = "audio"


def lend_ids(clips: Manifest, references: Manifest, folder: Path) -> int:
    """Copies clips under ids and captions of references, so that ``mgl evaluate`` pairs them.

    Args:
        clips: of other tracks.
        references: in whose place they stand, as many as there are clips.
        folder: for the copies and their manifest; made if it is missing.

    Returns:
        How many there are.

    Raises:
        InputError: a clip is cut from a track of the references.
    """
    tracks = {str(track.facts.get("track") or track.id) for track in references}
    (folder / _AUDIO).mkdir(parents=True, exist_ok=True)
    made = []
    for number, (clip, reference) in enumerate(zip(clips, references, strict=False)):
        if (track := str(clip.facts.get("track") or clip.id)) in tracks:
            raise InputError(f"{clips.path}: {track} is a track of the references, too; give clips of another split")
        path = folder / _AUDIO / f"{number:06d}{clip.path.suffix}"
        shutil.copyfile(clip.path, path)
        made.append(replace(clip, id=reference.id, path=path, caption=reference.caption))
    write_manifest(folder / FILE_NAME, made)
    return len(made)
