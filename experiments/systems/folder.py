"""Clips that something else has made: a plain folder of audio files, matched to prompts by their names."""

import hashlib
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from datamodules.audio_io import audio_length
from datamodules.errors import InputError
from datamodules.manifest import FILE_NAME, Track, read_manifest
from experiments.jobs import Options
from experiments.planning.subject import Subject
from experiments.prompts import Prompt
from experiments.systems.contract import Made, write_clips_manifest, write_record

_AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"}


class PlainFolder:
    """A folder of audio files, or one with a manifest, whose ids are then taken for the files' names.

    A file belongs to the prompt whose id it is called after, or else whose caption, letters and digits alone counting.

    Args:
        name: in reports.
        source: the folder.

    Raises:
        InputError: there is no such folder, or no audio in it.
    """

    missing = ""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, f"folder:{source}"
        self._folder = Path(source)
        if not self._folder.is_dir():
            raise InputError(f"{source}: there is no such folder of clips")
        self._files = _named_files(self._folder)
        if not self._files:
            raise InputError(f"{source}: no audio files in it ({', '.join(sorted(_AUDIO))})")

    def clips(self, prompts: Sequence[Prompt], out: Path, options: Options, device: str) -> Made:
        """Copies the files that belong to a prompt; the others, and what is no audio, it lists.

        Raises:
            InputError: two files belong to one prompt, or none to any.
        """
        found, unmatched = match_files(self._files, prompts)
        if not found:
            raise InputError(
                f"{self._folder}: not one of {len(self._files)} files (such as {unmatched[0]!r}) is called after a "
                f"prompt; name them after ids, such as {prompts[0].id!r}, or captions"
            )
        tracks, unreadable = [], []
        for prompt in prompts:
            file = found.get(prompt.id)
            if file is None:
                continue
            try:
                samples, rate = audio_length(file)
            except InputError:
                unreadable.append(file.relative_to(self._folder).as_posix())
                continue
            copy = out / f"{prompt.id}{file.suffix.lower()}"
            if file.resolve() != copy.resolve():
                shutil.copyfile(file, copy)
            tracks.append(Track(prompt.id, copy, samples / rate, rate, prompt.caption))
        write_clips_manifest(out, tracks)
        made = Made(len(prompts), len(tracks), tuple(unmatched), tuple(unreadable))
        write_record(out, self, made)
        return made

    def checksum(self) -> str:
        """Of the files' names, sizes and dates."""
        return listing_checksum(self._folder, self._files.values())

    def subject(self) -> Subject | None:
        """Nothing is known of it."""
        return None


def match_files(files: dict[str, Path], prompts: Sequence[Prompt]) -> tuple[dict[str, Path], list[str]]:
    """Which file belongs to which prompt.

    Args:
        files: by their names, without suffix and relative to their folder.
        prompts: to be matched.

    Returns:
        Prompt's id -> file, and the names that match none, in their order.

    Raises:
        InputError: two files belong to one prompt, or a file to several.
    """
    by_id = {prompt.id: prompt.id for prompt in prompts}
    plain: dict[str, list[str]] = {}
    for prompt in prompts:
        for key in {_plain(prompt.id), _plain(prompt.caption)} - {""}:
            plain.setdefault(key, []).append(prompt.id)
    found: dict[str, Path] = {}
    unmatched = []
    for name, file in sorted(files.items()):
        own = [by_id[name]] if name in by_id else plain.get(_plain(Path(name).name), [])
        if len(own) > 1:
            raise InputError(f"{file}: several prompts are called so ({', '.join(own[:3])}); name it after an id")
        if not own:
            unmatched.append(name)
        elif own[0] in found:
            raise InputError(f"{found[own[0]]} and {file} both belong to prompt {own[0]!r}; leave one")
        else:
            found[own[0]] = file
    return found, unmatched


def listing_checksum(folder: Path, files: Iterable[Path]) -> str:
    """sha256 over names, sizes and dates of files."""
    digest = hashlib.sha256()
    for file in sorted(files):
        facts = file.stat()
        digest.update(f"{file.relative_to(folder)}\n{facts.st_size}\n{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _named_files(folder: Path) -> dict[str, Path]:
    if (folder / FILE_NAME).is_file():
        return {track.id: track.path for track in read_manifest(folder)}
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _AUDIO and path.is_file()]
    named: dict[str, Path] = {}
    for path in files:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in named:
            raise InputError(f"{named[name]} and {path} are of one name; leave one")
        named[name] = path
    return named


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()
