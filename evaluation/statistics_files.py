"""A reference's statistics in a file: mean and covariance of its embeddings, and what they are of.

Two forms, both .npz without pickles: ours, which says which judge heard what, and that of fadtk (``fma_pop.npz`` in its
wheel), which holds ``MODEL.mu`` and ``MODEL.cov`` for each of its models and nothing else.

Shape letters: D dimensions of an embedding.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from datamodules.errors import InputError
from datamodules.whole_files import write_whole
from evaluation.fad import Matrix
from evaluation.judges.contract import Judge

_FORMAT = 1
_PROVENANCE: dict[str, type | tuple[type, ...]] = {
    "judge": str,
    "source": str,
    "checksum": str,
    "count": int,
    "sample_rate": int,
    "window": (int, float),
}


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """The Gaussian of a reference set, and where it comes from.

    Attributes:
        mean: [D], float64.
        covariance: [D, D], float64, unbiased.
        judge: name of the judge that embedded the set.
        source: what the set was: a manifest and its checksum, or a file of fadtk's and its checksum.
        checksum: sha256 of the judge's weights; None where the file does not tell, as fadtk's do not.
        count: number of embeddings; None where the file does not tell.
        sample_rate: in Hz, of what the judge heard; None where the file does not tell.
        window: seconds of one embedding; None where the file does not tell.
    """

    mean: Matrix
    covariance: Matrix
    judge: str
    source: str
    checksum: str | None = None
    count: int | None = None
    sample_rate: int | None = None
    window: float | None = None

    def record(self, given: str) -> dict[str, Any]:
        """What results.json says of them; ``given`` is how ``find_statistics`` was asked."""
        return {
            "source": given,
            "sha256": _digest(_file_and_model(given)[0]),
            "of": self.source,
            "judge": self.judge,
            "count": self.count,
        }

    def __post_init__(self) -> None:
        dim = self.mean.size
        if self.mean.shape != (dim,) or self.covariance.shape != (dim, dim) or not dim:
            raise InputError(
                f"statistics are a mean [D] and a covariance [D, D], not {self.mean.shape} and {self.covariance.shape}"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise InputError("statistics must be finite; compute them anew")
        slack = 1e-6 * float(np.abs(self.covariance).max())
        if np.abs(self.covariance - self.covariance.T).max() > slack or self.covariance.diagonal().min() < -slack:
            raise InputError("a covariance is symmetric, with variances of at least 0; compute the statistics anew")


def write_statistics(path: str | Path, mean: Matrix, covariance: Matrix, count: int, judge: Judge, source: str) -> None:
    """Writes statistics in our own form, whole or not at all.

    Args:
        path: the .npz file.
        mean: [D].
        covariance: [D, D], unbiased.
        count: number of embeddings.
        judge: what embedded them.
        source: what they are of, in words that somebody else can follow: a manifest's name and checksum.

    Raises:
        InputError: shapes that do not fit, values that are not finite, or a full disk.
    """
    known = ReferenceStatistics(
        np.asarray(mean, dtype=np.float64),
        np.asarray(covariance, dtype=np.float64),
        judge.name,
        source,
        judge.checksum,
        count,
        judge.sample_rate,
        judge.window,
    )
    about = json.dumps({"format": _FORMAT} | {name: getattr(known, name) for name in _PROVENANCE}, ensure_ascii=False)
    arrays: dict[str, Any] = {"mean": known.mean, "cov": known.covariance, "about": np.array(about)}
    write_whole(Path(path), lambda file: np.savez(file, **arrays))


def find_statistics(given: str, judge: Judge, dim: int) -> ReferenceStatistics:
    """Statistics as a user names them, which fit a judge.

    Args:
        given: FILE.npz of ``write_statistics``, or FILE.npz:MODEL of fadtk's form.
        judge: whose embeddings are held against them.
        dim: D of those embeddings.

    Raises:
        InputError: as ``read_statistics`` and ``read_fadtk_statistics``, another kind of network in a file of fadtk's
            (which names no weights), or another number of dimensions.
    """
    path, model = _file_and_model(given)
    found = read_fadtk_statistics(path, model) if model else read_statistics(path, judge)
    kind = judge.name.partition(":")[0]
    if model and model.partition("-")[0] != kind:
        raise InputError(f"{path}: {model} is no {kind}, the judge of FAD; name a judge of its kind with --judge")
    if found.mean.size != dim:
        raise InputError(
            f"{path}: its embeddings have {found.mean.size} dimensions, those of judge {judge.name} {dim}; it is of "
            "another network"
        )
    return found


def _file_and_model(given: str) -> tuple[Path, str]:
    file, colon, model = given.rpartition(".npz:")
    return (Path(f"{file}.npz"), model) if colon else (Path(given), "")


def read_statistics(path: str | Path, judge: Judge) -> ReferenceStatistics:
    """Reads a file of ``write_statistics``.

    Args:
        path: the .npz file.
        judge: whose statistics are wanted.

    Raises:
        InputError: no such file, a damaged or foreign one, or one that another judge, or the same with other weights,
            rate or window, has heard.
    """
    with _opened(path) as file:
        if not {"mean", "cov", "about"} <= set(file.files):
            models = _models(file)
            hint = f"it is fadtk's, with {', '.join(models)}" if models else "write it with write_statistics"
            raise InputError(f"{path}: no statistics of this suite; {hint}")
        about = json.loads(str(file["about"]))
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            raise InputError(f"{path}: its format is not {_FORMAT}; it was written by another version of this suite")
        wrong = [name for name, kind in _PROVENANCE.items() if not isinstance(about.get(name), kind)]
        if wrong:
            raise InputError(f"{path}: it does not say its {wrong[0]}; write it anew")
        if about["judge"] != judge.name:
            raise InputError(
                f"{path}: statistics of judge {about['judge']!r}, not of {judge.name!r}: their embeddings do not "
                f"compare; evaluate with {about['judge']!r}, or give statistics of {judge.name!r}"
            )
        for name in ("checksum", "sample_rate", "window"):
            if about[name] != getattr(judge, name):
                raise InputError(
                    f"{path}: {name} of judge {judge.name!r} was {about[name]} there and is {getattr(judge, name)} "
                    "here; compute the statistics anew with this one"
                )
        return ReferenceStatistics(file["mean"], file["cov"], **{name: about[name] for name in _PROVENANCE})


def read_fadtk_statistics(path: str | Path, model: str) -> ReferenceStatistics:
    """Reads fadtk's form (Gui et al., 2024): ``fma_pop.npz`` is the statistics of popular tracks of FMA.

    The file does not tell number, rate, window or weights, and a name of fadtk's is none of a judge here: whoever
    compares with these statistics has to make embeddings as fadtk makes them.

    Args:
        path: the .npz file.
        model: name of fadtk's, such as ``vggish`` or ``clap-laion-music``.

    Raises:
        InputError: no such file, a damaged one, or one without this model, whose names it lists.
    """
    path = Path(path)
    with _opened(path) as file:
        models = _models(file)
        if model not in models:
            raise InputError(f"{path}: no statistics of model {model!r}; it has {', '.join(models) or 'none of any'}")
        mean, covariance = (file[f"{model}.{name}"].astype(np.float64) for name in ("mu", "cov"))
        source = f"fadtk {path.name}, sha256 {_digest(path)}"
        return ReferenceStatistics(mean, covariance, model, source)


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _models(file: NpzFile) -> list[str]:
    return [name.removesuffix(".mu") for name in file.files if f"{name.removesuffix('.mu')}.cov" in file.files]


@contextmanager
def _opened(path: str | Path) -> Iterator[NpzFile]:
    """An .npz file; whatever is wrong with it becomes an ``InputError`` that names it."""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, NpzFile):
            raise InputError(f"{path}: one array, not an .npz file of statistics")
        with file:
            yield file
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file of statistics") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged, or no .npz file of statistics; fetch or write it anew") from error
