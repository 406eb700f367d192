"""Getting the packages: from a folder of .deb files, or through apt-get, which downloads and installs nothing."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import InputError
from datamodules.recordings.debs import unpack, unpacked
from datamodules.recordings.packages import Package

NEEDS = (
    "the recordings come from Debian packages: this needs Debian or Ubuntu (apt-get and dpkg-deb), or --debs FOLDER "
    "with the packages' .deb files"
)


@dataclass(frozen=True)
class _Offer:
    """Where a package can be had: a file, or the name that apt knows it by; and its size in bytes."""

    package: Package
    name: str
    size: int
    deb: Path | None = None


def fetch(
    packages: Sequence[Package], folder: Path, debs: Path | None = None, say: Callable[[str], None] = print
) -> list[str]:
    """Fetches packages and unpacks their music; those that are there already are left as they are.

    A run that was broken off at any moment is taken up by repeating it: a package is there whole or not at all.

    Args:
        packages: which.
        folder: gets a folder for each, see ``debs.unpack``.
        debs: folder of .deb files, which are used first and stay as they are; what it lacks is fetched through apt-get
            where there is one.
        say: is given a line for each package.

    Returns:
        What went wrong, a line for each package that this release has and that could not be had. One that no source
        knows is only said.

    Raises:
        InputError: there is neither apt-get nor a .deb to read, apt-get knows no package, or the disk has no room.
    """
    if debs is not None and not debs.is_dir():
        raise InputError(f"--debs {debs}: there is no such folder; give one that holds .deb files")
    missing = []
    for package in packages:
        found = unpacked(package, folder)
        if found is None:
            missing.append(package)
        else:
            say(f"{found.name} {found.version}: is there")
    if not missing:
        return []
    offers = _offers(missing, debs, some_are_there=len(missing) < len(packages), say=say)
    _check_room(offers, folder)
    failed = []
    for offer in offers:
        try:
            say(_get(offer, folder))
        except InputError as error:
            failed.append(f"{offer.name}: {error}")
            say(failed[-1])
    return failed


def _offers(
    packages: Sequence[Package], debs: Path | None, some_are_there: bool, say: Callable[[str], None]
) -> list[_Offer]:
    """Where each package can be had; the others are said."""
    has_apt = all(shutil.which(program) for program in ("apt-get", "dpkg-deb"))
    if not has_apt and debs is None:
        raise InputError(NEEDS)
    offers, lacking = [], []
    for package in packages:
        offer = _in_folder(package, debs) or (_from_apt(package) if has_apt else None)
        if offer is None:
            lacking.append(package)
        else:
            offers.append(offer)
    if not offers and not some_are_there:
        if not has_apt:
            raise InputError(f"--debs {debs}: holds none of the packages' .deb files; {NEEDS}")
        raise InputError(
            "apt-get knows none of the packages: run `apt-get update` first, with Debian's main or Ubuntu's universe "
            "among its sources"
        )
    why = "neither --debs nor this release has it" if debs else "this release does not have it"
    for package in lacking:
        say(f"{' or '.join(package.names)}: {why if has_apt else 'not in --debs, and there is no apt-get'}; left out")
    return offers


def _in_folder(package: Package, debs: Path | None) -> _Offer | None:
    """The newest .deb file of a package, by the order of its names and then of its versions."""
    for name in package.names if debs is not None else ():
        assert debs is not None
        files = sorted(debs.glob(f"{name}_*.deb"))
        if files:
            return _Offer(package, name, files[-1].stat().st_size, files[-1])
    return None


def _from_apt(package: Package) -> _Offer | None:
    """What apt-get would download, as its answer says: 'URL' FILE SIZE HASH."""
    for name in package.names:
        answer = _apt_get("--print-uris", "download", name)
        if answer.returncode == 0 and answer.stdout.strip():
            return _Offer(package, name, int(answer.stdout.split()[2]))
    return None


def _check_room(offers: Sequence[_Offer], folder: Path) -> None:
    """Room for all music, and for the one package that is on its way."""
    music = sum(offer.package.megabytes for offer in offers) * 10**6
    passing = max((offer.size for offer in offers if offer.deb is None), default=0)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < music + passing:
        raise InputError(
            f"{folder}: {free / 1e9:.1f} GB are free and {(music + passing) / 1e9:.1f} GB are wanted; "
            "free some, give another --out, or name fewer --packages"
        )


def _get(offer: _Offer, folder: Path) -> str:
    """Fetches and unpacks one package; returns a line about it."""
    deb, download = offer.deb, folder / f"{offer.name}.download"
    try:
        if deb is None:
            deb = _download(offer, download)
        found = unpack(deb, offer.package, folder)
    except OSError as error:
        raise InputError(f"{error.strerror or error}; run the command again to go on from here") from error
    finally:
        shutil.rmtree(download, ignore_errors=True)
    pieces = sum(path.is_file() for path in found.files.rglob("*"))
    how = "unpacked" if offer.deb else "fetched and unpacked"
    return f"{found.name} {found.version}: {how} {pieces} audio files out of {offer.size / 1e6:.0f} MB"


def _download(offer: _Offer, into: Path) -> Path:
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    answer = _apt_get("-o", "Acquire::Retries=3", "download", offer.name, cwd=into)
    files = sorted(into.glob("*.deb"))
    if answer.returncode or not files:
        said = [line for line in answer.stderr.splitlines() if line.startswith("E:")] or answer.stderr.splitlines()
        raise InputError(f"apt-get could not download it ({said[-1] if said else 'it does not say why'})")
    return files[0]


def _apt_get(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    # In English, whatever the user's language is.
    return subprocess.run(
        ["apt-get", "-q", *arguments], cwd=cwd, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    )
