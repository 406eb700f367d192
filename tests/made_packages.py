"""Debian packages of a few pieces, built byte by byte."""

import io
import tarfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from datamodules.recordings import choose

ZAZ = choose(["zaz-data"])[0]
STK = choose(["supertuxkart-data"])[0]
ZEROAD = choose(["0ad-data"])[0]
WESNOTH = choose(["wesnoth-1.16-music"])[0]
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Source: https://example.org/game

Files: *
Copyright: 2001 A
           2002 B
License: GPL-2+

Files: data/mus1.ogg data/mus?.ogg
Copyright: 2005-2007, Ann Author <ann@example.org>
License: CC-BY-SA-3.0
 The text of the licence
 .
 Files: of no stanza

Files: data/mus3.ogg
Copyright: Carl
License: CC-BY-NC-3.0

Files: data/mus4.ogg
Copyright: Dora
License: of-my-own
"""


@lru_cache
def ogg(seconds: float = 21.0, pitch: float = 220.0, **tags: str) -> bytes:
    file = io.BytesIO()
    file.name = "x.ogg"
    wav = 0.3 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * 8000)) / 8000)
    with soundfile.SoundFile(file, "w", samplerate=8000, channels=1, format="OGG", subtype="VORBIS") as out:
        for name, value in tags.items():
            setattr(out, name, value)
        out.write(wav)
    return file.getvalue()


def tar_of(files: dict[str, bytes], mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def write_deb(path: Path, files: dict[str, bytes] | bytes, compression: str = "xz") -> Path:
    """A .deb of these files, or of a tar that is made already."""
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": tar_of({"./control": b"Package: x\n"}, "w:gz"),
        f"data.tar.{compression}": files if isinstance(files, bytes) else tar_of(files, f"w:{compression}"),
        "_gpgorigin": b"a signature of somebody's",
    }
    data = b"!<arch>\n"
    for name, part in parts.items():
        data += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(part):<10}`\n".encode() + part + b"\n" * (len(part) % 2)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def zaz_files(copyright_text: str = COPYRIGHT) -> dict[str, bytes]:
    root = "./usr/share/games/zaz/"
    return {
        root + "mus1.ogg": ogg(title="The Title", artist="The Artist", comment="Licensed under CC-BY-SA 2.0"),
        root + "mus2.ogg": ogg(pitch=330),
        root + "mus3.ogg": ogg(pitch=440),
        root + "mus4.ogg": ogg(pitch=550),
        root + "mus5.ogg": ogg(seconds=2.0),
        root + "mus6.ogg": b"no audio at all",
        root + "pling.ogg": ogg(seconds=1.0),
        root + "level.bin": b"0",
        "./usr/share/doc/zaz-data/copyright": copyright_text.encode(),
        "./usr/share/doc/zaz-data/changelog.gz": b"0",
    }


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
