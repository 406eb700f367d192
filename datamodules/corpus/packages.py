"""Where the packages lie that the corpus is made with, and which versions they are."""

from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from datamodules.errors import InputError

DEFAULT_SOUNDFONT = "TimGM6mb.sf2"


def package_folder(name: str) -> Path:
    """The folder of an installed package, found without importing it.

    Raises:
        InputError: it is not installed.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise InputError(f"the embedded corpus needs {name}, which is not installed; run `make setup`")
    return Path(spec.origin).parent


def soundfont_path(given: str | Path | None) -> Path:
    """The SoundFont to play with: ``given``, or the one that pretty_midi ships.

    Raises:
        InputError: no such file, no SoundFont, or pretty_midi is not installed.
    """
    if given is None:
        return package_folder("pretty_midi") / DEFAULT_SOUNDFONT
    path = Path(given)
    if not path.is_file():
        raise InputError(f"--soundfont {path}: there is no such file; give an .sf2 or .sf3 file, or leave it out")
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"sfbk":
        raise InputError(f"--soundfont {path}: is not a SoundFont; give an .sf2 or .sf3 file, or leave it out")
    return path


def recipe(soundfont: Path, revision: int) -> str:
    """A short name for everything but the seed that decides how a piece sounds.

    Args:
        soundfont: the file played with; its content counts, not its place.
        revision: number of the rendering code.
    """
    for name in ("music21", "tinysoundfont"):
        package_folder(name)
    parts = [str(revision), version("music21"), version("tinysoundfont"), sha256(soundfont.read_bytes()).hexdigest()]
    return sha256("/".join(parts).encode()).hexdigest()[:12]
