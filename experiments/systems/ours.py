"""Model folders of this suite."""

from collections.abc import Sequence
from pathlib import Path

from experiments.console import pick_device
from experiments.jobs import Options, generate_clips
from experiments.planning.subject import Subject
from experiments.prompts import Prompt
from experiments.systems.contract import Made, write_record
from experiments.systems.sizes import folder_subject
from lightning_modules.checkpoints import describe, load_model


class ModelFolder:
    """A language model's folder, or "embedded".

    Args:
        name: in reports.
        source: the folder.

    Raises:
        InputError: no such folder, or not a language model's.
    """

    missing = ""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source
        self._described = describe(source)

    def clips(self, prompts: Sequence[Prompt], out: Path, options: Options, device: str) -> Made:
        """Generates them in this process, by a job of ``mgl generate``."""
        model = load_model(self.source, pick_device(device), alone=True)
        generate_clips(model, list(prompts), out, options, self.source, resume=True)
        made = Made(len(prompts), len(prompts))
        write_record(out, self, made)
        return made

    def checksum(self) -> str:
        """Of its weights."""
        return self._described.checksum

    def subject(self) -> Subject:
        """Its shape in the paper's recipe."""
        return folder_subject(self._described)
