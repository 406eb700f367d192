"""What a cluster is like: ``site.yaml`` in the working folder, or the user's own; it belongs to no repository."""

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import InputError
from experiments.planning.gpus import find_gpu
from experiments.planning.here import Here

FILE = "site.yaml"
_EXAMPLE = "gpus_per_node: 8 and gpu: h100, say (docs/training.md has an example)"


@dataclass(frozen=True)
class Site:
    """A site's settings, with the names that they have in the file.

    Attributes:
        gpus_per_node: how many GPUs a node has; a task is started for each.
        gpu: their kind, a key of ``mgl plan --gpu``: batches are dealt to their memory. Empty: not known.
        cpus_per_task: cores for each of them.
        time: limit of a job, after which it is queued again and goes on.
        account: whom to bill.
        partition: where to queue.
        container: command that runs another in the container, such as "apptainer exec --nv image.sif".
        python: the interpreter, in the container where there is one.
        modules: of ``module load``.
        options: further ones of sbatch, such as "--qos=long".
        lines: further ones of the script, before the run is started: exports, activations.
        warning: seconds before the limit at which a run is told.
    """

    gpus_per_node: int
    gpu: str = ""
    cpus_per_task: int = 8
    time: str = "24:00:00"
    account: str = ""
    partition: str = ""
    container: str = ""
    python: str = ""
    modules: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    warning: int = 180

    @property
    def here(self) -> Here:
        """A node of it, as if this process ran there."""
        if not self.gpu:
            return Here(self.gpus_per_node)
        kind = find_gpu(self.gpu)
        # Planning looks kinds up by the names that drivers give them.
        return Here(self.gpus_per_node, kind.pattern.split("|")[0].replace(".*", " "), kind.memory)

    @property
    def interpreter(self) -> str:
        """The Python that jobs run."""
        return self.python or ("python" if self.container else sys.executable)


def read_site(folders: tuple[Path, ...] | None = None) -> Site:
    """Reads the first ``site.yaml`` of these folders: the working folder, then ``~/.config/musicgen-lightning``.

    Raises:
        InputError: there is none, or something in it is not a site's setting.
    """
    folders = folders or (Path(), Path.home() / ".config" / "musicgen-lightning")
    path = next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)
    if path is None:
        raise InputError(f"jobs need to know the cluster: write {FILE} here or into {folders[-1]}, with {_EXAMPLE}")
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(said, dict) or "gpus_per_node" not in said:
        raise InputError(f"{path}: has no gpus_per_node; give {_EXAMPLE}")
    types = {one.name: one.type for one in fields(Site)}
    for name, value in said.items():
        _require_type(path, name, value, types)
    site = Site(**said)
    if site.gpus_per_node < 1 or site.cpus_per_task < 1 or site.warning < 1:
        raise InputError(f"{path}: gpus_per_node, cpus_per_task and warning must be at least 1")
    site.here  # noqa: B018 an unknown kind is said here
    return site


def _require_type(path: Path, name: str, value: Any, types: dict[str, Any]) -> None:
    if name not in types:
        raise InputError(f"{path}: there is no setting {name!r}; the settings are {', '.join(types)}")
    wanted = {int: "a whole number", str: "a text in quotes"}.get(types[name], "a list of texts")
    good = isinstance(value, types[name]) if types[name] in (int, str) else isinstance(value, list)
    if not good or (isinstance(value, list) and not all(isinstance(one, str) for one in value)):
        raise InputError(f"{path}: {name} is {value!r}; give {wanted}")
