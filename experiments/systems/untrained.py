"""A size of the paper of which no trained weights are at hand: it costs what it costs, and makes nothing."""

from collections.abc import Sequence
from pathlib import Path

from datamodules.errors import InputError
from experiments.jobs import Options
from experiments.planning.subject import Subject
from experiments.prompts import Prompt
from experiments.systems.contract import Made
from experiments.systems.sizes import size_subject


class Size:
    """A layer of size/.

    Args:
        name: in reports.
        source: the layer.
    """

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source
        self.missing = "no trained weights in runs/SIZE-*/model; train them (make train-SIZE), or give NAME=FOLDER"

    def clips(self, prompts: Sequence[Prompt], out: Path, options: Options, device: str) -> Made:
        """Refused.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.name}: {self.missing}")

    def checksum(self) -> str:
        """Nothing that could change."""
        return "untrained"

    def subject(self) -> Subject:
        """The size in the paper's recipe."""
        return size_subject(self.source)
